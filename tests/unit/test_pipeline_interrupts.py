"""Cancel, pressed in Prefect's UI, stops that one run: also when the first try fails, and on other hosts."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck.board.model import State
from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.model import AgentRun
from quarterdeck.crew.runtime import Outcome
from quarterdeck.crew.service import Crew
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.assignments import Wish
from quarterdeck.pipeline.rules import AwaitRun, Block
from quarterdeck.pipeline.service import Engine
from quarterdeck.pipeline.work import StageWork
from tests.fakes.homes import ROSTER, furnished
from tests.fakes.stage_work import OWNER, PIPELINE, filed, state

WHY = "The stage run was cancelled in Prefect."


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    roster = ROSTER.replace("{slug: analyst,", "{slug: analyst, max_concurrent: 3,")
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE, roster=roster) as house:
        yield house


async def at_work(engine: Engine, key: str, flow_run: str = "flow") -> tuple[StageWork, AgentRun]:
    """The item's stage, worked on by a Prefect run of this name."""
    work = await engine.claim(await engine.current(key), flow_run)
    return work, await work.open_run("0" * 40)


def was_stopped(crew: Crew, run: AgentRun) -> bool:
    return (crew.folder_of(run) / "stop").exists()


async def has_ended(crew: Crew, work: StageWork, run: AgentRun) -> None:
    """What the holder of the claim does: it sees the run's end, and what that means for the item."""
    await work.run_ended(run.id or 0, await crew.wait(run))
    step = await work.next_step()
    assert step == Block(WHY, "Retry the stage, or cancel the item.", cancelled=True)
    await work.record(step)


async def test_a_run_that_could_not_be_stopped_at_once_is_stopped_at_the_next_look(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await filed(house)
    work, run = await at_work(house.engine, key)
    with monkeypatch.context() as full, pytest.raises(Unavailable):
        full.setattr(house.crew, "stop", _no_room)
        await house.engine.interrupt("flow", WHY)
    assert await work.next_step() == AwaitRun(run.id or 0)
    assert await house.engine.stop_interrupted_runs() == 1
    await has_ended(house.crew, work, run)
    assert (await state(house, key)).state is State.BLOCKED
    assert await house.engine.stop_interrupted_runs() == 0


async def _no_room(*_: object) -> Outcome:
    raise Unavailable("No space left on device.")


async def test_a_run_that_was_opened_just_after_its_stage_was_cancelled_is_stopped(house: House) -> None:
    key = await filed(house)
    work = await house.engine.claim(await house.engine.current(key), "flow")
    assert await house.engine.interrupt("flow", WHY)
    run = await work.open_run("0" * 40)
    await house.engine.stop_interrupted_runs()
    await has_ended(house.crew, work, run)


async def test_a_run_of_another_host_is_stopped_by_the_desk_there(house: House, tmp_path: Path) -> None:
    elsewhere = Crew(house.database, {"command": CommandRuntime()}, tmp_path / "elsewhere")
    desk_there = Engine(house.database, elsewhere)
    work, run = await at_work(desk_there, await filed(house))
    assert await house.engine.interrupt("flow", WHY)
    assert not was_stopped(elsewhere, run)
    assert await desk_there.stop_interrupted_runs() == 1
    await has_ended(elsewhere, work, run)


async def test_what_was_given_by_hand_on_the_same_item_goes_on(house: House) -> None:
    key = await filed(house)
    _, run = await at_work(house.engine, key)
    wish = Wish("developer", key, "Count the ducks.", timedelta(minutes=2))
    by_hand = await house.assignments.assign(OWNER, wish)
    await house.engine.interrupt("flow", WHY)
    assert was_stopped(house.crew, run)
    assert not was_stopped(house.crew, by_hand)


async def test_the_next_round_is_not_stopped_for_a_cancel_of_the_one_before(house: House) -> None:
    key = await filed(house)
    await at_work(house.engine, key, "old")
    await house.engine.cancel(key, OWNER)
    await house.engine.retry(key, OWNER)
    await house.engine.stop_stray_runs()
    _, run = await at_work(house.engine, key, "new")
    await house.engine.interrupt("old", WHY)
    assert not was_stopped(house.crew, run)


async def three_cancelled(house: House) -> list[AgentRun]:
    """Three items with an agent at work, all cancelled together."""
    runs = []
    for title in ("One", "Two", "Three"):
        key = await filed(house, title=title)
        _, run = await at_work(house.engine, key, title)
        await house.engine.cancel(key, OWNER)
        runs.append(run)
    return runs


async def test_an_agent_that_takes_long_to_stop_keeps_no_other_from_being_stopped(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = await three_cancelled(house)
    stop, all_asked = house.crew.stop, asyncio.Barrier(len(runs))

    async def slow(run: AgentRun, why: str) -> Outcome | None:
        await asyncio.wait_for(all_asked.wait(), 20)
        return await stop(run, why)

    monkeypatch.setattr(house.crew, "stop", slow)
    assert await house.engine.stop_stray_runs() == 3
    assert await house.crew.open_runs() == []


async def test_a_run_that_cannot_be_stopped_keeps_no_other_from_being_stopped_and_closed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn, *_ = await three_cancelled(house)
    stop = house.crew.stop

    async def stop_others(run: AgentRun, why: str) -> Outcome | None:
        return await (_no_room() if run.id == stubborn.id else stop(run, why))

    monkeypatch.setattr(house.crew, "stop", stop_others)
    with pytest.raises(Unavailable):
        await house.engine.stop_stray_runs()
    assert [run.id for run in await house.crew.open_runs()] == [stubborn.id]
