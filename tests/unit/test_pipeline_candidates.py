"""What the desk takes up: the most urgent first, and no more than agents have free slots."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from sqlmodel import col

from quarterdeck.board.cards import Changes
from quarterdeck.board.model import State, WorkItem
from quarterdeck.crew.model import Agent
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.store import Candidate
from tests.fakes.homes import furnished
from tests.fakes.stage_work import (
    OWNER,
    PIPELINE,
    filed,
    finish_run,
    pass_stage,
    state,
    taken,
)


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE) as house:
        yield house


async def test_what_is_filed_is_a_candidate_until_somebody_claims_it(house: House) -> None:
    key = await filed(house)
    assert await house.engine.candidates(10) == [Candidate(key, "analysis", 1)]
    await taken(house, key)
    assert await house.engine.candidates(10) == []


async def test_items_that_a_desk_has_at_hand_are_passed_over(house: House) -> None:
    await slots(house, 2)
    first, second = await filed(house), await filed(house)
    assert [candidate.key for candidate in await house.engine.candidates(1, [first])] == [second]


async def slots(house: House, count: int) -> None:
    """Let each agent work on so many items at the same time."""
    async with house.database.command("slots") as unit:
        await unit.session.exec(update(Agent).values(max_concurrent=count))


async def test_urgent_items_are_taken_up_first(house: House) -> None:
    await slots(house, 2)
    low = await filed(house, priority="low")
    urgent = await filed(house, priority="urgent")
    assert [candidate.key for candidate in await house.engine.candidates(10)] == [urgent, low]


async def test_no_more_items_are_taken_up_than_their_agent_has_free_slots(house: House) -> None:
    """Else they race for the slot, and the least urgent may win it."""
    low = await filed(house, priority="low")
    urgent = await filed(house, priority="urgent")
    assert [candidate.key for candidate in await house.engine.candidates(10)] == [urgent]
    assert await house.engine.candidates(10, [urgent]) == [], "it is being begun"
    work = await taken(house, urgent)
    assert await house.engine.candidates(10, [urgent]) == [], "its run is not open yet"
    await slots(house, 2)
    assert [candidate.key for candidate in await house.engine.candidates(10, [urgent])] == [low]
    await finish_run(work)
    await slots(house, 1)
    assert [candidate.key for candidate in await house.engine.candidates(10, [urgent])] == [low]


async def test_who_waits_behind_items_of_a_busy_agent_is_taken_up_all_the_same(house: House) -> None:
    queue = [await filed(house, priority="urgent") for _ in range(3)]
    other = await filed(house)
    async with house.database.command("move on") as unit:
        on = update(WorkItem).where(col(WorkItem.key) == other).values(stage="development")
        await unit.session.exec(on)
    assert [candidate.key for candidate in await house.engine.candidates(2)] == [queue[0], other]


async def test_an_item_with_an_open_dependency_is_not_taken_up(house: House) -> None:
    first = await filed(house)
    second = await filed(house, depends_on=[first])
    assert [candidate.key for candidate in await house.engine.candidates(10)] == [first]
    await pass_stage(house, first)
    await house.engine.decide(first, OWNER, approved=True)
    await pass_stage(house, first)
    await pass_stage(house, first)
    assert [candidate.key for candidate in await house.engine.candidates(10)] == [second]


async def test_an_item_with_an_open_dependency_is_not_begun_by_hand_either(house: House) -> None:
    first = await filed(house)
    second = await filed(house, depends_on=[first])
    with pytest.raises(Conflict, match=f"{second} waits for {first}") as refusal:
        await taken(house, second)
    assert refusal.value.code == "waits"
    await house.board.edit(OWNER, second, Changes(depends_on=()))
    await taken(house, second)


async def test_an_item_that_needs_a_cancelled_one_becomes_a_persons_move(house: House) -> None:
    first = await filed(house)
    second = await filed(house, depends_on=[first])
    assert await house.engine.block_hopeless() == 0
    await house.engine.cancel(first, OWNER)
    assert await house.engine.block_hopeless() == 1
    item = await state(house, second)
    assert item.state is State.BLOCKED
    assert item.move is not None
    assert f"depends on {first}, which was cancelled" in item.move["why"]
    assert await house.engine.block_hopeless() == 0


async def test_an_item_whose_agent_left_the_roster_becomes_a_persons_move(house: House) -> None:
    key = await filed(house)
    async with house.database.command("leave") as unit:
        await unit.session.exec(delete(Agent).where(col(Agent.slug) == "analyst"))
    [candidate] = await house.engine.candidates(10)
    with pytest.raises(Conflict, match="needs the agent analyst, who is not in the roster"):
        await house.engine.claim(candidate)
    item = await state(house, key)
    assert item.state is State.BLOCKED and item.move is not None
    assert "Add analyst to the roster" in item.move["todo"]
    assert await house.engine.candidates(10) == []


async def test_an_agent_without_a_free_slot_gets_nothing_more(house: House) -> None:
    busy, waiting = await filed(house), await filed(house)
    work = await taken(house, busy)
    await work.open_run("0" * 40)
    assert await house.engine.candidates(10) == []
    other = await taken(house, waiting)
    with pytest.raises(Conflict) as refusal:
        await other.open_run("0" * 40)
    assert refusal.value.code == "busy"
    await other.postpone(0)
    assert (await state(house, waiting)).state is State.QUEUED
