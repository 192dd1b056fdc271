"""Items whose code lives in Gitea: real git over HTTP, real deliveries at the real door, a fake Gitea."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from quarterdeck.board.model import State
from quarterdeck.forge.protocol import Verdict
from tests.fakes.gitea import BOT, STRANGER, TOKEN
from tests.fakes.gitea_house import (
    BRANCH,
    KEY,
    REPOSITORY,
    GiteaCompany,
    begin_with_development,
    gitea_company,
    leave_the_word_to_people,
)
from tests.fakes.quiet_desk import OpenDesk, Surroundings

OpenCompany = Callable[[], Awaitable[GiteaCompany]]


@pytest.fixture
async def whole_company(
    surroundings: Surroundings, open_desk: OpenDesk, tmp_path: Path
) -> AsyncIterator[OpenCompany]:
    """Opened when the test has prepared its surroundings; its reviewer leaves the word to people."""
    leave_the_word_to_people(surroundings)
    async with AsyncExitStack() as stack:

        async def open_it() -> GiteaCompany:
            return await stack.enter_async_context(gitea_company(await open_desk(), tmp_path / "gitea"))

        yield open_it


@pytest.fixture
def company(surroundings: Surroundings, whole_company: OpenCompany) -> OpenCompany:
    """The same, whose items begin with their development."""
    begin_with_development(surroundings)
    return whole_company


async def hooked(company: GiteaCompany) -> None:
    """The item is filed, and from now on Gitea tells what happens."""
    await company.file()
    await company.install_hooks()


async def test_an_item_travels_to_done_with_every_delivery_sent_twice_and_one_of_each_kind_lost(
    whole_company: OpenCompany,
):
    here = await whole_company()
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
    assert repo.head("main") == (await here.pull()).merged_commit
    counted = await here.kinds()
    assert counted["item_done"] == 1
    assert counted["agent_started"] == 4
    assert card.round == 1
    assert len([o for o in await here.woken() if o.startswith("ci/tests")]) == 1  # the second was known


@pytest.mark.services
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


@pytest.mark.services
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
    base = here.repo.head("main")
    await here.gitea.review(here.repo, 1, "APPROVED")
    await here.gitea.push(here.repo, BRANCH, {"evil.txt": "surprise"}, parents=[str(base)])
    await here.until("review", State.WAITING_GATE)
    assert not (await here.pull()).is_merged
    assert here.repo.head("main") == base


@pytest.mark.services
async def test_what_is_pushed_between_review_and_merge_is_not_merged(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)
    base = here.repo.head("main")
    await here.gitea.review(here.repo, 1, "APPROVED")
    await here.hear()
    for _ in range(20):
        if (await here.desk.house.board.item(KEY)).stage == "merge":
            break
        here.clock.go(0.01)
        await here.desk.work_once()
    assert (await here.desk.house.board.item(KEY)).state is State.QUEUED
    await here.gitea.push(here.repo, BRANCH, {"evil.txt": "surprise"})
    await here.until("development", State.WAITING_GATE)
    assert here.repo.head("main") == base


@pytest.mark.services
@pytest.mark.parametrize(("last", "stage"), [("success", "done"), ("failure", "development")])
async def test_a_commit_that_came_during_the_review_is_merged_only_when_its_own_ci_is_green(
    company: OpenCompany, last: str, stage: str
):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)
    newer = await here.gitea.push(here.repo, BRANCH, {"more.txt": "more"})
    await here.gitea.report(here.repo, newer, "pending")
    await here.gitea.review(here.repo, 1, "APPROVED")
    await here.until("merge", State.WAITING_GATE)
    await here.gitea.report(here.repo, newer, last)
    assert (await here.settle()).stage == stage
    assert (await here.pull()).is_merged == (stage == "done")


async def test_a_merge_made_by_hand_ends_the_item_even_when_the_branch_is_gone(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)
    await here.gitea.merge(here.repo, 1)
    await here.gitea.delete_branch(here.repo, BRANCH)
    await here.until("done", State.DONE)
    assert (await here.kinds())["agent_started"] == 2


@pytest.mark.services
async def test_a_pull_request_closed_without_a_merge_goes_back_to_the_developer(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)
    await here.gitea.close(here.repo, 1)
    card = await here.settle()
    assert card.stage == "development"
    assert not (await here.pull()).is_merged


@pytest.mark.services
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


@pytest.mark.services
async def test_what_the_desk_does_itself_wakes_nobody(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.until("review", State.WAITING_GATE)
    forge, pull = here.desk.house.forge, await here.pull()
    woken = await here.woken()
    await forge.review(REPOSITORY, pull.number, "reviewer", Verdict.COMMENT, "looks fine", pull.head)
    before = {BRANCH: str(here.repo.head("main"))}
    await here.gitea.pushed(here.repo, before, BOT)
    await here.until("review", State.WAITING_GATE)
    assert [o for o in await here.outcomes() if "reviewed" in o or f"push to {BRANCH}" in o] == [
        "pull request 1 reviewed: the desk did that itself",
        f"push to {BRANCH}: the desk did that itself",
    ]
    assert await here.woken() == woken


@pytest.mark.services
async def test_ci_that_is_red_on_the_base_branch_too_is_a_persons_move(company: OpenCompany):
    here = await company()
    await hooked(here)
    await here.gitea.report(here.repo, str(here.repo.head("main")), "failure")
    await here.gitea.report(here.repo, (await here.pull()).head, "failure", description="2 failed")
    card = await here.until("development", State.BLOCKED)
    assert card.move is not None
    assert "ci/tests: 2 failed" in card.move["why"]
    assert "red on main too" in card.move["why"]


@pytest.mark.services
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


@pytest.mark.services
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


@pytest.mark.services
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


async def test_a_gitea_that_asks_for_peace_is_left_alone_for_as_long_as_it_said(company: OpenCompany):
    here = await company()
    await here.file()
    await here.gitea.report(here.repo, (await here.pull()).head, "success")
    await here.wait_for_a_look()
    here.gitea.fail = [(429, {"Retry-After": "300"})]
    await here.desk.work_once()
    here.clock.go(299)
    assert await here.desk.house.engine.candidates(1) == []
    here.clock.go(1)
    await here.until("review", State.WAITING_GATE)
    assert "engine_failed" not in await here.kinds()


async def test_the_token_is_nowhere_that_an_agent_can_read(
    whole_company: OpenCompany, surroundings: Surroundings
):
    here = await whole_company()
    await hooked(here)
    home = surroundings.settings.folder
    found = [
        path
        for folder in (home / "work", home / "runs", home / "forge")
        for path in folder.rglob("*")
        if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]
    assert found == []
