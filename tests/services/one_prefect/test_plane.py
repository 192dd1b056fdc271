"""Looking into Plane is a run that Prefect shows, with what was found."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from deployments.supervisor import ROOT
from quarterdeck.board.cards import ProjectDraft, Wanted
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.identity import owner
from tests.fakes.plane import FakePlane
from tests.services.one_prefect.conftest import RunningPrefect


@pytest.fixture
def plane() -> Iterator[FakePlane]:
    with FakePlane() as plane:
        yield plane


async def look(prefect: RunningPrefect, api: httpx.AsyncClient) -> str:
    """Run it in a process of its own; what the run says."""
    code = "import asyncio, flows.reconcile_plane as f; asyncio.run(f.reconcile_plane())"
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), env=prefect.environment, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    assert await run.wait() == 0
    wanted = {
        "flows": {"name": {"any_": ["reconcile Plane"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},  # not those that are still to come
        "sort": "START_TIME_DESC",
        "limit": 1,
    }
    [found] = (await api.post("/flow_runs/filter", json=wanted)).json()
    assert found["name"] == "Plane"
    return str(found["state"]["message"])


async def test_a_lost_issue_is_found_by_the_run(
    prefect: RunningPrefect, house: House, api: httpx.AsyncClient, plane: FakePlane
) -> None:
    assert await look(prefect, api) == "Plane is not connected."
    async with house.database.command("connect") as unit:
        await house.connections.put(unit, "plane", "default", plane.connection, Source.API)
    assert await look(prefect, api) == "No project follows one of Plane's."
    me = owner("test")
    await house.board.create_project(me, ProjectDraft(key="PL", name="From Plane"))
    project = plane.books.project("ORC")
    await house.mirror.link(me, "PL", "ORC")
    plane.books.file(project, plane.books.person("anna"), "Fix login")
    assert await look(prefect, api) == "What had not arrived: 1 change, 0 decisions."
    [card] = (await house.board.items(Wanted(project="PL"))).items
    assert card.title == "Fix login"
