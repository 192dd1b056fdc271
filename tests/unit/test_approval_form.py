"""The form in Prefect's UI answers the request that it shows, and no other."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prefect.client.schemas.objects import State as FlowState

from flows import approval as form
from quarterdeck.board.model import State
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.settings import Settings
from tasks.approvals import decide
from tests.fakes.homes import furnished
from tests.fakes.stage_work import OWNER, PIPELINE, filed, pass_stage, state


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE) as house:
        yield house


async def test_an_answer_does_not_decide_what_is_asked_in_the_meantime(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another door rejects, and the agent asks anew, between the form's last look and its decision."""
    key = await filed(house)
    await pass_stage(house, key)
    asked = await house.engine.approval_of(key)
    assert asked is not None

    async def answer(**_: object) -> form.Decision:
        await house.engine.decide(key, OWNER, approved=False, comment="again")
        await pass_stage(house, key)
        return form.Decision(approve=True)

    monkeypatch.setattr(form, "asuspend_flow_run", answer)
    monkeypatch.setattr(form, "decide", decide.fn)
    ended: FlowState[None] = await form.ask_for_approval.fn(key, asked.stage, asked.round, asked.id)
    assert ended.message == f"{key} was already decided by owner (rejected)."
    assert ((await state(house, key)).state, (await state(house, key)).round) == (State.WAITING_APPROVAL, 2)


async def test_a_name_that_nobody_has_is_asked_for_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await filed(house)
    await pass_stage(house, key)
    asked = await house.engine.approval_of(key)
    assert asked is not None
    names, shown = ["an" * 40, "anna"], []

    async def answer(**form_of: type[form.Decision]) -> form.Decision:
        shown.append(str(form_of["wait_for_input"]._description))
        return form.Decision(approve=True, by=names.pop(0))

    monkeypatch.setattr(form, "asuspend_flow_run", answer)
    monkeypatch.setattr(form, "decide", decide.fn)
    ended: FlowState[None] = await form.ask_for_approval.fn(key, asked.stage, asked.round, asked.id)
    assert ended.message == "Approved by anna."
    assert "There is: anna, vera." not in shown[0]
    assert "There is: anna, vera." in shown[1]
