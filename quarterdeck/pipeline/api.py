"""The pipeline's HTTP routes: what people decide about items. `app.state.engine` is the service."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.board.cards import Card, LongText, Slug
from quarterdeck.crew.cards import RunCard
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.outside import STORABLE
from quarterdeck.kernel.paging import Page
from quarterdeck.kernel.web import Known, RequestKey, problems, room
from quarterdeck.pipeline.retests import Retest, Retests
from quarterdeck.pipeline.service import Engine

router = room("Decisions")


class Opinion(BaseModel):
    """A decision's words. `by` names somebody else and counts only when the owner says it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"comment": "Looks right."}]}
    )

    comment: LongText = ""
    by: Slug | None = None
    approval: UUID | None = Field(
        default=None,
        description="The request that is answered: `move.approval` of the item. 409 if another waits now.",
    )


class Reason(BaseModel):
    """Why something is asked; may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    comment: LongText = Field(default="", description="Why; kept in the journal.")


class Way(Reason):
    """Where an item is put back to."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"stage": "analysis", "comment": "The users changed their minds."}]},
    )

    stage: Slug = Field(description="Its own stage, or one before it.")
    version: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="The version that was read; 412 if it has moved on since.",
    )


class Tested(BaseModel):
    """Whose tests are meant."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"of": "item/ET-007"}]}
    )

    of: Annotated[str, Field(max_length=200), STORABLE] = Field(
        default="", description="A branch, or the whole id of a commit; empty = the default branch."
    )


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def _card(request: Request, key: str) -> Card:
    card: Card = await request.app.state.board.item(key)
    return card


async def _decide(
    engine: Engine, caller: Caller, key: str, opinion: Opinion, request_key: str, *, approved: bool
) -> None:
    await engine.decide(
        key,
        caller,
        approved=approved,
        comment=opinion.comment,
        by=opinion.by,
        asked=opinion.approval,
        request_key=request_key,
    )


TheEngine = Annotated[Engine, Depends(_engine)]


@router.post("/items/{key}/approve", summary="Approve", responses=problems(403, 404, 409))
async def approve(
    request: Request,
    engine: TheEngine,
    caller: Known,
    key: str,
    opinion: Opinion,
    request_key: RequestKey = "",
) -> Card:
    """Say yes to what waits for approval. The first decision wins; a later one is told who decided."""
    await _decide(engine, caller, key, opinion, request_key, approved=True)
    return await _card(request, key)


@router.post("/items/{key}/reject", summary="Reject", responses=problems(403, 404, 409))
async def reject(
    request: Request,
    engine: TheEngine,
    caller: Known,
    key: str,
    opinion: Opinion,
    request_key: RequestKey = "",
) -> Card:
    """Say no; the comment goes back to the agent that asked."""
    await _decide(engine, caller, key, opinion, request_key, approved=False)
    return await _card(request, key)


@router.post("/items/{key}/cancel", summary="Cancel", responses=problems(403, 404, 409))
async def cancel(
    engine: TheEngine, caller: Known, key: str, why: Reason | None = None, request_key: RequestKey = ""
) -> Card:
    """Stop the item; its agent is stopped within seconds. `retry` takes it up again."""
    return await engine.cancel(key, caller, why.comment if why else "", request_key)


@router.post("/items/{key}/retry", summary="Retry", responses=problems(403, 404, 409))
async def retry(
    engine: TheEngine, caller: Known, key: str, why: Reason | None = None, request_key: RequestKey = ""
) -> Card:
    """Another try of a blocked item, with a fresh budget; or a cancelled one taken up again.

    The comment goes to the agent.
    """
    return await engine.retry(key, caller, why.comment if why else "", request_key)


@router.post("/items/{key}/move", summary="Move back", responses=problems(403, 404, 409, 412))
async def move(engine: TheEngine, caller: Known, key: str, way: Way, request_key: RequestKey = "") -> Card:
    """Another round of its stage or of one before it; what goes on is stopped. Forward it goes by gates."""
    return await engine.move(key, caller, way.stage, way.comment, way.version, request_key)


@router.post(
    "/projects/{key}/rerun-tests",
    status_code=202,
    summary="Run a commit's tests again",
    responses=problems(403, 404, 409),
)
async def rerun_tests(
    request: Request, caller: Known, key: str, tested: Tested | None = None, request_key: RequestKey = ""
) -> Retest:
    """For tests that failed without the commit's fault; what waits for the result is looked at then.

    Nothing changes if they wait or run already. 409: they run in Gitea, or the commit names none.
    """
    retests: Retests = request.app.state.retests
    return await retests.begin(caller, key, tested.of if tested else "", request_key)


@router.get("/items/{key}/runs", summary="List the agent runs of a work item", responses=problems(404))
async def list_runs(request: Request, engine: TheEngine, key: str) -> Page[RunCard]:
    """In their order; each says where its log can be read."""
    await _card(request, key)
    return Page(items=await engine.crew.runs_of(key))
