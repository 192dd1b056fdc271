"""The agents API: who may make agents, runs by hand that never take more slots than there are, callbacks."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import col, select

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.crew.callbacks import item_of
from quarterdeck.crew.model import RunState
from quarterdeck.crew.roster import AgentEntry
from quarterdeck.crew.runtime import Outcome
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.errors import NotFound
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.inbox import Delivery, Ignored
from quarterdeck.kernel.journal import Event
from quarterdeck.pipeline.openclaw_door import OpenClawDoor
from tests.fakes.agent_ws import END, FakeAgent, Pause, say
from tests.fakes.company import ANNA, OWNER, VIKTOR, company
from tests.fakes.doors import desk_doors
from tests.fakes.openclaw import GATEWAY_TOKEN, HOOKS_TOKEN, FakeOpenClaw
from tests.waiting import until

TALKER = {"slug": "talker", "runtime": "agent_api", "max_concurrent": 2}


@pytest.fixture
async def house(tmp_path: Path, database_url: str) -> AsyncIterator[House]:
    async with company(tmp_path / "home", database_url) as open_house:
        await open_house.board.create_project(owner("test"), ProjectDraft(key="ET", name="Enduro"), "")
        await open_house.board.file(owner("test"), Draft(project="ET", title="Count the laps"), "")
        yield open_house


@pytest.fixture
async def agent() -> AsyncIterator[FakeAgent]:
    async with FakeAgent() as fake:
        yield fake


def client(house: House, token: str = OWNER) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(desk_doors(house)),
        base_url="http://desk/api/v1",
        headers={"Authorization": f"Bearer {token}"},
    )


async def hired(house: House, agent: FakeAgent, **changes: Any) -> None:
    wanted = TALKER | {"parameters": {"base_url": agent.base("agent_1")}} | changes
    async with client(house) as api:
        assert (await api.post("/agents", json=wanted)).status_code == 201


async def assigned(house: House, agent: str = "talker", token: str = OWNER, **more: Any) -> httpx.Response:
    async with client(house, token) as api:
        wanted = {"task_id": "ET-001", "prompt": "Say something."} | more.pop("body", {})
        return await api.post(f"/agents/{agent}/assign", json=wanted, **more)


async def test_an_agent_is_created_shown_and_changed(house: House, agent: FakeAgent) -> None:
    await hired(house, agent, model="m", system_prompt="Be brief.")
    async with client(house) as api:
        shown = (await api.get("/agents/talker")).json()
        assert (await api.get(f"/agents/{shown['id']}")).json() == shown
        assert (shown["status"], shown["current_tasks"], shown["runtime"]) == ("idle", 0, "agent_api")
        changed = await api.put(f"/agents/{shown['id']}", json=TALKER | {"name": "Chatter", "enabled": False})
        assert changed.status_code == 200, changed.text
        card = changed.json()
        assert (card["name"], card["status"], card["model"]) == ("Chatter", "offline", "")
        assert "talker" in [entry["slug"] for entry in (await api.get("/agents")).json()["items"]]


@pytest.mark.parametrize("slug", ["analyst", "anna", "owner", "engine"])
async def test_a_name_that_is_taken_is_refused(house: House, slug: str) -> None:
    async with client(house) as api:
        answer = await api.post("/agents", json=TALKER | {"slug": slug})
    assert (answer.status_code, answer.json()["code"]) == (409, "slug_taken")


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"runtime": "telepathy"}, "runtime"),
        ({"runtime": "model"}, "model"),
        ({"runtime": "command", "parameters": {}}, "parameters.program"),
        ({"parameters": {"base_url": "nowhere"}}, "parameters.base_url"),
    ],
)
async def test_an_agent_that_could_not_work_is_refused(
    house: House, wanted: dict[str, Any], field: str
) -> None:
    async with client(house) as api:
        answer = await api.post("/agents", json=TALKER | wanted)
    assert answer.status_code == 422
    assert [wrong["field"] for wrong in answer.json()["errors"]] == [field]


async def test_only_the_owner_makes_agents(house: House) -> None:
    for token in (ANNA, VIKTOR):
        async with client(house, token) as api:
            assert (await api.post("/agents", json=TALKER)).status_code == 403
            assert (await api.put("/agents/analyst", json=TALKER)).status_code == 403


async def test_an_agent_without_an_address_works_and_talks_where_the_entered_one_leads(
    house: House, agent: FakeAgent
) -> None:
    agent.says([say("Four laps."), END])
    async with client(house) as api:
        assert (await api.post("/agents", json=TALKER)).status_code == 201
    async with house.database.command("connect") as unit:
        await house.connections.put(unit, "agent_api", "default", {"url": agent.base("agent_9")}, Source.API)
    begun = await assigned(house)
    await house.assignments.see_through()
    await _until_ended(house, begun.json()["id"])
    assert (await house.crew.run(begun.json()["id"])).result == {"summary": "Four laps."}
    talker = await house.talking.client("talker")
    assert talker is not None
    assert (await talker.send_message("anna", "41", "How many?")).response == "Four laps."
    assert agent.paths[1:] == ["/agent_9/v1/agent_ws/41/"]
    assert agent.paths[0].startswith("/agent_9/")


async def test_an_agent_of_openclaw_is_woken_by_who_may_write(house: House) -> None:
    async with FakeOpenClaw() as gateway, client(house) as api:
        value = {"url": gateway.url, "token": GATEWAY_TOKEN, "hooks_token": HOOKS_TOKEN}
        for slug, enabled in (("claw", True), ("asleep", False)):
            wanted = {"slug": slug, "runtime": "openclaw", "enabled": enabled}
            assert (await api.post("/agents", json=wanted)).status_code == 201
        early = await api.post("/agents/claw/wake", json={"text": "Look."})
        assert (early.status_code, early.json()["code"]) == (409, "not_connected")
        async with house.database.command("connect") as unit:
            await house.connections.put(unit, "openclaw", "default", value, Source.API)
        answers = {
            slug: await api.post(f"/agents/{slug}/wake", json={"text": "Look."})
            for slug in ("claw", "asleep", "analyst", "nobody")
        }
        async with client(house, VIKTOR) as viewer:
            answers["viewer"] = await viewer.post("/agents/claw/wake", json={"text": "Look."})
        assert [(woken["text"], woken["mode"]) for woken in gateway.woken] == [("Look.", "now")]
        headers = {"Idempotency-Key": "once"}
        once, again, other = [
            await api.post("/agents/claw/wake", json={"text": text}, headers=headers)
            for text in ("Again.", "Again.", "Else.")
        ]
        assert (once.status_code, once.json()) == (200, again.json())
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert [woken["text"] for woken in gateway.woken] == ["Look.", "Again."]
    assert {who: answer.status_code for who, answer in answers.items()} == {
        "claw": 200,
        "asleep": 409,
        "analyst": 409,
        "nobody": 404,
        "viewer": 403,
    }
    assert answers["claw"].json() == {"agent": "claw", "mode": "now", "outcome": "queued"}
    assert [answers[who].json()["code"] for who in ("asleep", "analyst")] == [
        "agent_disabled",
        "not_wakeable",
    ]
    async with house.database.read() as session:
        told = (await session.exec(select(Event).where(col(Event.kind) == "agent_woken"))).all()
    assert [event.data for event in told] == [{"agent": "claw", "by": "owner"}] * 2


async def test_an_agent_cannot_be_renamed(house: House) -> None:
    async with client(house) as api:
        answer = await api.put("/agents/analyst", json=TALKER)
    assert (answer.status_code, answer.json()["code"]) == (409, "slug_fixed")


async def test_an_assigned_run_is_seen_through_and_gives_its_slot_back(
    house: House, agent: FakeAgent
) -> None:
    agent.says([say("Four laps."), END])
    await hired(house, agent)
    begun = await assigned(house)
    assert begun.status_code == 201, begun.text
    assert (begun.json()["session_key"], begun.json()["item"]) == ("task:ET-001", "ET-001")
    assert (await house.crew.agent_card("talker")).current_tasks == 1
    await house.assignments.see_through()
    await _until_ended(house, begun.json()["id"])
    run = await house.crew.run(begun.json()["id"])
    assert (run.exit_code, run.result) == (0, {"summary": "Four laps."})
    assert (await house.crew.agent_card("talker")).current_tasks == 0
    assert "Say something." in agent.messages[0]["text"]
    kinds = [event.kind for event in (await house.board.events("ET-001", 0, 100)).items]
    assert kinds[-2:] == ["agent_started", "agent_finished"]


async def _until_ended(house: House, run_id: int) -> None:
    async with asyncio.timeout(20):
        while (await house.crew.run(run_id)).state is not RunState.ENDED:
            await asyncio.sleep(0.05)


async def test_a_disabled_and_a_busy_agent_say_so(house: House, agent: FakeAgent) -> None:
    await hired(house, agent, max_concurrent=1)
    assert (await assigned(house)).status_code == 201
    busy = await assigned(house)
    assert (busy.status_code, busy.json()["detail"]) == (400, "Agent is busy")
    async with client(house) as api:
        await api.put("/agents/talker", json=TALKER | {"enabled": False})
    disabled = await assigned(house)
    assert (disabled.status_code, disabled.json()["detail"]) == (400, "Agent is disabled")


async def test_what_is_not_there_and_who_may_not(house: House) -> None:
    assert (await assigned(house, "nobody")).status_code == 404
    assert (await assigned(house, "analyst", body={"task_id": "ET-999"})).status_code == 404
    assert (await assigned(house, "analyst", body={"prompt": ""})).status_code == 422
    assert (await assigned(house, "analyst", VIKTOR)).status_code == 403


async def test_the_same_request_begins_one_run(house: House, agent: FakeAgent) -> None:
    await hired(house, agent, max_concurrent=5)
    key = {"Idempotency-Key": "once"}
    answers = await asyncio.gather(*(assigned(house, headers=key) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1


@pytest.mark.parametrize(("slots", "wishes"), [(1, 2), (1, 8), (3, 8), (4, 3)])
async def test_assigns_at_once_never_exceed_the_slots(
    house: House, agent: FakeAgent, slots: int, wishes: int
) -> None:
    await hired(house, agent, max_concurrent=slots)
    answers = await asyncio.gather(*(assigned(house) for _ in range(wishes)))
    taken = [answer.status_code for answer in answers].count(201)
    assert taken == min(slots, wishes)
    assert (await house.crew.agent_card("talker")).current_tasks == taken


async def test_a_callback_finishes_the_run_and_a_second_one_changes_nothing(
    house: House, agent: FakeAgent
) -> None:
    agent.says([Pause(60), END])
    await hired(house, agent)
    run_id = (await assigned(house)).json()["id"]
    await house.assignments.see_through()
    await until(lambda: agent.messages)
    async with client(house, ANNA) as api:
        report = {"sessionKey": "agent:main:task:et-001", "text": "Done elsewhere.", "tokens": 77}
        first = await api.post("/agents/callback", json=report)
        assert first.status_code == 200, first.text
        await api.post("/agents/callback", json=report | {"text": "Something else."})
        await _until_ended(house, run_id)
        again = await api.post("/agents/callback", json=report)
    run = await house.crew.run(run_id)
    assert (run.exit_code, run.result, run.tokens) == (0, {"summary": "Done elsewhere."}, 77)
    assert (again.status_code, again.json()["state"]) == (200, "ended")


async def test_a_callback_that_is_told_again_does_not_finish_the_next_run(house: House) -> None:
    await house.crew.create_agent(owner("test"), AgentEntry.model_validate(TALKER))
    report = {"sessionKey": "task:ET-001", "text": "Done elsewhere."}
    first = (await assigned(house)).json()["id"]
    async with client(house) as api:
        assert (await api.post("/agents/callback", json=report)).json()["id"] == first
        async with house.database.command("end run") as unit:
            await house.crew.close_run(unit, first, Outcome(exit_code=0))
        second = (await assigned(house)).json()["id"]
        folder = house.crew.folder_of(await house.crew.run(second))
        for late in (report, report | {"runId": first}):
            again = await api.post("/agents/callback", json=late)
            assert (again.status_code, again.json()["id"]) == (200, first)
        assert not (folder / "callback.json").exists()
        unknown = await api.post("/agents/callback", json=report | {"runId": 10**6})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_run")
        named = await api.post("/agents/callback", json=report | {"runId": second})
        assert named.json()["id"] == second
    assert (folder / "callback.json").exists()


async def test_a_callback_with_an_error_fails_the_run(house: House, agent: FakeAgent) -> None:
    agent.says([Pause(60), END])
    await hired(house, agent)
    run_id = (await assigned(house)).json()["id"]
    async with client(house) as api:  # before anybody has even started it
        report = {"sessionKey": "task:ET-001", "error": "no disk"}
        assert (await api.post("/agents/callback", json=report)).status_code == 200
    await house.assignments.see_through()
    await _until_ended(house, run_id)
    assert "no disk" in (await house.crew.run(run_id)).error


@pytest.mark.parametrize("key", ["task:ET-999", "task:", "ET-001", "main", "task:ET-001; drop"])
async def test_a_callback_of_an_unknown_session_is_not_found(house: House, key: str) -> None:
    async with client(house) as api:
        answer = await api.post("/agents/callback", json={"sessionKey": key})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_session")


async def test_a_callback_needs_somebody_who_may_write(house: House) -> None:
    for token, status in (("nobodys-token", 401), (VIKTOR, 403)):
        async with client(house, token) as api:
            answer = await api.post("/agents/callback", json={"sessionKey": "task:ET-001"})
        assert answer.status_code == status


async def test_a_run_of_a_cancelled_item_is_stopped(house: House, agent: FakeAgent) -> None:
    agent.says([Pause(60), END])
    await hired(house, agent)
    run_id = (await assigned(house)).json()["id"]
    await house.assignments.see_through()
    await until(lambda: agent.messages)
    assert await house.engine.stop_stray_runs() == 0  # the item's own stage has nothing to do with it
    await house.engine.cancel("ET-001", owner("test"))
    await house.engine.stop_stray_runs()
    await _until_ended(house, run_id)
    assert (await house.crew.run(run_id)).cancelled


async def test_a_run_that_was_given_by_hand_is_stopped_over_the_api_with_its_agent(
    house: House, agent: FakeAgent
) -> None:
    agent.says([Pause(60), END])
    await hired(house, agent)
    run_id = (await assigned(house)).json()["id"]
    await house.assignments.see_through()
    await until(lambda: agent.messages)
    async with client(house, VIKTOR) as viewer:
        assert (await viewer.post(f"/runs/{run_id}/cancel")).status_code == 403
    async with client(house, ANNA) as api:
        wish = {"json": {"comment": "enough"}, "headers": {"Idempotency-Key": "once"}}
        stopped = await api.post(f"/runs/{run_id}/cancel", **wish)
        assert (await api.post(f"/runs/{run_id}/cancel", **wish)).json() == stopped.json()
        assert stopped.status_code == 200, stopped.text
        assert (stopped.json()["state"], stopped.json()["error"]) == ("ended", "stopped by anna: enough")
        assert (await api.post(f"/runs/{run_id}/cancel")).status_code == 409
        assert (await api.post(f"/runs/{run_id + 1}/cancel")).status_code == 404
        assert (await api.get("/agents/talker")).json()["current_tasks"] == 0
        assert (await api.get("/items/ET-001")).json()["state"] == "queued"


def delivery(**changes: Any) -> Delivery:
    body = {"jobId": "j", "action": "finished", "status": "ok", "summary": "By cron.", "runAtMs": 1} | changes
    at = datetime.now(UTC)
    return Delivery(1, "openclaw", "1", "cron.finished", {}, json.dumps(body).encode(), at)


async def test_a_cron_job_of_openclaw_reports_the_end_of_a_run(house: House, agent: FakeAgent) -> None:
    agent.says([Pause(60), END])
    await hired(house, agent)
    run_id = (await assigned(house)).json()["id"]
    door = OpenClawDoor(house.crew.callbacks)
    session = "agent:main:cron:j:run:s"
    told = await door(delivery(sessionKey=session, job={"name": "task:ET-001"}, usage={"total_tokens": 9}))
    assert "reported as finished" in told
    await house.assignments.see_through()
    await _until_ended(house, run_id)
    assert (await house.crew.run(run_id)).tokens == 9


@pytest.mark.parametrize(
    "changes", [{"action": "started"}, {"sessionKey": "x"}, {"job": []}, {"job": {"name": "dreaming"}}]
)
async def test_other_jobs_of_openclaw_are_passed_over(house: House, changes: dict[str, Any]) -> None:
    assert isinstance(await OpenClawDoor(house.crew.callbacks)(delivery(**changes)), Ignored)


@given(prefix=st.sampled_from(["", "hook:", "agent:main:", "agent:main:hook:"]), number=st.integers(1, 10**6))
def test_a_session_is_its_items_whatever_the_gateway_calls_it(prefix: str, number: int) -> None:
    assert item_of(f"{prefix}task:et-{number:03}") == f"ET-{number:03}"


@given(st.text(max_size=60))
def test_no_other_key_is_taken_for_a_session_of_ours(key: str) -> None:
    try:
        assert f"task:{item_of(key)}".lower() in key.lower()
    except NotFound:
        return
