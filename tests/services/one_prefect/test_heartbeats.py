"""Heartbeats under a real Prefect: one schedule for each agent, sweeps as runs, and quiet ones forgotten."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest
import yaml
from sqlmodel import col, select

from deployments.catalogue import SWEEP
from deployments.registration import forget_sweeps
from deployments.setup import EXAMPLES, Step, set_up_prefect
from deployments.supervisor import ROOT
from flows.sweep import QUIET
from quarterdeck.crew.roster import Roster, read_roster
from quarterdeck.crew.runtime import Outcome
from quarterdeck.heartbeat.model import Pulse, Result, Sweep
from quarterdeck.house import House
from tasks.upkeep import QUIET_KEPT, forget_quiet_runs
from tests.fakes.clock import ManualClock
from tests.services.one_prefect.conftest import RunningPrefect, a_runner
from tests.services.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

NINE_IN_SHANGHAI = 1
"""The hour in UTC."""

NEVER = "0 0 29 2 *"
_numbers = count(1)


@pytest.fixture
async def office(
    prefect: RunningPrefect, house: House, client_of_prefect: RunningPrefect
) -> AsyncIterator[House]:
    """A house whose roster may be changed; afterwards it is what it was, and so is Prefect."""
    prefect.must_be_set_up("core", "prefect")
    clock = house.database.clock
    yield house
    house.database.clock = clock
    for run in await house.crew.open_runs():
        async with house.database.command("end run") as unit:
            await house.crew.close_run(unit, run.id or 0, Outcome(exit_code=0))
    await house.crew.import_roster(read_roster(prefect.settings.crew_file), {})
    await forget_sweeps(())


@pytest.fixture
def developer() -> str:
    """An agent of this test alone: the board is full of what others' tests gave to theirs."""
    return f"developer-{next(_numbers)}"


@pytest.fixture
async def swept(office: House, developer: str, tmp_path: Path) -> House:
    """With the developer, whose documents are in `tmp_path`; Prefect sees every sweep in it."""
    entry = {"category": "development", "cron": NEVER, "workspace": str(tmp_path)}
    await enrol(office, **{developer: entry})
    return office


async def set_up(house: House) -> Step:
    """The half of `quarterdeck setup` that is Prefect's; what it says of heartbeats."""
    settings = house.settings.model_copy(update={"blocks": False})
    return {step.name: step async for step in set_up_prefect(settings)}["heartbeats"]


async def enrol(house: House, **heartbeats: dict[str, Any]) -> None:
    """Agents with these heartbeats join the roster, or change in it."""
    agents = [
        {"slug": slug, "parameters": {"program": "true"}, "heartbeat": heartbeat}
        for slug, heartbeat in heartbeats.items()
    ]
    await house.crew.import_roster(Roster.model_validate({"agents": agents}), {})


async def deployed(api: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    """The sweeps that the server knows, by name."""
    wanted = {"deployments": {"name": {"like_": SWEEP}}, "limit": 200}
    found = (await api.post("/deployments/filter", json=wanted)).json()
    return {one["name"]: one for one in found if one["name"].startswith(SWEEP)}


async def swept_now(prefect: RunningPrefect, api: httpx.AsyncClient, agent: str) -> dict[str, Any]:
    """A sweep of the agent in a process of its own; the run as Prefect shows it."""
    code = f"import asyncio, flows.sweep as f; asyncio.run(f.sweep('{agent}'))"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), env=prefect.environment, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    assert await process.wait() == 0
    wanted = {
        "flow_runs": {"name": {"any_": [f"sweep · {agent}"]}, "state": {"type": {"any_": ["COMPLETED"]}}},
        "sort": "START_TIME_DESC",
        "limit": 1,
    }
    [found] = (await api.post("/flow_runs/filter", json=wanted)).json()
    run: dict[str, Any] = found
    return run


# Set-up


async def test_setup_makes_a_schedule_for_each_agent_of_the_roster_and_takes_away_what_is_gone(
    office: House, api: httpx.AsyncClient
) -> None:
    company = yaml.safe_load((EXAMPLES / "company.yaml").read_text("utf-8"))
    agents = {agent["slug"]: agent for agent in company["agents"]}
    await office.crew.import_roster(Roster.model_validate({"agents": company["agents"]}), {})
    assert (await set_up(office)).outcome == "done"
    made = await deployed(api)
    assert len(made) == 15
    schedules = {name: one["schedules"][0] for name, one in made.items()}
    assert {s["schedule"]["timezone"] for s in schedules.values()} == {"Asia/Shanghai"}
    assert all(s["active"] for s in schedules.values())
    assert {name for name, s in schedules.items() if "/10 " in s["schedule"]["cron"]} == {
        "sweep-coo",
        "sweep-secretary",
    }
    assert len({one["parameters"]["delay"] for one in made.values()}) == 15
    assert {one["concurrency_options"]["collision_strategy"] for one in made.values()} == {"CANCEL_NEW"}

    assert (await set_up(office)).outcome == "already"
    assert {n: (o["id"], o["updated"]) for n, o in (await deployed(api)).items()} == {
        n: (o["id"], o["updated"]) for n, o in made.items()
    }

    agents["secretary"]["heartbeat"]["scheduler"] = "openclaw"
    agents["lawyer"]["enabled"] = False
    agents["coo"]["heartbeat"]["cron"] = "0 9 * * *"
    await office.crew.import_roster(Roster.model_validate({"agents": company["agents"]}), {})
    told = (await set_up(office)).detail
    assert "sweep-secretary taken away" in told and "sweep-lawyer taken away" in told and "sweep-coo" in told
    left = await deployed(api)
    assert set(made) - set(left) == {"sweep-secretary", "sweep-lawyer"}
    assert left["sweep-coo"]["id"] == made["sweep-coo"]["id"]

    async def planned() -> Any:
        wanted = {
            "deployments": {"id": {"any_": [left["sweep-coo"]["id"]]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        }
        return (await api.post("/flow_runs/filter", json=wanted)).json()

    times = [datetime.fromisoformat(run["expected_start_time"]) for run in await until(planned, 120)]
    assert {(t.astimezone(UTC).hour, t.minute) for t in times} == {(NINE_IN_SHANGHAI, 0)}
    assert {t.astimezone(ZoneInfo("Asia/Shanghai")).hour for t in times} == {9}


# Sweeps


async def test_a_sweep_is_a_run_that_says_what_it_found_with_a_task_for_each_source(
    prefect: RunningPrefect, swept: House, developer: str, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "TODO.md").write_text("- [ ] Fix the login\n")
    run = await swept_now(prefect, api, developer)
    assert (run["name"], run["state"]["type"]) == (f"sweep · {developer}", "COMPLETED")
    assert run["state"]["message"] == "1 found, 1 started"

    async def tasks() -> Any:
        wanted = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        found = (await api.post("/task_runs/filter", json=wanted)).json()
        return found if len(found) >= 6 and all(t["state_type"] == "COMPLETED" for t in found) else None

    names = {task["name"].rpartition("-")[0] or task["name"] for task in await until(tasks, 60)}
    assert {"board", "workboard", "multica", "documents", "plane"} <= names | {
        task.partition("-")[0] for task in names
    }
    assert any(name.startswith("start ") for name in names)


async def test_a_tick_during_a_sweep_is_skipped_and_counted(
    prefect: RunningPrefect, swept: House, developer: str, api: httpx.AsyncClient
) -> None:
    beats = await swept.sweeper.heartbeats()
    first = await swept.sweeper.begin(developer, "test", beats)
    before = await _skipped(swept, developer)
    run = await swept_now(prefect, api, developer)
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Skipped")
    assert await _skipped(swept, developer) == before + 1
    await first.finish()
    assert (await swept_now(prefect, api, developer))["state"]["name"] != "Skipped"


async def _skipped(house: House, agent: str) -> int:
    async with house.database.read() as session:
        pulse = await session.get(Pulse, agent)
    assert pulse is not None
    return pulse.skipped


async def test_what_found_nothing_is_purged_early_and_its_row_stays(
    prefect: RunningPrefect, swept: House, developer: str, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    quiet = await swept_now(prefect, api, developer)
    assert (quiet["state"]["name"], quiet["state"]["type"]) == (QUIET, "COMPLETED")
    (tmp_path / "TODO.md").write_text("- [ ] Rename the button\n")
    worked = await swept_now(prefect, api, developer)
    clock = ManualClock()
    swept.database.clock = clock
    clock.go_to(datetime.now(UTC) + QUIET_KEPT / 2)
    await forget_quiet_runs.fn(swept, QUIET)
    assert (await api.get(f"/flow_runs/{quiet['id']}")).status_code == 200
    clock.go(QUIET_KEPT.total_seconds())
    assert await forget_quiet_runs.fn(swept, QUIET) >= 1
    assert (await api.get(f"/flow_runs/{quiet['id']}")).status_code == 404
    assert (await api.get(f"/flow_runs/{worked['id']}")).status_code == 200
    assert await forget_quiet_runs.fn(swept, QUIET) == 0
    async with swept.database.read() as session:
        own = select(Sweep.result).where(Sweep.agent == developer)
        kept = (await session.exec(own.order_by(col(Sweep.id)))).all()
    assert list(kept) == [Result.QUIET, Result.WORKED]


# The runner


async def test_the_runner_serves_who_comes_leaves_and_comes_back_without_a_restart(
    prefect: RunningPrefect, office: House, api: httpx.AsyncClient
) -> None:
    name, entry = "sweep-newcomer", {"category": "business", "cron": NEVER}
    with a_runner(prefect):  # only here: it registers whatever the roster says, also beside the tests above
        for _ in range(2):
            await enrol(office, newcomer=entry)
            made = await until(lambda: _known(api, name), 90)
            run = (await api.post(f"/deployments/{made['id']}/create_flow_run", json={})).json()
            ended = await until(lambda run=run: _ended(api, run["id"]), 120)
            assert (ended["type"], ended["name"]) == ("COMPLETED", QUIET)
            await enrol(office, newcomer=entry | {"enabled": False})
            await until(lambda: _unknown(api, name), 90)


async def _known(api: httpx.AsyncClient, name: str) -> Any:
    return (await deployed(api)).get(name)


async def _unknown(api: httpx.AsyncClient, name: str) -> bool:
    return name not in await deployed(api)


async def _ended(api: httpx.AsyncClient, run: str) -> Any:
    state = (await api.get(f"/flow_runs/{UUID(run)}")).json()["state"]
    return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None
