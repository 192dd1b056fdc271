"""A desk that takes up what waits, one stage after the other, in the test's own loop."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import yaml
from prefect.logging import disable_run_logger

from deployments.setup import EXAMPLES
from flows import stage
from quarterdeck.board.cards import Card, Draft, ProjectDraft
from quarterdeck.board.model import State
from quarterdeck.house import House
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.settings import Settings
from tasks.ci import run_next_ci

OWNER = owner("test")
RESTING = (State.DONE, State.CANCELLED, State.BLOCKED, State.WAITING_APPROVAL)


class QuietDesk:
    """Takes up what waits, one stage after the other, until nothing moves any more."""

    def __init__(self, house: House) -> None:
        self.house = house

    async def file(self, repository: Path | str, **more: object) -> str:
        """An item in a project of its own."""
        draft = ProjectDraft(key="ET", name="Enduro", repository=str(repository))
        await self.house.board.create_project(OWNER, draft)
        wish = {"project": "ET", "title": "Greet the user by name"} | more
        return (await self.house.board.file(OWNER, Draft.model_validate(wish))).key

    async def rest(self, key: str) -> Card:
        """Work until the item rests: done, cancelled, or somebody's move."""
        while (card := await self.house.board.item(key)).state not in RESTING:
            await self.work_once()
        return card

    async def work_once(self) -> None:
        """One stage and one CI run, if there are any to do."""
        for candidate in await self.house.engine.candidates(1):
            work = await self.house.engine.claim(candidate)
            with disable_run_logger():
                await stage.work_on(self.house, work)
        await run_next_ci(self.house)
        await asyncio.sleep(0.01)

    async def approve(self, key: str) -> Card:
        """Say yes, and work until the item rests again."""
        await self.house.engine.decide(key, OWNER, approved=True)
        return await self.rest(key)


class Surroundings:
    """The files of a home before it is opened: change them as the test needs."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        self.crew = yaml.safe_load((EXAMPLES / "crew.yaml").read_text())
        self.pipeline = yaml.safe_load((EXAMPLES / "pipelines" / "default.yaml").read_text())
        shutil.copytree(EXAMPLES / "agents", home / "agents")

    def parameters(self, slug: str) -> dict[str, object]:
        return next(agent["parameters"] for agent in self.crew["agents"] if agent["slug"] == slug)

    def stage(self, name: str) -> dict[str, object]:
        return next(stage for stage in self.pipeline["stages"] if stage["name"] == name)


OpenDesk = Callable[[], Awaitable[QuietDesk]]
"""Opens the house when the test has prepared its surroundings."""
