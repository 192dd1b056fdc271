"""An item that went elsewhere is left alone by whoever still works on the round it left."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from quarterdeck.board.model import OUTSIDE, State
from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.crew.runtime import Outcome
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Stale
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.assignments import Wish
from quarterdeck.pipeline.board_items import BoardItems
from quarterdeck.pipeline.gates import Answer
from quarterdeck.pipeline.model import GateVerdict
from quarterdeck.pipeline.rules import Block, StartRun
from quarterdeck.pipeline.store import Candidate, item_for_update
from tests.fakes.homes import ROSTER, furnished
from tests.fakes.stage_work import OWNER, PIPELINE, filed, finish_run, kinds, state, taken

CANCELLED = Outcome(cancelled=True, error="the item no longer needs it")


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    roster = ROSTER.replace("{slug: analyst,", "{slug: analyst, max_concurrent: 2,")
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE, roster=roster) as house:
        yield house


async def reopened(house: House, key: str) -> None:
    await house.engine.cancel(key, OWNER)
    await house.engine.retry(key, OWNER)


async def given_back(house: House, key: str) -> None:
    await BoardItems(house.database, house.board, house.engine).give_back(key, "it stood still")


@pytest.mark.parametrize("move", [reopened, given_back])
async def test_who_works_on_a_round_that_was_left_writes_nothing_into_the_next(
    house: House, move: Callable[[House, str], Awaitable[None]]
) -> None:
    key = await filed(house)
    old = await taken(house, key)
    run = await old.open_run("0" * 40)
    assert run.id is not None
    await move(house, key)
    for late in (
        old.next_step(),
        old.run_ended(run.id, CANCELLED),
        old.record(Block("The run was cancelled.", "Retry.")),
        old.failed("disk on fire"),
        old.postpone(0),
        old.renew(),
    ):
        with pytest.raises(Stale):
            await late
    item = await state(house, key)
    assert (item.state, item.round, item.move, item.spent) == (State.QUEUED, 2, None, {})
    assert await (await taken(house, key)).next_step() == StartRun()
    assert await house.engine.stop_stray_runs() == 1
    assert (await house.crew.run(run.id)).state is RunState.ENDED


@pytest.mark.parametrize("move", [reopened, given_back])
async def test_a_round_begins_when_the_run_of_the_one_before_has_left_the_work_tree(
    house: House, move: Callable[[House, str], Awaitable[None]]
) -> None:
    key = await filed(house)
    run = await (await taken(house, key)).open_run("0" * 40)
    assert run.id is not None
    await move(house, key)
    assert await house.engine.candidates(10) == []
    by_hand = await taken(house, key)
    with pytest.raises(Conflict) as refused:
        await by_hand.must_have_the_tree()
    assert refused.value.code == "busy"
    await by_hand.postpone(0)
    async with house.database.command("end run") as unit:
        await house.crew.close_run(unit, run.id, CANCELLED)
    assert await house.engine.candidates(10) == [Candidate(key, "analysis", 2)]
    await (await taken(house, key)).must_have_the_tree()


async def test_a_round_waits_neither_for_runs_by_hand_nor_for_those_of_another_host(house: House) -> None:
    key = await filed(house)
    run = await (await taken(house, key)).open_run("0" * 40)
    await reopened(house, key)
    async with house.database.command("go elsewhere") as unit:
        await unit.session.exec(update(AgentRun).values(host="elsewhere"))
    wish = Wish("developer", key, "Count the ducks.", timedelta(minutes=2))
    await house.assignments.assign(OWNER, wish)
    assert await house.engine.candidates(10) == [Candidate(key, "analysis", 2)]
    await (await taken(house, key)).must_have_the_tree()
    assert (await house.crew.run(run.id or 0)).state is not RunState.ENDED


async def test_a_block_from_outside_keeps_its_reason_and_is_told_once(house: House) -> None:
    key = await filed(house)
    work = await taken(house, key)
    await BoardItems(house.database, house.board, house.engine).block(key, "it turns in circles")
    with pytest.raises(Conflict):
        await work.record(Block("The run was cancelled.", "Retry."))
    item = await state(house, key)
    assert item.move is not None
    assert item.move["why"] == "it turns in circles"
    assert (await kinds(house, key)).count("item_blocked") == 1


async def test_an_item_that_stands_for_work_of_another_source_cannot_be_claimed(house: House) -> None:
    key = await filed(house)
    async with house.database.command("adopt") as unit:
        (await item_for_update(unit.session, key)).pipeline = OUTSIDE
    with pytest.raises(Conflict) as refused:
        await taken(house, key)
    assert refused.value.code == "not_ours"
    assert (await state(house, key)).state is State.QUEUED


async def out_of_repairs(house: House, reason: str) -> str:
    """An item that is blocked because its gate failed and its pipeline allows no repair."""
    key = await filed(house)
    work = await taken(house, key)
    await finish_run(work)
    snapshot = (await work.assignment()).snapshot
    await work.gate_answered("check_documents", Answer(GateVerdict.FAILED, reason), snapshot)
    step = await work.next_step()
    assert isinstance(step, Block)
    await work.record(step)
    return key


@pytest.fixture
async def strict(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    pipeline = PIPELINE.replace("approval: true", "approval: true, rounds: 0")
    async with furnished(database, Settings(home=tmp_path), pipeline=pipeline) as house:
        yield house


async def test_a_retry_tells_the_agent_why_it_was_blocked_and_what_the_person_says(strict: House) -> None:
    key = await out_of_repairs(strict, "brd.md is missing")
    await strict.engine.retry(key, OWNER, "and name the owner")
    note = (await state(strict, key)).note
    assert note == "check_documents: brd.md is missing\nretried by owner: and name the owner"


async def test_a_heartbeat_that_reopens_tells_the_agent_both_reasons(strict: House) -> None:
    key = await out_of_repairs(strict, "brd.md is missing")
    await BoardItems(strict.database, strict.board, strict.engine).reopen(key, "it stood still")
    assert (await state(strict, key)).note == "check_documents: brd.md is missing\nit stood still"


async def test_what_is_cancelled_and_retried_keeps_what_its_agent_was_told(house: House) -> None:
    key = await filed(house)
    await taken(house, key)
    await given_back(house, key)
    await reopened(house, key)
    assert (await state(house, key)).note == "it stood still"
