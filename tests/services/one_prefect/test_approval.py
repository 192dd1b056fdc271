"""A person decides in Prefect's UI, or somewhere else first."""

from collections.abc import AsyncIterator
from itertools import count
from typing import Any
from uuid import UUID

import httpx
import pytest

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.crew.roster import PersonEntry, read_roster
from quarterdeck.house import House
from quarterdeck.kernel.identity import owner
from quarterdeck.pipeline.model import Approval
from quarterdeck.pipeline.rules import AskApproval
from quarterdeck.pipeline.store import Candidate, item_for_update
from tasks.approvals import close_form, open_form
from tests.services.one_prefect.conftest import RunningPrefect
from tests.services.waiting import until

OWNER = owner("test")
_keys = count(1)

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


@pytest.fixture
async def approval(client_of_prefect: RunningPrefect, runner: None, house: House) -> Approval:
    """An item whose analyst asks for approval."""
    key = f"AP{next(_keys)}"
    await house.board.create_project(OWNER, ProjectDraft(key=key, name="Approvals"))
    item = await house.board.file(OWNER, Draft(project=key, title="Greet the user"))
    work = await house.engine.claim(Candidate(item.key, "analysis", 1))
    await work.record(AskApproval())
    asked = await house.engine.approval_of(item.key)
    assert asked is not None
    return asked


@pytest.fixture
async def anna(prefect: RunningPrefect, house: House) -> AsyncIterator[str]:
    """A person of the roster who may approve; gone afterwards."""
    before = read_roster(prefect.settings.crew_file)
    person = PersonEntry(slug="anna", may_approve=True)
    await house.crew.import_roster(before.model_copy(update={"people": [person]}), {})
    yield person.slug
    await house.crew.import_roster(before, {})


class Form:
    """The form as the UI sees it."""

    def __init__(self, api: httpx.AsyncClient, flow_run: UUID) -> None:
        self.api = api
        self.flow_run = flow_run

    async def run(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.api.get(f"/flow_runs/{self.flow_run}")).json()
        return found

    async def is_waiting(self, times: int = 1) -> bool:
        """Does it wait for the `times`th answer, with its schema stored?"""
        state = (await self.run())["state"]
        if state["name"] != "Suspended" or state["state_details"]["pause_key"] != str(times):
            return False
        return (await self.api.get(f"/flow_runs/{self.flow_run}/input/suspended-{times}-schema")).is_success

    async def wait(self, times: int = 1) -> "Form":
        await until(lambda: self.is_waiting(times))
        return self

    async def question(self, times: int = 1) -> str:
        async def asked() -> str:
            answer = await self.api.get(f"/flow_runs/{self.flow_run}/input/suspended-{times}-description")
            return answer.text if answer.is_success else ""  # stored a moment after the schema

        return str(await until(asked))

    async def resume(self, **answer: Any) -> str:
        told = await self.api.post(f"/flow_runs/{self.flow_run}/resume", json={"run_input": answer})
        return str(told.json()["status"])

    async def end(self) -> dict[str, Any]:
        async def ended() -> Any:
            state = (await self.run())["state"]
            return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        found: dict[str, Any] = await until(ended)
        return found


@pytest.fixture
async def form(approval: Approval, api: httpx.AsyncClient) -> Form:
    return await Form(api, await open_form(approval)).wait()


async def test_a_request_has_one_form_however_often_it_is_opened_and_approving_in_it_moves_the_item(
    form: Form, approval: Approval, house: House, anna: str
) -> None:
    assert await open_form(approval) == form.flow_run
    assert (await form.run())["name"] == f"{approval.item_key} · approval · analysis · 1"
    assert approval.item_key in await form.question()
    assert await form.resume(approve="perhaps") == "REJECT"
    assert await form.resume() == "REJECT"
    assert await form.is_waiting(), "a wrong type leaves the form as it is"
    assert await form.resume(approve=True, by=anna) == "ACCEPT"
    end = await form.end()
    assert (end["type"], end["message"]) == ("COMPLETED", f"Approved by {anna}.")
    decided = await house.engine.approval_of(approval.item_key)
    assert decided is not None
    assert (decided.approved, decided.decided_by, decided.door) == (True, anna, "prefect")
    assert (await house.board.item(approval.item_key)).stage == "architecture"


async def test_a_rejection_without_a_reason_is_asked_again_with_the_reason(form: Form, house: House) -> None:
    assert await form.resume(approve=False) == "ACCEPT"
    await form.wait(2)
    assert "needs a comment" in await form.question(2)
    assert await form.resume(approve=False, comment="Too vague.") == "ACCEPT"
    assert (await form.end())["message"] == "Rejected by owner."


async def test_the_form_closes_when_another_door_was_first(
    form: Form, approval: Approval, house: House
) -> None:
    await house.engine.decide(approval.item_key, OWNER, approved=True)
    assert await close_form(form.flow_run, "Already approved by owner (test).")
    state = (await form.run())["state"]
    assert (state["type"], state["name"]) == ("COMPLETED", "Closed")
    assert state["message"] == "Already approved by owner (test)."
    assert await close_form(form.flow_run, "again")
    await form.api.delete(f"/flow_runs/{form.flow_run}")
    assert await close_form(form.flow_run, "again"), "a form that Prefect forgot is closed"


async def test_resume_after_another_door_says_who_decided(
    form: Form, approval: Approval, house: House
) -> None:
    await house.engine.decide(approval.item_key, OWNER, approved=True)
    assert await form.resume(approve=False, comment="No!") == "ACCEPT"
    assert (await form.end())["message"] == "Already approved by owner (test)."
    assert (await house.board.item(approval.item_key)).stage == "architecture"


async def test_a_question_that_cannot_be_answered_is_shown_again_with_the_reason_and_the_way_on(
    form: Form, approval: Approval, house: House
) -> None:
    async with house.database.command("lose the stage") as unit:
        (await item_for_update(unit.session, approval.item_key)).stage = "design"
    assert await form.resume(approve=True) == "ACCEPT"
    await form.wait(2)
    assert f"`quarterdeck item move {approval.item_key} STAGE`" in await form.question(2)
    await house.engine.move(approval.item_key, OWNER, "analysis")
    assert await form.resume(approve=True) == "ACCEPT"
    assert (await form.end())["message"] == "Withdrawn by owner."


async def test_a_form_that_was_lost_is_put_up_anew(
    form: Form, approval: Approval, api: httpx.AsyncClient
) -> None:
    lost = {"state": {"type": "CRASHED", "name": "Crashed"}, "force": True}
    await api.post(f"/flow_runs/{form.flow_run}/set_state", json=lost)
    again = await open_form(approval)
    assert again != form.flow_run
    await Form(api, again).wait()
