"""Runs that were asked for by hand are seen through, whatever becomes of the desk and of their agent."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import col, select

from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.crew.roster import Roster
from quarterdeck.crew.runtime import CLOSED
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.assignments import Wish
from tests.fakes.homes import furnished
from tests.fakes.stage_work import OWNER, PIPELINE, filed, kinds


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE) as house:
        yield house
        await house.assignments.close()


async def assigned(house: House, key: str) -> AgentRun:
    wish = Wish("analyst", key, "Count the ducks.", timedelta(minutes=2))
    return await house.assignments.assign(OWNER, wish)


async def runs(house: House) -> list[AgentRun]:
    async with house.database.read() as session:
        return list((await session.exec(select(AgentRun).order_by(col(AgentRun.id)))).all())


async def seen_through(house: House, run: AgentRun) -> None:
    """One look at the runs, until this one has ended."""
    await house.assignments.see_through()
    async with asyncio.timeout(20):
        while (await house.crew.run(run.id or 0)).state is not RunState.ENDED:
            await asyncio.sleep(0.01)


async def test_what_was_stopped_because_everything_was_closed_is_begun_anew(house: House) -> None:
    key = await filed(house)
    run = await assigned(house, key)
    await house.crew.stop(run, CLOSED)
    await seen_through(house, run)
    first, second = await runs(house)
    assert (first.state, first.cancelled) == (RunState.ENDED, True)
    assert (second.state, second.started_at) == (RunState.STARTING, None)
    for same in ("agent", "item_key", "stage", "prompt", "limit_seconds"):
        assert getattr(second, same) == getattr(first, same)
    assert second.folder != first.folder
    assert await kinds(house, key) == ["item_filed", "run_cancelled"]


async def test_what_a_person_stopped_is_not_begun_anew(house: House) -> None:
    run = await assigned(house, await filed(house))
    await house.crew.stop(run, "enough")
    await seen_through(house, run)
    assert len(await runs(house)) == 1


async def test_a_run_whose_agent_left_the_roster_is_ended_and_says_why(house: House) -> None:
    key = await filed(house)
    run = await assigned(house, key)
    await house.crew.import_roster(Roster.model_validate({"agents": []}), {})
    await seen_through(house, run)
    ended = await house.crew.run(run.id or 0)
    assert (ended.cancelled, ended.error) == (True, "its agent is no longer in the roster")
    assert await kinds(house, key) == ["item_filed", "run_cancelled"]
    assert len(await runs(house)) == 1


async def test_nothing_is_begun_anew_for_an_item_that_was_cancelled_meanwhile(house: House) -> None:
    key = await filed(house)
    run = await assigned(house, key)
    await house.crew.stop(run, CLOSED)
    await house.engine.cancel(key, OWNER)
    await seen_through(house, run)
    assert len(await runs(house)) == 1
