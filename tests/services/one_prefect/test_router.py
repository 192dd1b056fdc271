"""The router and Prefect: its upkeep asked for on a schedule, a provider's key entered in a block."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import pytest

from blocks.provider_key import ProviderKey
from deployments.supervisor import ROOT
from quarterdeck.house import House
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.router.access import admin_token
from tasks.connections import copy_blocks
from tasks.router import ask_router
from tests.fakes.provider import FakeProvider
from tests.fakes.router_process import RouterProcess
from tests.services.one_prefect.conftest import RunningPrefect

CANARY = "sk-canary-key-out-of-a-block-01"


@pytest.fixture
async def router(house: House) -> AsyncIterator[RouterProcess]:
    """A router of the house, with the token that the house keeps."""
    async with RouterProcess(house.settings.folder, SIDECAR_ADMIN_TOKEN="") as router:
        yield router


async def test_a_job_that_prefect_asks_for_is_done_by_the_router_and_said_in_the_run(
    prefect: RunningPrefect, router: RouterProcess, api: httpx.AsyncClient
) -> None:
    done = {"name": {"any_": ["router backup"]}, "state": {"type": {"any_": ["COMPLETED"]}}}
    wanted = {"flow_runs": done, "sort": "START_TIME_DESC"}
    before = (await api.post("/flow_runs/filter", json=wanted)).json()
    code = "import asyncio, flows.router_upkeep as f; asyncio.run(f.router_upkeep(job='backup'))"
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), env=prefect.environment, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    assert await run.wait() == 0
    shown = await router.admin("GET", "/upkeep", token=admin_token(prefect.settings))
    assert {"backup": "prefect"}.items() <= {e["job"]: e["by"] for e in shown.json()}.items()
    found = (await api.post("/flow_runs/filter", json=wanted)).json()
    assert len(found) == len(before) + 1
    assert "sidecar_v2_" in found[0]["state"]["message"]


async def test_without_a_router_the_run_fails_and_says_so(house: House) -> None:
    house.settings.router_file.unlink(missing_ok=True)
    settings = house.settings
    house.settings = settings.model_copy(update={"router_url": "http://127.0.0.1:9"})
    try:
        with pytest.raises(Unavailable, match="the router"):
            await ask_router.fn(house, "probe")
    finally:
        house.settings = settings


async def test_a_key_entered_in_a_block_is_what_the_provider_gets(
    client_of_prefect: RunningPrefect, house: House, router: RouterProcess
) -> None:
    client_of_prefect.must_be_set_up("prefect")
    token = admin_token(client_of_prefect.settings)
    async with FakeProvider(keys=[CANARY]) as provider:
        wanted = {
            "name": "By block",
            "api_base_url": f"{provider.url}/v1",
            "key_connection": "by-block",
            "rpm_limit": 1000,
            "model_mappings": {"block-model": {"native_id": "m"}},
        }
        made = await router.admin("POST", "/backends", token=token, json=wanted)
        assert made.json()["status"] == "error", "there is no such connection yet"
        await ProviderKey(api_key=CANARY).asave("by-block", overwrite=True)
        try:
            assert await copy_blocks(house) == ["provider_key"]
            async with asyncio.timeout(60):
                while (await router.ask("block-model")).status_code != 200:
                    await asyncio.sleep(0.1)
        finally:
            await ProviderKey.adelete("by-block")  # whoever comes next copies what there is
        assert provider.to("m")[-1].key == CANARY
    assert CANARY not in router.log.read_text()
