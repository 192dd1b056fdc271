"""Decisions over the API and the command line say which question they answer, and may be repeated."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from quarterdeck.board.cards import Draft, ProjectChanges, ProjectDraft
from quarterdeck.board.model import State
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.settings import Settings
from tests.fakes.doors import desk_doors
from tests.fakes.homes import furnished
from tests.fakes.repositories import make_repository
from tests.fakes.stage_work import OWNER, filed, pass_stage, state

PIPELINE = """
name: default
stages:
  - {name: analysis, agent: analyst, gates: [{check_documents: [brd]}], approval: true}
  - {name: design, agent: developer, gates: [{check_documents: [sad]}], approval: true}
"""


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE) as house:
        yield house


@pytest.fixture
async def anna(house: House) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": "Bearer anna-token"}
    doors = httpx.ASGITransport(desk_doors(house))
    async with httpx.AsyncClient(transport=doors, base_url="http://desk/api/v1", headers=headers) as api:
        yield api


async def asks(house: House, key: str) -> str:
    """Work on the item's stage until it asks for approval; the request's id."""
    await pass_stage(house, key)
    return str((await state(house, key)).move["approval"])  # type: ignore[index]


async def say(api: httpx.AsyncClient, key: str, verb: str, request_key: str = "", **body: Any) -> Any:
    headers = {"Idempotency-Key": request_key} if request_key else {}
    return await api.post(f"/items/{key}/{verb}", json={"comment": "read it"} | body, headers=headers)


async def test_a_decision_that_is_repeated_does_not_answer_the_next_question(
    house: House, anna: httpx.AsyncClient
) -> None:
    key = await filed(house)
    await asks(house, key)
    assert (await say(anna, key, "approve", "once")).status_code == 200
    await asks(house, key)
    again = await say(anna, key, "approve", "once")
    assert (again.status_code, again.json()["state"]) == (200, "waiting_approval")
    assert (await state(house, key)).state is State.WAITING_APPROVAL
    other = await say(anna, key, "reject", "once")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("verb", ["approve", "reject"])
async def test_a_decision_about_what_was_asked_before_is_refused(
    house: House, anna: httpx.AsyncClient, verb: str
) -> None:
    key = await filed(house)
    first = await asks(house, key)
    await house.engine.decide(key, OWNER, approved=False, comment="who pays?")
    second = await asks(house, key)
    late = await say(anna, key, verb, approval=first)
    assert (late.status_code, late.json()["code"]) == (409, "already_decided")
    assert (await say(anna, key, verb, approval=second)).status_code == 200


async def test_the_request_of_another_item_is_not_taken_for_one_of_this(
    house: House, anna: httpx.AsyncClient
) -> None:
    key, other = await filed(house), await filed(house)
    await asks(house, key)
    answer = await say(anna, key, "approve", approval=await asks(house, other))
    assert answer.status_code == 404
    assert (await state(house, key)).state is State.WAITING_APPROVAL


async def test_the_command_line_names_the_request_and_may_be_repeated(
    house: House,
    item_command: Callable[..., Awaitable[tuple[int, Any]]],
) -> None:
    key = await filed(house)
    first = await asks(house, key)
    assert (await item_command("show", key))[1]["move"]["approval"] == first
    approved = ("approve", key, "--approval", first, "--request-key", "once")
    assert (await item_command(*approved))[0] == 0
    second = await asks(house, key)
    code, card = await item_command(*approved)
    assert (code, card["state"]) == (0, "waiting_approval")
    code, refusal = await item_command("reject", key, "-c", "no", "--approval", first)
    assert (code, refusal["code"]) == (1, "already_decided")
    assert (await item_command("reject", key, "-c", "no", "--approval", second))[0] == 0


@pytest.mark.parametrize(
    ("verb", "body", "between"),
    [("cancel", {}, "retry"), ("retry", {}, "cancel"), ("move", {"stage": "analysis"}, "cancel")],
)
async def test_a_command_that_is_repeated_with_its_key_has_one_effect_and_one_answer(
    house: House, anna: httpx.AsyncClient, verb: str, body: dict[str, Any], between: str
) -> None:
    key = await filed(house)
    if verb == "retry":
        await house.engine.cancel(key, OWNER)
    first = await say(anna, key, verb, "once", **body)
    assert first.status_code == 200
    await say(anna, key, between)
    stands = (await anna.get(f"/items/{key}")).json()
    again = await say(anna, key, verb, "once", **body)
    assert (again.status_code, again.json()) == (200, first.json())
    assert (await anna.get(f"/items/{key}")).json() == stands
    other = await say(anna, key, verb, "once", **body | {"comment": "other words"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_command_that_was_refused_leaves_its_key_free(house: House, anna: httpx.AsyncClient) -> None:
    key = await filed(house)
    assert (await say(anna, key, "retry", "once")).status_code == 409
    await house.engine.cancel(key, OWNER)
    assert (await say(anna, key, "retry", "once")).json()["state"] == "queued"


async def test_tests_are_run_again_over_http_by_those_who_may_write(
    house: House, anna: httpx.AsyncClient, tmp_path: Path
) -> None:
    sample = make_repository(tmp_path / "sample")
    draft = ProjectDraft(key="AB", name="Abacus", repository=str(sample))
    await house.board.create_project(OWNER, draft)
    await house.forge.ensure_repository(str(sample))
    first = await house.forge.ci.take("desk")
    assert first is not None
    async with house.database.command("finish CI") as unit:
        await house.forge.ci.finish(unit, first, exit_code=1)
    answer = await anna.post("/projects/AB/rerun-tests", headers={"Idempotency-Key": "once"})
    assert (answer.status_code, answer.json()["commit"]) == (202, first.commit)
    again = await house.forge.ci.take("desk")
    assert again is not None and again.id == first.id
    nowhere = await anna.post("/projects/AB/rerun-tests", json={"of": "item/AB-001"})
    assert (nowhere.status_code, "main" in nowhere.json()["instruction"]) == (404, True)
    async with house.database.command("finish CI") as unit:
        await house.forge.ci.finish(unit, again, exit_code=1)
    repeated = await anna.post("/projects/AB/rerun-tests", headers={"Idempotency-Key": "once"})
    assert (repeated.status_code, repeated.json()) == (202, answer.json())
    assert await house.forge.ci.take("desk") is None
    other = await anna.post("/projects/AB/rerun-tests", json={"of": "x"}, headers={"Idempotency-Key": "once"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_tests_of_an_archived_project_are_run_again_while_something_is_open_in_it(
    house: House, anna: httpx.AsyncClient, tmp_path: Path
) -> None:
    sample = make_repository(tmp_path / "sample")
    draft = ProjectDraft(key="AB", name="Abacus", repository=str(sample))
    await house.board.create_project(OWNER, draft)
    await house.forge.ensure_repository(str(sample))
    card = await house.board.file(OWNER, Draft(project="AB", title="Count"))
    await house.board.edit_project(OWNER, "AB", ProjectChanges(archived=True))
    assert (await anna.post("/projects/AB/rerun-tests")).status_code == 202
    await house.engine.cancel(card.key, OWNER)
    assert (await anna.post("/projects/AB/rerun-tests")).status_code == 404
