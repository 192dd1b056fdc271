"""Webhooks all the way: the web process takes them in, a desk works on them, Prefect runs what they start."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from deployments.supervisor import ROOT
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.inbox import Standing
from tests.fakes import senders
from tests.fakes.ports import free_port
from tests.services.one_prefect.conftest import RunningPrefect, desk
from tests.services.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


@pytest.fixture
async def web(prefect: RunningPrefect, house: House) -> AsyncIterator[httpx.AsyncClient]:
    """The web process of that home, connected to every source."""
    prefect.must_be_set_up("core", "prefect")
    async with house.database.command("connect") as unit:
        for kind, value in senders.CONNECTIONS.values():
            await house.connections.put(unit, kind, "default", value, Source.API)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deployments.web"),
        env=prefect.environment | {"QUARTERDECK_HTTP_PORT": str(port)},
        cwd=ROOT,
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        async def listens() -> bool:
            try:
                return (await client.get("/health")).is_success
            except httpx.HTTPError:
                return False

        try:
            await until(listens)
            yield client
        finally:
            process.terminate()
            await process.wait()


async def test_a_signed_order_becomes_one_run_of_the_deployment_it_names(
    prefect: RunningPrefect, house: House, web: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    wanted = {"deployments": {"name": {"any_": ["deliver"]}}}

    async def runs() -> set[str]:
        return {run["id"] for run in (await api.post("/flow_runs/filter", json=wanted)).json()}

    before = await runs()
    order = senders.generic("n-1", datetime.now(UTC), {"type": "deliver", "data": {}})
    for _ in range(2):
        answer = await web.post(order.path, content=order.body, headers=order.headers)
        assert answer.status_code == 202
    forged = await web.post(order.path, content=b'{"type": "stage"}', headers=order.headers)
    assert forged.status_code == 401
    (entry,) = await house.inbox.entries("generic", None, 2**62, 9)
    assert entry.state is Standing.WAITING

    async def settled() -> Any:
        found = await house.inbox.show(entry.id or 0)
        return found if found.state is not Standing.WAITING else None

    async with desk(prefect):
        found = await until(settled)
    assert (found.state, "Started deliver" in found.outcome) == (Standing.DONE, True)
    [run] = await runs() - before
    await api.delete(f"/flow_runs/{run}")  # it is nothing for the runner of another file
