"""A small company whose code lives in Gitea: a desk, a fake Gitea, and hooks from one to the other."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from sqlmodel import col, select

from quarterdeck.board.cards import Card
from quarterdeck.board.model import State
from quarterdeck.forge.protocol import PullRequestInfo
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.inbox import InboxEntry
from quarterdeck.kernel.journal import Event
from quarterdeck.pipeline.gitea_upkeep import GiteaUpkeep
from quarterdeck.pipeline.rules import POLL
from tests.fakes.clock import ManualClock
from tests.fakes.doors import desk_doors
from tests.fakes.gitea import FakeGitea
from tests.fakes.gitea_state import Repo
from tests.fakes.quiet_desk import OWNER, QuietDesk, Surroundings

REPOSITORY = "gitea:acme/shop"
KEY = "ET-001"
BRANCH = f"item/{KEY}"
NOT_MOVING = (State.DONE, State.BLOCKED, State.WAITING_APPROVAL, State.WAITING_GATE)


class GiteaCompany:
    """A desk, a Gitea, and hooks from one to the other."""

    def __init__(self, desk: QuietDesk, gitea: FakeGitea, repo: Repo, clock: ManualClock) -> None:
        self.desk, self.gitea, self.repo, self.clock = desk, gitea, repo, clock

    async def file(self) -> None:
        """An item, worked on until its development waits for CI."""
        await self.desk.file(REPOSITORY)
        if (await self.settle()).state is State.WAITING_APPROVAL:
            await self.desk.house.engine.decide(KEY, OWNER, approved=True)
        await self.until("development", State.WAITING_GATE)

    async def until(self, stage: str, state: State) -> Card:
        """Work, hear what Gitea says, until nothing moves; the item must stand there then."""
        card = await self.settle()
        assert (card.stage, card.state) == (stage, state), card.move
        return card

    async def settle(self) -> Card:
        for _ in range(100):
            await self.hear()
            card = await self.desk.house.board.item(KEY)
            idle = not await self.desk.house.engine.candidates(1)
            if card.state in NOT_MOVING and idle:
                return card
            self.clock.go(1 if idle else 0.01)  # idle: it was told to pause
            await self.desk.work_once()
        async with self.desk.house.database.read() as session:
            told = (await session.exec(select(Event).order_by(col(Event.id)))).all()
        raise AssertionError([(event.kind, event.data) for event in told])

    async def hear(self) -> None:
        """Take in and work on what has been told."""
        await self.gitea.settled()
        await self.desk.house.deliveries.work_off()

    async def install_hooks(self) -> None:
        """From now on Gitea tells what happens."""
        house = self.desk.house
        upkeep = GiteaUpkeep(house.database, house.connections, house.forge.gitea, house.settings.public_url)
        await upkeep.install_hooks()

    async def pull(self) -> PullRequestInfo:
        found = await self.desk.house.forge.pull_request(REPOSITORY, BRANCH, "main")
        assert found
        return found

    async def outcomes(self) -> list[str]:
        """What came of each delivery that was kept, oldest first."""
        async with self.desk.house.database.read() as session:
            query = select(InboxEntry.outcome).order_by(col(InboxEntry.id))
            return list((await session.exec(query)).all())

    async def woken(self) -> list[str]:
        return [outcome for outcome in await self.outcomes() if "woke" in outcome]

    async def kinds(self) -> Counter[str]:
        async with self.desk.house.database.read() as session:
            return Counter((await session.exec(select(Event.kind).where(col(Event.item_key) == KEY))).all())

    async def wait_for_a_look(self) -> None:
        """So long that every waiting item is looked at, delivery or not."""
        self.clock.go(POLL.total_seconds())


def leave_the_word_to_people(surroundings: Surroundings) -> None:
    """The reviewer says nothing but leaves something lying, and Gitea can tell the desk of it."""
    silent = surroundings.settings.folder / "agents" / "silent"
    silent.write_text("#!/bin/sh\necho junk > junk.txt\necho '{}' > \"$QUARTERDECK_RESULT\"\n")
    silent.chmod(0o755)
    surroundings.parameters("reviewer")["program"] = "agents/silent"
    surroundings.settings = surroundings.settings.model_copy(update={"public_url": "http://desk.test"})


def begin_with_development(surroundings: Surroundings) -> None:
    """Nothing is analysed or drawn before: half the agents, for tests of what comes after."""
    del surroundings.pipeline["stages"][:2]


@asynccontextmanager
async def gitea_company(desk: QuietDesk, folder: Path) -> AsyncIterator[GiteaCompany]:
    """The desk, connected to a Gitea of its own, whose deliveries go through the real door."""
    clock = ManualClock()
    clock.time = desk.house.database.clock.now()
    desk.house.database.clock = clock
    door = httpx.ASGITransport(app=desk_doors(desk.house))
    async with FakeGitea(folder, transport=door) as gitea:
        repo = await gitea.create("acme/shop", {"README.md": "Welcome\n"})
        async with desk.house.database.command("connect") as unit:
            await desk.house.connections.put(unit, "gitea", "default", gitea.connection, Source.API)
        yield GiteaCompany(desk, gitea, repo, clock)
