"""Applications that tests knock at: all of the desk's doors; or one room's, and tokens that open them.

Where many tests knock, they knock at one: FastAPI looks at every route anew in each application.
"""

from functools import cache

from fastapi import FastAPI

import quarterdeck.board.api
import quarterdeck.heartbeat.api
import quarterdeck.pipeline.api
from deployments.web import lead_into, make_doors
from quarterdeck.board.service import Board
from quarterdeck.heartbeat.service import Sweeper
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unauthorized
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.web import furnish
from tests.fakes.surroundings import MEMBER, OWNER, VIEWER, SmallCompany

TOKENS = {"owners-token": OWNER, "annas-token": MEMBER, "viktors-token": VIEWER}


class Porter:
    """Knows the people of `TOKENS`."""

    async def who(self, token: str) -> Caller:
        if token not in TOKENS:
            raise Unauthorized("Nobody has this token.", "Ask the owner for one.")
        return TOKENS[token]


def desk_doors(house: House) -> FastAPI:
    """The desk's application; of this house, and no more of the one before."""
    app = _desk()
    lead_into(app, house)
    return app


@cache
def _desk() -> FastAPI:
    return make_doors()


def decisions_behind_doors(house: House) -> FastAPI:
    """The pipeline's routes, with the house's own people."""
    app = FastAPI(redirect_slashes=False)
    app.state.engine, app.state.board, app.state.crew = house.engine, house.board, house.crew
    app.include_router(quarterdeck.pipeline.api.router, prefix="/api/v1")
    furnish(app)
    return app


def heartbeats_behind_doors(sweeper: Sweeper) -> FastAPI:
    """The heartbeats' routes, furnished like every application of the house."""
    app = FastAPI(redirect_slashes=False)
    app.state.sweeper = sweeper
    app.state.crew = Porter()
    app.include_router(quarterdeck.heartbeat.api.router, prefix="/api/v1")
    furnish(app)
    return app


def board_behind_doors(database: Database) -> FastAPI:
    """The board's routes, furnished like every application of the house, and one that breaks."""
    app = _board()
    app.state.board = Board(database, SmallCompany())
    app.state.crew = Porter()
    return app


@cache
def _board() -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    app.include_router(quarterdeck.board.api.router, prefix="/api/v1")

    @app.get("/breaks")
    async def breaks() -> None:
        raise RuntimeError("canary-of-the-inside")

    furnish(app)
    return app
