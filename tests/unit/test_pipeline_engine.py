"""The engine on a real database: claims, fences, decisions, and one winner of every race."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from sqlalchemy import update

from quarterdeck.board.model import State
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Forbidden, Invalid, NotFound, Stale
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.gates import NO_CI_PATIENCE, Answer
from quarterdeck.pipeline.model import Approval, Claim, GateVerdict
from quarterdeck.pipeline.rules import (
    AwaitRun,
    Block,
    CheckGate,
    Publish,
    Repair,
    StartRun,
    Wait,
)
from quarterdeck.pipeline.service import this_holder
from quarterdeck.pipeline.store import Candidate
from quarterdeck.pipeline.work import StageWork
from tests.fakes.clock import ManualClock
from tests.fakes.homes import furnished
from tests.fakes.stage_work import (
    OWNER,
    PIPELINE,
    filed,
    finish_run,
    kinds,
    pass_stage,
    state,
    taken,
    well_ended,
)

ANNA = Caller("anna", "telegram", may_write=True, may_approve=True)
BORIS = Caller("boris", "prefect", may_write=True, may_approve=True)
VIEWER = Caller("vera", "token")


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE) as house:
        yield house


async def test_an_item_travels_from_filing_to_done_and_every_move_is_told_in_order(house: House) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    assert (await state(house, key)).state is State.WAITING_APPROVAL
    await house.engine.decide(key, ANNA, approved=True)
    await pass_stage(house, key)
    await pass_stage(house, key)
    item = await state(house, key)
    assert (item.stage, item.state) == ("done", State.DONE)
    agent = ["agent_started", "agent_finished", "work_published", "gate_passed"]
    assert await kinds(house, key) == [
        "item_filed",
        *agent,
        "approval_requested",
        "approval_decided",
        "stage_changed",
        *agent,
        "stage_changed",
        "gate_passed",
        "stage_changed",
        "item_done",
    ]


async def test_a_clock_that_was_set_back_brings_no_old_question_back(house: House) -> None:
    house.database.clock = clock = ManualClock()
    key = await filed(house)
    await pass_stage(house, key)
    first = await house.engine.decide(key, ANNA, approved=False, comment="no")
    clock.go(-3600)
    await pass_stage(house, key)
    second = await house.engine.decide(key, BORIS, approved=True)
    assert (second.id != first.id, second.decided_by) == (True, "boris")
    async with house.database.read() as session:
        kept = await session.get(Approval, first.id)
    assert kept is not None and (kept.approved, kept.decided_by) == (False, "anna")


async def test_a_second_claim_on_the_same_round_is_refused_and_says_who_holds_it(house: House) -> None:
    key = await filed(house)
    await taken(house, key)
    with pytest.raises(Conflict, match="already claimed by") as refusal:
        await taken(house, key, holder="elsewhere:1:1.00")
    assert refusal.value.code == "already_claimed"


async def test_ten_claims_at_once_have_one_winner(house: House) -> None:
    key = await filed(house)
    wanted = await house.engine.current(key)
    results = await asyncio.gather(
        *(house.engine.claim(wanted, holder=f"elsewhere:{n}:1.00") for n in range(10)), return_exceptions=True
    )
    winners = [result for result in results if isinstance(result, StageWork)]
    assert len(winners) == 1
    assert all(isinstance(result, Conflict) for result in results if result not in winners)


async def test_a_holder_that_lost_its_claim_can_write_nothing(house: House) -> None:
    key = await filed(house)
    old = await taken(house, key, holder="elsewhere:1:1.00")
    await old.release(0)
    new = await taken(house, key)
    with pytest.raises(Stale):
        await old.open_run("0" * 40)
    with pytest.raises(Stale):
        await old.next_step()
    with pytest.raises(Stale):
        await old.record(Block("late", "nothing"))
    assert await new.next_step() == StartRun()


async def test_the_claim_of_a_process_that_died_is_free_at_once(house: House) -> None:
    key = await filed(house)
    host = this_holder().rsplit(":", 2)[0]
    await taken(house, key, holder=f"{host}:999999999:1.00")
    assert await house.engine.candidates(10) == []
    assert await house.engine.free_claims() == 1
    assert await house.engine.candidates(10) == [Candidate(key, "analysis", 1)]


async def test_a_clock_that_was_set_makes_no_living_process_dead(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Linux psutil counts the birth of a process from the boot, and the boot by the clock."""
    await taken(house, await filed(house))
    told = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: told(process) + 3600)
    assert await house.engine.free_claims() == 0


async def test_after_a_crash_the_run_that_was_started_is_adopted(house: House) -> None:
    key = await filed(house)
    first = await taken(house, key, holder="elsewhere:1:1.00")
    run = await first.open_run("0" * 40)
    await first.release(0)
    second = await taken(house, key)
    assert await second.next_step() == AwaitRun(run.id or 0)
    assert (await second.open_run("0" * 40)).id == run.id


async def test_a_start_and_an_end_are_told_once_however_often_they_are_recorded(house: House) -> None:
    key = await filed(house)
    work = await taken(house, key)
    run = await work.open_run("0" * 40)
    for _ in range(2):
        await work.run_started(run.id or 0)
    for _ in range(2):
        await work.run_ended(run.id or 0, well_ended(run))
    assert await kinds(house, key) == ["item_filed", "agent_started", "agent_finished"]


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({"exit_code": 1}, "agent_failed"),
        ({"exit_code": -9, "timed_out": True}, "agent_timed_out"),
        ({"exit_code": None, "started_at": None, "error": "no such program"}, "error"),
    ],
)
async def test_every_bad_end_of_a_run_has_its_own_event_and_costs_a_round(
    house: House, how: dict[str, object], kind: str
) -> None:
    key = await filed(house)
    work = await taken(house, key)
    await finish_run(work, **how)
    assert kind in await kinds(house, key)
    step = await work.next_step()
    assert isinstance(step, Repair)
    await work.record(step)
    item = await state(house, key)
    assert (item.state, item.stage, item.round) == (State.QUEUED, "analysis", 2)
    assert item.spent == {"agent:analysis": 1}
    assert item.note


async def test_rounds_used_up_block_the_item_and_say_whose_move_it_is(house: House) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    await house.engine.decide(key, OWNER, approved=True)
    for _ in range(2):
        work = await taken(house, key)
        await finish_run(work, exit_code=1)
        step = await work.next_step()
        assert isinstance(step, Repair | Block)
        await work.record(step)
    item = await state(house, key)
    assert item.state is State.BLOCKED
    assert item.move is not None
    assert {"whose", "since", "why", "todo"} <= set(item.move)
    assert "exit_code=1" in item.move["why"]
    assert await house.engine.candidates(10) == []


async def test_a_retry_gives_a_blocked_item_another_round(house: House) -> None:
    key = await filed(house)
    work = await taken(house, key)
    await work.record(Block("because", "retry"))
    await house.engine.retry(key, OWNER)
    item = await state(house, key)
    assert (item.state, item.round, item.move) == (State.QUEUED, 2, None)


async def test_a_pending_gate_waits_and_the_news_about_its_commit_wakes_it(house: House) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    await house.engine.decide(key, OWNER, approved=True)
    work = await taken(house, key)
    await finish_run(work)
    await work.gate_answered("check_ci_green", PENDING, (await work.assignment()).snapshot)
    step = await work.next_step()
    assert isinstance(step, Wait)
    await work.record(step)
    assert (await state(house, key)).state is State.WAITING_GATE
    assert await house.engine.candidates(10) == [], "it waits"
    async with house.database.command("test") as unit:
        await house.engine.wake_commit(unit, "d" * 40)
    assert await house.engine.candidates(10) == [], "news about another commit are no news"
    async with house.database.command("test") as unit:
        await house.engine.wake_commit(unit, "c" * 40)
    assert await house.engine.candidates(10) == [Candidate(key, "development", 1)]
    again = await taken(house, key)
    assert await again.next_step() == CheckGate("check_ci_green"), "the old answer is asked again"
    assert "gate_failed" not in await kinds(house, key), "pending is no failure"


PENDING = Answer(GateVerdict.PENDING, "CI state: pending", "c" * 40)


async def test_a_clock_that_is_set_back_has_no_gate_asked_again_and_again(house: House) -> None:
    house.database.clock = clock = ManualClock()
    key = await filed(house)
    await pass_stage(house, key)
    await house.engine.decide(key, OWNER, approved=True)
    work = await taken(house, key)
    await finish_run(work)
    clock.go(-3600)
    await work.gate_answered("check_ci_green", PENDING, (await work.assignment()).snapshot)
    assert isinstance(await work.next_step(), Wait)


@pytest.mark.parametrize("moment", ["before the answer", "after the answer", "over the question"])
async def test_news_that_come_just_before_an_item_waits_are_not_missed(house: House, moment: str) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    await house.engine.decide(key, OWNER, approved=True)
    work = await taken(house, key)
    await finish_run(work)
    async with house.database.command("CI ends") as unit:
        if moment == "over the question":
            await house.engine.wake_commit(unit, "c" * 40)
        snapshot = (await work.assignment()).snapshot
        if moment == "after the answer":
            await work.gate_answered("check_ci_green", PENDING, snapshot)
        if moment != "over the question":
            assert await house.engine.wake_commit(unit, "c" * 40) == [], "nobody waits yet"
    if moment != "after the answer":
        await work.gate_answered("check_ci_green", PENDING, snapshot)
    step = await work.next_step()
    assert isinstance(step, Wait)
    await work.record(step)
    assert await house.engine.candidates(10) == [Candidate(key, "development", 1)]


async def test_a_new_commit_is_waited_for_as_long_as_the_one_before(house: House) -> None:
    clock = house.database.clock = ManualClock()
    key = await filed(house)
    await pass_stage(house, key)
    await house.engine.decide(key, OWNER, approved=True)
    work = await taken(house, key)
    await finish_run(work)
    snapshot = (await work.assignment()).snapshot
    await work.gate_answered("check_ci_green", PENDING, snapshot)
    clock.go(300)
    unknown = replace(PENDING, commit="d" * 40, patience=NO_CI_PATIENCE)
    for seconds in (0, 119):
        clock.go(seconds)
        await work.gate_answered("check_ci_green", unknown, snapshot)
        assert isinstance(await work.next_step(), Wait)
    clock.go(1)
    assert isinstance(await work.next_step(), Block)


async def test_old_news_wake_nobody(house: House) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    await house.engine.decide(key, OWNER, approved=True)
    work = await taken(house, key)
    await finish_run(work)
    async with house.database.command("CI ends") as unit:
        await house.engine.wake_commit(unit, "c" * 40)
    await work.gate_answered("check_ci_green", PENDING, (await work.assignment()).snapshot)
    step = await work.next_step()
    assert isinstance(step, Wait)
    await work.record(step)
    assert await house.engine.candidates(10) == []


async def test_two_approvals_at_the_same_moment_are_one_decision_and_one_transition(house: House) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    results = await asyncio.gather(
        *(house.engine.decide(key, who, approved=True) for who in (ANNA, BORIS) * 5), return_exceptions=True
    )
    losers = [result for result in results if isinstance(result, Conflict)]
    assert len(losers) == 9
    winner = next(result for result in results if not isinstance(result, BaseException))
    assert all(f"already decided by {winner.decided_by}" in loser.detail for loser in losers)
    assert (await kinds(house, key)).count("stage_changed") == 1


async def test_a_rejection_takes_the_comment_back_to_the_agent(house: House) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    with pytest.raises(Invalid):
        await house.engine.decide(key, ANNA, approved=False)
    await house.engine.decide(key, ANNA, approved=False, comment="say who pays")
    item = await state(house, key)
    assert (item.stage, item.round, item.note) == ("analysis", 2, "rejected by anna: say who pays")


async def test_who_asked_or_may_not_cannot_approve(house: House) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    with pytest.raises(Forbidden):
        await house.engine.decide(key, VIEWER, approved=True)
    with pytest.raises(Forbidden):
        await house.engine.decide(key, Caller("analyst", "api", may_approve=True), approved=True)


async def test_a_name_given_by_others_than_the_owner_does_not_count(house: House) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    assert (await house.engine.decide(key, ANNA, approved=True, by="vera")).decided_by == "anna"
    other = await filed(house)
    await pass_stage(house, other)
    assert (await house.engine.decide(other, OWNER, approved=True, by="vera")).decided_by == "vera"


@pytest.mark.parametrize("name", ["ana", "developer", "a" * 60])
async def test_the_owner_decides_for_nobody_but_people_of_the_roster(house: House, name: str) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    with pytest.raises(NotFound, match="There is: anna, vera"):
        await house.engine.decide(key, OWNER, approved=True, by=name)
    assert (await state(house, key)).state is State.WAITING_APPROVAL


async def test_nothing_can_be_approved_that_does_not_wait_for_it(house: House) -> None:
    key = await filed(house)
    with pytest.raises(Conflict, match="does not wait for approval"):
        await house.engine.decide(key, ANNA, approved=True)
    with pytest.raises(NotFound):
        await house.engine.decide("ET-999", ANNA, approved=True)


async def test_a_cancelled_item_is_left_alone_by_its_holder_and_can_be_taken_up_again(house: House) -> None:
    key = await filed(house)
    work = await taken(house, key)
    with pytest.raises(Forbidden):
        await house.engine.cancel(key, VIEWER)
    await house.engine.cancel(key, OWNER)
    with pytest.raises(Conflict, match="cancelled"):
        await work.next_step()
    with pytest.raises(Conflict):
        await house.engine.cancel(key, OWNER)
    await house.engine.retry(key, OWNER)
    assert await house.engine.candidates(10) == [Candidate(key, "analysis", 2)]


async def test_cancelling_withdraws_the_request_for_approval(house: House) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    await house.engine.cancel(key, OWNER)
    approval = await house.engine.approval_of(key)
    assert approval is not None
    assert approval.approved is None
    assert approval.decided_by == "owner"
    with pytest.raises(Conflict, match=f"{key} does not wait for approval: it is cancelled"):
        await house.engine.decide(key, ANNA, approved=True)
    await house.engine.retry(key, OWNER)
    with pytest.raises(Conflict, match=f"{key} does not wait for approval: it is queued"):
        await house.engine.decide(key, ANNA, approved=True)
    await pass_stage(house, key)
    with pytest.raises(Conflict, match="it was withdrawn"):
        await house.engine.decide(key, ANNA, approved=True, asked=approval.id)
    assert (await state(house, key)).state is State.WAITING_APPROVAL


async def test_an_engine_that_keeps_failing_asks_a_person_in_the_end(house: House) -> None:
    key = await filed(house)
    for _ in range(4):
        async with house.database.command("let the pauses pass") as unit:
            await unit.session.exec(update(Claim).values(leased_until=unit.now))
        await (await taken(house, key)).failed("disk on fire")
    item = await state(house, key)
    assert item.state is State.BLOCKED
    assert item.move is not None
    assert item.move["why"] == "disk on fire"


async def test_publishing_that_is_refused_is_the_agents_failure(house: House) -> None:
    key = await filed(house)
    work = await taken(house, key)
    run = await work.open_run("0" * 40)
    await work.run_ended(run.id or 0, well_ended(run))
    assert await work.next_step() == Publish(run.id or 0)
    await work.publish_failed("the branch moved on")
    step = await work.next_step()
    assert isinstance(step, Repair)
    assert step.note == "the branch moved on"
