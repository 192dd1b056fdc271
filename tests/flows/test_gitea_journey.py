"""Items whose code lives in Gitea: real git over HTTP, real deliveries at the real door, a fake Gitea."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from sqlmodel import col, select

from deployments.web import create_app
from quarterdeck.board.cards import Card
from quarterdeck.board.model import State
from quarterdeck.forge.protocol import PullRequestInfo, Verdict
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.inbox import InboxEntry
from quarterdeck.kernel.journal import Event
from quarterdeck.pipeline.gitea_upkeep import GiteaUpkeep
from quarterdeck.pipeline.rules import POLL
from tests.fakes.clock import ManualClock
from tests.fakes.gitea import BOT, STRANGER, TOKEN, FakeGitea
from tests.fakes.gitea_state import Repo
from tests.flows.conftest import OWNER, OpenDesk, QuietDesk, Surroundings

REPOSITORY = "gitea:acme/shop"
KEY = "ET-001"
BRANCH = f"item/{KEY}"
NOT_MOVING = (State.DONE, State.BLOCKED, State.WAITING_APPROVAL, State.WAITING_GATE)


class Company:
    """A desk, a Gitea, and hooks from one to the other."""

    def __init__(self, desk: QuietDesk, gitea: FakeGitea, repo: Repo, clock: ManualClock) -> None:
        self.desk, self.gitea, self.repo, self.clock = desk, gitea, repo, clock

    async def file(self) -> None:
        """An item, worked on until its development waits for CI."""
        await self.desk.file(REPOSITORY)  # type: ignore[arg-type]
        await self.desk.rest(KEY)
        await self.desk.house.engine.decide(KEY, OWNER, approved=True)
        await self.until("development", State.WAITING_GATE)

    async def until(self, stage: str, state: State) -> Card:
        """Work, hear what Gitea says, until nothing moves; the item must stand there then."""
        card = await self.settle()
        assert (card.stage, card.state) == (stage, state), card.move
        return card

    async def settle(self) -> Card:
        for _ in range(100):
            await self.gitea.settled()
            await self.desk.house.deliveries.work_off()
            card = await self.desk.house.board.item(KEY)
            idle = not await self.desk.house.engine.candidates(1)
            if card.state in NOT_MOVING and idle:
                return card
            self.clock.go(1 if idle else 0.01)  # idle: it was told to pause
            await self.desk.work_once()
        async with self.desk.house.database.read() as session:
            told = (await session.exec(select(Event).order_by(col(Event.id)))).all()
        raise AssertionError([(event.kind, event.data) for event in told])

    async def pull(self) -> PullRequestInfo:
        found = await self.desk.house.forge.pull_request(REPOSITORY, BRANCH)
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


OpenCompany = Callable[[], Awaitable[Company]]


@pytest.fixture
async def company(
    surroundings: Surroundings, open_desk: OpenDesk, tmp_path: Path
) -> AsyncIterator[OpenCompany]:
    """Opened when the test has prepared its surroundings; its reviewer leaves the word to people."""
    silent = surroundings.settings.folder / "agents" / "silent"
    silent.write_text("#!/bin/sh\necho '{}' > \"$QUARTERDECK_RESULT\"\n")
    silent.chmod(0o755)
    surroundings.parameters("reviewer")["program"] = "agents/silent"
    surroundings.settings = surroundings.settings.model_copy(update={"public_url": "http://desk.test"})
    async with AsyncExitStack() as stack:

        async def open_it() -> Company:
            desk = await open_desk()
            clock = ManualClock()
            clock.time = desk.house.database.clock.now()
            desk.house.database.clock = clock
            door = httpx.ASGITransport(app=create_app(desk.house))
            gitea = await stack.enter_async_context(FakeGitea(tmp_path / "gitea", transport=door))
            repo = await gitea.create("acme/shop", {"README.md": "Welcome\n"})
            async with desk.house.database.command("connect") as unit:
                await desk.house.connections.put(unit, "gitea", "default", gitea.connection, Source.API)
            return Company(desk, gitea, repo, clock)

        yield open_it


async def hooked(company: Company) -> None:
    """The item is filed, and from now on Gitea tells what happens."""
    await company.file()
    house = company.desk.house
    upkeep = GiteaUpkeep(house.database, house.connections, house.forge.gitea, house.settings.public_url)
    await upkeep.install_hooks()


async def test_an_item_travels_to_done_with_every_delivery_sent_twice_and_one_of_each_kind_lost(
    company: OpenCompany,
):
    here = await company()
    await hooked(here)
    gitea, repo = here.gitea, here.repo
    gitea.post.twice = True
    kinds = (
        "status",
        "workflow_run",
        "push",
        "pull_request",
        "pull_request_comment",
        "pull_request_approved",
    )
    gitea.post.losing = Counter(kinds)
    head = (await here.pull()).head
    gitea.computing = 1

    await gitea.report(repo, head, "pending")  # lost
    await gitea.workflow(repo, head, BRANCH, "in_progress")  # lost
    await here.wait_for_a_look()
    assert "pending" in str((await here.until("development", State.WAITING_GATE)).move)
    await gitea.workflow(repo, head, BRANCH, "completed", "success")
    await here.until("development", State.WAITING_GATE)  # the commit status is still pending
    await gitea.report(repo, head, "success")
    await here.until("review", State.WAITING_GATE)

    number = (await here.pull()).number
    await gitea.review(repo, number, "APPROVED", user=STRANGER)  # lost, and of no weight anyway
    await here.wait_for_a_look()
    await here.until("review", State.WAITING_GATE)
    await gitea.review(repo, number, "APPROVED")
    card = await here.until("done", State.DONE)

    assert set(gitea.post.lost) == {"status", "workflow_run", "push", "pull_request", "pull_request_approved"}
    assert {sent.status for sent in gitea.sent} == {202}
    assert await repo.head("main") == (await here.pull()).merged_commit
    counted = await here.kinds()
    assert counted["item_done"] == 1
    assert counted["agent_started"] == 4
    assert card.round == 1
    assert len([o for o in await here.woken() if o.startswith("ci/tests")]) == 1  # the second was known


async def test_with_all_deliveries_lost_the_item_is_done_all_the_same(company: OpenCompany):
    here = await company()
    await here.file()  # no hooks at all
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.wait_for_a_look()
    await here.until("review", State.WAITING_GATE)
    await here.gitea.review(here.repo, 1, "APPROVED")
    await here.wait_for_a_look()
    await here.until("done", State.DONE)
    assert here.gitea.sent == []


async def test_a_delivery_wakes_the_item_without_waiting_for_the_next_look(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)
    assert await here.woken()


async def test_a_force_push_after_the_approval_is_not_merged(company: OpenCompany):
    here = await company()
    await hooked(here)
    head = (await here.pull()).head
    await here.gitea.report(here.repo, head, "success")
    await here.until("review", State.WAITING_GATE)
    base = await here.repo.head("main")
    await here.gitea.review(here.repo, 1, "APPROVED")
    await here.gitea.push(here.repo, BRANCH, {"evil.txt": "surprise"}, parents=[str(base)])
    await here.until("review", State.WAITING_GATE)
    assert not (await here.pull()).is_merged
    assert await here.repo.head("main") == base


async def test_a_merge_made_by_hand_ends_the_item_even_when_the_branch_is_gone(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)
    await here.gitea.merge(here.repo, 1)
    await here.gitea.delete_branch(here.repo, BRANCH)
    await here.until("done", State.DONE)
    assert (await here.kinds())["agent_started"] == 4


async def test_a_pull_request_closed_without_a_merge_goes_back_to_the_developer(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)
    await here.gitea.close(here.repo, 1)
    card = await here.settle()
    assert card.stage == "development"
    assert not (await here.pull()).is_merged


async def test_a_pull_request_from_a_fork_says_nothing_about_an_item(company: OpenCompany):
    here = await company()
    await hooked(here)
    fork = await here.gitea.create("stranger/shop", fork_of=here.repo)
    await here.gitea.push(fork, BRANCH, {"evil.txt": "surprise"}, user=STRANGER)
    ours = await here.pull()
    theirs = await here.gitea.propose(here.repo, BRANCH, head_repo=fork, user=STRANGER)
    await here.gitea.review(here.repo, theirs.number, "APPROVED")
    await here.until("development", State.WAITING_GATE)
    assert await here.woken() == []
    assert await here.pull() == ours


async def test_what_the_desk_does_itself_wakes_nobody(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)
    forge, pull = here.desk.house.forge, await here.pull()
    woken = await here.woken()
    await forge.review(REPOSITORY, pull.number, "reviewer", Verdict.COMMENT, "looks fine", pull.head)
    before = {BRANCH: str(await here.repo.head("main"))}
    await here.gitea.pushed(here.repo, before, BOT)
    await here.until("review", State.WAITING_GATE)
    assert [o for o in await here.outcomes() if "reviewed" in o or f"push to {BRANCH}" in o] == [
        "pull request 1 reviewed: the desk did that itself",
        f"push to {BRANCH}: the desk did that itself",
    ]
    assert await here.woken() == woken


async def test_ci_that_is_red_on_the_base_branch_too_is_a_persons_move(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, str(await here.repo.head("main")), "failure")
    await here.gitea.report(here.repo, (await here.pull()).head, "failure", description="2 failed")
    card = await here.until("development", State.BLOCKED)
    assert card.move is not None
    assert "ci/tests: 2 failed" in card.move["why"]
    assert "red on main too" in card.move["why"]


async def test_a_result_of_an_older_commit_counts_for_nothing(company: OpenCompany):
    here = await company()
    await hooked(here)
    old = (await here.pull()).head
    await here.gitea.push(here.repo, BRANCH, {"more.txt": "more"})
    await here.until("development", State.WAITING_GATE)
    await here.gitea.report(here.repo, old, "success")
    await here.until("development", State.WAITING_GATE)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)


async def test_a_branch_protection_that_wants_more_is_a_persons_move(company: OpenCompany):
    here = await company()
    here.repo.protected["main"] = 2
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)
    await here.gitea.review(here.repo, 1, "APPROVED")
    card = await here.until("merge", State.BLOCKED)
    assert card.move is not None
    assert "Does not have enough approvals" in card.move["why"]


async def test_gitea_going_down_in_the_middle_costs_nothing(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.gitea.settled()
    await here.gitea.down()
    await here.desk.house.deliveries.work_off()
    await here.desk.work_once()
    await here.gitea.up()
    here.clock.go(5)
    await here.until("review", State.WAITING_GATE)
    assert "engine_failed" not in await here.kinds()


async def test_the_token_is_nowhere_that_an_agent_can_read(company: OpenCompany, surroundings: Surroundings):
    here = await company()
    await hooked(here)
    home = surroundings.settings.folder
    found = [
        path
        for folder in (home / "work", home / "runs", home / "forge")
        for path in folder.rglob("*")
        if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]
    assert found == []
