"""A person puts an item back into a stage; forward it goes through gates and approvals alone."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from quarterdeck.board.model import OUTSIDE, State
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Forbidden, NotFound, Stale
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.rules import Block
from quarterdeck.pipeline.store import item_for_update
from tests.fakes.doors import desk_doors
from tests.fakes.homes import furnished
from tests.fakes.stage_work import OWNER, PIPELINE, filed, finish_run, kinds, pass_stage, state, taken

ANNA = Caller("anna", "api", may_write=True)
VERA = Caller("vera", "api")


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE) as house:
        yield house


async def in_development(house: House) -> str:
    key = await filed(house)
    await pass_stage(house, key)
    await house.engine.decide(key, OWNER, approved=True)
    return key


async def test_an_item_is_moved_back_for_another_round_with_words_for_its_agent(
    house: House,
) -> None:
    key = await in_development(house)
    await house.engine.move(key, ANNA, "analysis", "the users changed their minds")
    item = await state(house, key)
    assert (item.stage, item.round, item.state) == ("analysis", 2, State.QUEUED)
    assert item.note == "moved by anna: the users changed their minds"
    assert (await kinds(house, key))[-2:] == ["item_moved", "stage_changed"]
    await pass_stage(house, key)
    assert (await state(house, key)).state is State.WAITING_APPROVAL


async def test_moving_within_its_stage_withdraws_the_question_and_changes_no_stage(house: House) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    asked = await house.engine.approval_of(key)
    assert asked is not None
    await house.engine.move(key, ANNA, "analysis")
    item = await state(house, key)
    assert (item.round, item.state, item.move, item.note) == (2, State.QUEUED, None, "moved by anna")
    assert "stage_changed" not in await kinds(house, key)
    withdrawn = await house.engine.approval(asked.id)
    assert (withdrawn.approved, withdrawn.decided_by) == (None, "anna")
    assert withdrawn.comment == "withdrawn: the item was moved"


async def test_a_move_takes_the_item_from_whoever_works_on_it_and_stops_its_agent(house: House) -> None:
    key = await in_development(house)
    work = await taken(house, key)
    agents = await work.open_run("0" * 40)
    await house.engine.move(key, ANNA, "analysis")
    with pytest.raises(Stale):
        await work.next_step()
    assert await house.engine.candidates(10) == []
    assert await house.engine.stop_stray_runs() == 1
    assert (await house.crew.run(agents.id or 0)).cancelled
    assert [candidate.stage for candidate in await house.engine.candidates(10)] == ["analysis"]


async def test_a_move_gives_the_stage_a_fresh_budget_and_leaves_that_of_others(house: House) -> None:
    key = await in_development(house)
    for _ in range(2):
        work = await taken(house, key)
        await finish_run(work, exit_code=1)
        await work.record(await work.next_step())  # type: ignore[arg-type]
    blocked = await state(house, key)
    assert (blocked.state, blocked.spent) == (State.BLOCKED, {"agent:development": 1})
    await house.engine.move(key, ANNA, "analysis")
    assert (await state(house, key)).spent == {"agent:development": 1}
    await pass_stage(house, key)
    await house.engine.decide(key, OWNER, approved=True)
    await house.engine.move(key, ANNA, "development")
    assert (await state(house, key)).spent == {}


@pytest.mark.parametrize("stage", ["development", "merge"])
async def test_nobody_is_moved_past_gates_and_approvals(house: House, stage: str) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    with pytest.raises(Conflict) as refused:
        await house.engine.move(key, OWNER, stage)
    assert refused.value.code == "stage_ahead"
    assert refused.value.instruction.endswith("it can be moved to: analysis.")
    assert (await state(house, key)).state is State.WAITING_APPROVAL


async def test_an_item_whose_stage_was_taken_away_is_moved_to_one_where_it_was(house: House) -> None:
    key = await in_development(house)
    async with house.database.command("lose the stage") as unit:
        item = await item_for_update(unit.session, key)
        item.stage = "design"
    with pytest.raises(Conflict, match="lies ahead"):
        await house.engine.move(key, ANNA, "development")
    await house.engine.move(key, ANNA, "analysis")
    assert (await state(house, key)).stage == "analysis"


async def test_a_cancelled_item_whose_stage_was_taken_away_is_taken_up_again_by_a_move(house: House) -> None:
    key = await in_development(house)
    await house.engine.cancel(key, OWNER)
    with pytest.raises(Conflict, match="Retry it first"):
        await house.engine.move(key, ANNA, "analysis")
    async with house.database.command("lose the stage") as unit:
        (await item_for_update(unit.session, key)).stage = "design"
    with pytest.raises(Conflict, match="no longer has") as lost:
        await house.engine.retry(key, OWNER)
    assert f"`quarterdeck item move {key} STAGE` puts it into one that is there: analysis." in str(lost.value)
    await house.engine.move(key, ANNA, "analysis")
    item = await state(house, key)
    assert (item.stage, item.state, item.finished_at) == ("analysis", State.QUEUED, None)
    assert (await taken(house, key)).stage.name == "analysis"


async def test_a_question_whose_stage_was_taken_away_cannot_be_answered_and_a_move_is_the_way_on(
    house: House,
) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    async with house.database.command("lose the stage") as unit:
        (await item_for_update(unit.session, key)).stage = "design"
    with pytest.raises(Conflict, match="no longer has") as lost:
        await house.engine.decide(key, OWNER, approved=True)
    assert lost.value.code == "no_stage"
    assert f"`quarterdeck item move {key} STAGE`" in str(lost.value)
    assert (await state(house, key)).state is State.WAITING_APPROVAL
    await house.engine.move(key, ANNA, "analysis")
    assert (await taken(house, key)).stage.name == "analysis"


async def test_who_may_not_and_what_cannot_be_moved(house: House) -> None:
    key = await filed(house)
    with pytest.raises(Forbidden):
        await house.engine.move(key, VERA, "analysis")
    with pytest.raises(NotFound, match="nonsense"):
        await house.engine.move(key, ANNA, "nonsense")
    with pytest.raises(Stale):
        await house.engine.move(key, ANNA, "analysis", version=99)
    await house.engine.cancel(key, OWNER)
    with pytest.raises(Conflict, match="Retry it first") as final:
        await house.engine.move(key, ANNA, "analysis")
    assert final.value.code == "item_final"
    other = await filed(house)
    async with house.database.command("adopt") as unit:
        (await item_for_update(unit.session, other)).pipeline = OUTSIDE
    with pytest.raises(Conflict, match="another source"):
        await house.engine.move(other, ANNA, "analysis")


async def test_an_item_is_moved_over_the_api(house: House) -> None:
    key = await in_development(house)
    doors = httpx.ASGITransport(desk_doors(house))
    headers = {"Authorization": "Bearer anna-token"}
    async with httpx.AsyncClient(transport=doors, base_url="http://desk/api/v1", headers=headers) as api:
        version = (await api.get(f"/items/{key}")).json()["version"]
        late = await api.post(f"/items/{key}/move", json={"stage": "analysis", "version": version - 1})
        assert (late.status_code, late.json()["code"]) == (412, "stale")
        way = {"stage": "analysis", "comment": "once more", "version": version}
        moved = await api.post(f"/items/{key}/move", json=way)
        assert (moved.status_code, moved.json()["stage"], moved.json()["round"]) == (200, "analysis", 2)
        ahead = await api.post(f"/items/{key}/move", json={"stage": "merge"})
        assert (ahead.status_code, ahead.json()["code"]) == (409, "stage_ahead")


async def test_an_item_is_moved_from_the_command_line(
    house: House,
    item_command: Callable[..., Awaitable[tuple[int, Any]]],
) -> None:
    key = await in_development(house)
    code, card = await item_command("move", key, "analysis", "--comment", "once more")
    assert (code, card["stage"], card["note"]) == (0, "analysis", "moved by owner: once more")
    assert (await item_command("move", key, "development"))[1]["code"] == "stage_ahead"
    assert (await item_command("move", key, "analysis", "--version", "1"))[1]["code"] == "stale"


async def test_what_is_blocked_can_be_moved(house: House) -> None:
    key = await in_development(house)
    work = await taken(house, key)
    await work.record(Block("The specification is wrong.", "Move it back."))
    await house.engine.move(key, ANNA, "analysis")
    assert (await state(house, key)).state is State.QUEUED
