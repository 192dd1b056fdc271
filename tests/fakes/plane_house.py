"""A small company that works from Plane: a house, its fake Plane, and people who are known in both."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from quarterdeck.board.cards import ProjectDraft
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.inbox_model import Delivery
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.rules import AskApproval, Block
from tests.fakes.homes import furnished
from tests.fakes.plane import FakePlane
from tests.fakes.plane_hooks import Hook

OWNER = owner("test")
PIPELINE = """
name: default
stages:
  - {name: analysis, agent: analyst, approval: true}
  - {name: development, agent: developer, gates: [check_ci_green], rounds: 1}
"""


class PlaneCompany:
    """The house and its Plane. anna may approve, vera may only look, a stranger is in no roster."""

    def __init__(self, house: House, plane: FakePlane, anna: str, vera: str) -> None:
        self.house = house
        self.plane = plane
        self.books = plane.books
        self.anna, self.vera = anna, vera
        self.stranger = plane.books.person("stranger")
        self.project = plane.books.project("ORC", "Orchestrator")
        self._handled = 0

    async def open(self, *, everything: bool = False) -> None:
        """Connect Plane, and let the project ET follow ORC."""
        async with self.house.database.command("connect") as unit:
            await self.house.connections.put(unit, "plane", "default", self.plane.connection, Source.API)
        await self.house.board.create_project(OWNER, ProjectDraft(key="ET", name="Enduro"))
        await self.house.mirror.link(OWNER, "ET", "ORC", everything=everything)

    def news(self) -> list[Hook]:
        """What Plane told since the last time."""
        news, self._handled = self.plane.hooks[self._handled :], len(self.plane.hooks)
        return news

    async def hear(self, *hooks: Hook) -> list[str]:
        """Work on deliveries in this order; without any: on what is new. What was done with each."""
        return [await self.house.mirror.handle(delivery(hook)) for hook in hooks or self.news()]

    async def hear_twice_and_shuffled(self, chance: Random) -> None:
        hooks = self.news() * 2
        chance.shuffle(hooks)
        await self.hear(*hooks)

    async def tell(self) -> None:
        """Do in Plane what waits to be done."""
        await self.house.posts.work_off()

    async def ask(self, key: str) -> None:
        """The item's agent is done and asks for approval."""
        work = await self.house.engine.claim(await self.house.engine.current(key))
        await work.record(AskApproval())

    async def block(self, key: str, why: str) -> None:
        work = await self.house.engine.claim(await self.house.engine.current(key))
        await work.record(Block(why, "Mend it, then retry."))

    async def block_after_approval(self, key: str) -> None:
        """The owner approves, and the next stage needs a person."""
        await self.house.engine.decide(key, OWNER, approved=True)
        await self.block(key, "It is hopeless.")

    async def filed(self, name: str = "Fix login") -> tuple[str, str]:
        """An issue of anna's that became an item: its id and the item's key."""
        issue = self.books.file(self.project, self.anna, name)
        [told] = await self.hear()
        return issue, told.removeprefix("Filed ").rstrip(".")

    async def asked(self) -> tuple[str, str]:
        """One that waits for approval."""
        issue, key = await self.filed()
        await self.ask(key)
        return issue, key


def delivery(hook: Hook) -> Delivery:
    """As the inbox hands it out."""
    number = int(hashlib.sha256(hook.body).hexdigest()[:8], 16)
    return Delivery(number, "plane", str(number), hook.about, {}, hook.body, datetime.now(UTC))


@asynccontextmanager
async def plane_company(
    database: Database, home: Path, *, version: int = 1, pipeline: str = PIPELINE
) -> AsyncIterator[PlaneCompany]:
    """The company before `open`."""
    with FakePlane(version=version) as plane:
        anna, vera = plane.books.person("anna"), plane.books.person("vera")
        roster = f"""
agents:
  - {{slug: analyst, parameters: {{program: "true"}}}}
  - {{slug: developer, parameters: {{program: "true"}}}}
people:
  - {{slug: anna, may_approve: true, handles: {{plane: {anna}}}}}
  - {{slug: vera, role: viewer, handles: {{plane: {vera}}}}}
"""
        settings = Settings(home=home, language="en")
        async with furnished(database, settings, pipeline=pipeline, roster=roster) as house:
            yield PlaneCompany(house, plane, anna, vera)
