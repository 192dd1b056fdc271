"""Deployments that are started from our own API, and runs that somebody has to close."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from deployments.api import run_by_name
from quarterdeck.house import House
from quarterdeck.kernel.errors import Invalid, NotFound, Unavailable
from tasks.upkeep import close_dead_runs
from tests.fakes.clock import ManualClock
from tests.fakes.ports import free_port
from tests.services.conftest import RunningPrefect
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
        wanted = {"state": {"type": state, "name": state.capitalize()}, "force": True}
        await api.post(f"/flow_runs/{run}/set_state", json=wanted)
    return str(run)


@pytest.mark.parametrize(
    ("flow", "kind", "end"),
    [
        ("stage", "RUNNING", "CRASHED"),
        ("stage", "CANCELLING", "CANCELLED"),
        ("keep house", "RUNNING", "CRASHED"),
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
