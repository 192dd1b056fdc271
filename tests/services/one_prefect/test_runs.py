"""Deployments that are started from our own API, and runs that somebody has to close."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
import httpx
import pytest
from prefect.runner._process_manager import ProcessHandle
from structlog.testing import capture_logs

from deployments.api import run_by_name
from deployments.catalogue import CATALOGUE
from deployments.runner import HandingOver, hear_cancellations
from quarterdeck.house import House
from quarterdeck.kernel.errors import Invalid, NotFound, Unavailable
from tasks.upkeep import close_dead_runs, close_overdue_runs
from tests.fakes.clock import ManualClock
from tests.fakes.ports import free_port
from tests.services.one_prefect.conftest import RunningPrefect
from tests.services.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


@pytest.fixture
def known(prefect: RunningPrefect) -> RunningPrefect:
    """A server that knows the catalogue."""
    prefect.must_be_set_up("core", "prefect")
    return prefect


async def state_of(api: httpx.AsyncClient, run: str) -> dict[str, Any]:
    state: dict[str, Any] = (await api.get(f"/flow_runs/{run}")).json()["state"]
    return state


@pytest.mark.parametrize("name", ["keep-house", "deliver"])
async def test_a_deployment_started_by_name_runs_in_a_process_of_its_own(
    known: RunningPrefect, runner: None, api: httpx.AsyncClient, name: str
) -> None:
    state = await end_of(known, api, name)
    while state["type"] == "CANCELLED":  # one that was due already is in the way
        state = await end_of(known, api, name)
    assert state["type"] == "COMPLETED"
    assert state["message"]


async def end_of(prefect: RunningPrefect, api: httpx.AsyncClient, name: str) -> dict[str, Any]:
    started = await run_by_name(prefect.settings, name, {})

    async def ended() -> Any:
        state = await state_of(api, started.flow_run_id)
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    found: dict[str, Any] = await until(ended, 400)
    return found


async def test_an_unknown_deployment_is_answered_with_those_that_exist(known: RunningPrefect) -> None:
    with pytest.raises(NotFound, match=r"approval, deliver, keep-house, .*stage"):
        await run_by_name(known.settings, "nonsense", {})


async def test_a_missing_parameter_is_named_and_nothing_is_started(
    known: RunningPrefect, api: httpx.AsyncClient
) -> None:
    wanted = {"deployments": {"name": {"any_": ["stage"]}}}
    before = (await api.post("/flow_runs/count", json=wanted)).json()
    with pytest.raises(Invalid) as refusal:
        await run_by_name(known.settings, "stage", {"round": 1})
    assert refusal.value.data["field"] == "parameters.item"
    assert (await api.post("/flow_runs/count", json=wanted)).json() == before


async def test_without_prefect_the_answer_is_that_it_is_down(known: RunningPrefect) -> None:
    settings = known.settings.model_copy(update={"prefect_port": free_port()})
    with pytest.raises(Unavailable):
        await run_by_name(settings, "keep-house", {})


async def running(api: httpx.AsyncClient, flow: str, kind: str = "RUNNING") -> str:
    """A run of a flow whose process never was."""
    known = (await api.post("/flows/", json={"name": flow})).json()
    run = (await api.post("/flow_runs/", json={"flow_id": known["id"]})).json()["id"]
    for state in ("RUNNING", kind):
        await set_state(api, run, state)
    return str(run)


async def set_state(api: httpx.AsyncClient, run: str, state: str) -> None:
    wanted = {"state": {"type": state, "name": state.capitalize()}, "force": True}
    (await api.post(f"/flow_runs/{run}/set_state", json=wanted)).raise_for_status()


async def test_a_cancelled_run_ends_although_the_connection_that_tells_of_it_was_lost(
    client_of_prefect: RunningPrefect, known: RunningPrefect, api: httpx.AsyncClient
) -> None:
    run = await running(api, "keep house")
    async with HandingOver(name="deaf") as runner, await anyio.open_process(["sleep", "600"]) as work:
        await runner._process_manager.add(UUID(run), ProcessHandle(work))
        observer = runner._cancelling_observer
        assert observer is not None and observer._consumer_task is not None
        observer._consumer_task.cancel()  # nothing takes its place, as at the end of a connection in order
        client, observer._client = observer._client, None  # so that the first look fails, and is not the last
        hearing = asyncio.create_task(hear_cancellations(runner, 0.1))
        await set_state(api, run, "CANCELLING")
        try:
            async with asyncio.timeout(60):
                with capture_logs() as lines:
                    while not lines:
                        await asyncio.sleep(0.1)
                observer._client = client
                await work.wait()
                while (await state_of(api, run))["type"] != "CANCELLED":
                    await asyncio.sleep(0.1)
        finally:
            hearing.cancel()
            with suppress(ProcessLookupError):
                work.kill()


@pytest.mark.parametrize(
    ("flow", "kind", "end"),
    [
        ("stage", "RUNNING", "CRASHED"),
        ("stage", "CANCELLING", "CANCELLED"),
        ("keep house", "RUNNING", "CRASHED"),
        ("listen", "PENDING", "CRASHED"),
    ],
)
async def test_a_run_that_nobody_works_on_is_closed(
    client_of_prefect: RunningPrefect, house: House, api: httpx.AsyncClient, flow: str, kind: str, end: str
) -> None:
    run = await running(api, flow, kind)
    clock = ManualClock()
    house.database.clock = clock
    clock.go_to(datetime.now(UTC) + timedelta(seconds=30))
    await close_dead_runs.fn(house, {"keep house": 540})
    assert (await state_of(api, run))["type"] == kind
    clock.go(3600)
    assert await close_dead_runs.fn(house, {"keep house": 540}) >= 1
    assert (await state_of(api, run))["type"] == end


async def test_a_run_whose_process_never_came_holds_up_the_next_ones_for_minutes_only(
    client_of_prefect: RunningPrefect, known: RunningPrefect, house: House, api: httpx.AsyncClient
) -> None:
    house.database.clock = clock = ManualClock()
    assert await begun(api, "router-rotate") == "ACCEPT"
    assert await begun(api, "router-rotate") == "REJECT"
    clock.go_to(datetime.now(UTC) + timedelta(minutes=5))
    assert await close_overdue_runs(house, {"router upkeep": 900}) >= 1
    assert await begun(api, "router-rotate") == "ACCEPT"
    await close_overdue_runs(house, {"router upkeep": 900})


async def begun(api: httpx.AsyncClient, name: str) -> str:
    """What the server says to a run of a deployment that is about to get its process."""
    flow = next(entry.load().name for entry in CATALOGUE if entry.name == name)
    deployment = (await api.get(f"/deployments/name/{flow}/{name}")).json()["id"]
    due = (datetime.now(UTC) + timedelta(hours=1)).isoformat()  # not yet any runner's
    wanted = {"state": {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}}
    run = (await api.post(f"/deployments/{deployment}/create_flow_run", json=wanted)).json()["id"]
    asked = {"state": {"type": "PENDING", "name": "Pending"}}
    return str((await api.post(f"/flow_runs/{run}/set_state", json=asked)).json()["status"])
