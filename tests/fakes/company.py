"""A whole house with a small company in it: three agents, a member who may approve, a viewer, the owner."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deployments.setup import EXAMPLES
from quarterdeck.crew.roster import Roster
from quarterdeck.house import House, open_house
from quarterdeck.kernel.settings import Settings

OWNER, ANNA, VIKTOR = "owners-token-000001", "annas-token-000001", "viktors-token-0001"
AGENTS = ("analyst", "architect", "developer", "reviewer")
NOBODY = 9
"""A port on which nothing listens."""


def settings_of(home: Path, database_url: str) -> Settings:
    """A home of its own, and no Prefect."""
    nobody = f"http://127.0.0.1:{NOBODY}"
    return Settings(
        home=home, database_url=database_url, prefect_port=NOBODY, router_url=nobody, blocks=False
    )


async def move_in(house: House) -> None:
    """Import the company's roster and the shipped pipeline, give the owner a token, open the project ET."""
    people = [
        {"slug": "anna", "may_approve": True, "token_env": "ANNA"},
        {"slug": "viktor", "role": "viewer", "token_env": "VIKTOR"},
    ]
    agents = [{"slug": slug, "parameters": {"program": sys.executable}} for slug in AGENTS]
    roster = Roster.model_validate({"agents": agents, "people": people})
    await house.crew.import_roster(roster, {"ANNA": ANNA, "VIKTOR": VIKTOR})
    await house.crew.set_owner_token(OWNER)
    await house.engine.pipelines.import_from(EXAMPLES / "pipelines", AGENTS)


@asynccontextmanager
async def company(home: Path, database_url: str) -> AsyncIterator[House]:
    """The house, open, with everybody in it."""
    async with open_house(settings_of(home, database_url)) as house:
        await move_in(house)
        yield house


def environment(home: Path, database_url: str) -> dict[str, str]:
    """What a command must be told to find this company."""
    return {
        "PATH": os.environ["PATH"],
        "QUARTERDECK_HOME": str(home),
        "QUARTERDECK_DATABASE_URL": database_url,
        "QUARTERDECK_PREFECT_PORT": str(NOBODY),
        "QUARTERDECK_ROUTER_URL": f"http://127.0.0.1:{NOBODY}",
        "QUARTERDECK_BLOCKS": "off",
    }
