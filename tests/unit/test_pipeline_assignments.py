"""Runs that were asked for by hand are seen through, whatever becomes of the desk and of their agent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.crew.roster import Roster
from quarterdeck.crew.runtime import CLOSED
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Invalid, Unavailable
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.assignments import NotAssigned, Wish
from tests.fakes.homes import furnished
from tests.fakes.stage_work import OWNER, PIPELINE, filed, kinds, taken


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


async def test_a_run_that_was_given_by_hand_is_stopped_and_told_once(house: House) -> None:
    key = await filed(house)
    run = await assigned(house, key)
    ended = await house.assignments.cancel(OWNER, run.id or 0, "wrong ducks")
    assert (ended.state, ended.cancelled, ended.error) == (
        RunState.ENDED, True, "stopped by owner: wrong ducks",
    )  # fmt: skip
    await seen_through(house, run)
    assert await kinds(house, key) == ["item_filed", "run_cancelled"]
    assert len(await runs(house)) == 1
    with pytest.raises(Conflict) as again:
        await house.assignments.cancel(OWNER, run.id or 0)
    assert again.value.code == "run_ended"


async def test_what_a_person_stopped_while_everything_was_closed_is_not_begun_anew(house: House) -> None:
    run = await assigned(house, await filed(house))
    await house.crew.stop(run, CLOSED)
    await house.assignments.cancel(OWNER, run.id or 0)
    assert len(await runs(house)) == 1


async def test_a_run_of_a_stage_is_not_stopped_as_one_given_by_hand(house: House) -> None:
    run = await (await taken(house, await filed(house))).open_run("0" * 40)
    with pytest.raises(Conflict) as refused:
        await house.assignments.cancel(OWNER, run.id or 0)
    assert refused.value.code == "run_of_a_stage"
    assert not house.crew.folder_of(run).exists()


async def test_a_run_of_another_host_is_stopped_there(house: House) -> None:
    run = await assigned(house, await filed(house))
    async with house.database.command("go elsewhere") as unit:
        await unit.session.exec(update(AgentRun).values(host="elsewhere"))
    with pytest.raises(Unavailable) as refused:
        await house.assignments.cancel(OWNER, run.id or 0)
    assert (refused.value.code, "elsewhere" in refused.value.detail) == ("run_elsewhere", True)


async def test_who_finds_the_agent_busy_is_told_to_ask_again(house: House) -> None:
    key = await filed(house)
    await assigned(house, key)
    with pytest.raises(NotAssigned) as refused:
        await assigned(house, key)
    assert refused.value.detail == "Agent is busy"
    assert "busy with 1 of 1 runs" in refused.value.instruction
    assert "`GET /api/v1/agents/analyst`" in refused.value.instruction
    assert "by itself" not in refused.value.instruction and "tried again" not in refused.value.instruction


async def test_a_key_gives_the_same_run_again_and_no_other_wish_takes_it(house: House) -> None:
    key = await filed(house)
    wish = Wish("analyst", key, "Count the ducks.", timedelta(minutes=2))
    run = await house.assignments.assign(OWNER, wish, "once")
    for other in (replace(wish, prompt="Count the geese."), replace(wish, agent="developer")):
        with pytest.raises(Invalid) as refused:
            await house.assignments.assign(OWNER, other, "once")
        assert refused.value.code == "idempotency_key_reused"
    await house.engine.cancel(key, OWNER)
    assert (await house.assignments.assign(OWNER, wish, "once")).id == run.id
    assert len(await runs(house)) == 1


async def test_the_command_line_stops_the_run_that_was_given_by_hand(
    house: House,
    item_command: Callable[..., Awaitable[tuple[int, Any]]],
) -> None:
    key = await filed(house)
    given = await assigned(house, key)
    code, card = await item_command("stop", key, "--comment", "enough")
    assert (code, card["id"], card["error"]) == (0, given.id, "stopped by owner: enough")
    code, refusal = await item_command("stop", key)
    assert (code, refusal["code"]) == (1, "unknown_run")
    code, refusal = await item_command("stop", key, "--run", str(given.id))
    assert (code, refusal["code"]) == (1, "run_ended")
    assert (await item_command("stop", await filed(house), "--run", str(given.id)))[1][
        "code"
    ] == "unknown_run"
