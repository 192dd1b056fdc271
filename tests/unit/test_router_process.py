"""The router as a process: it serves from memory, loses nothing that it promised to keep, ends in order."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deployments import schema
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.postgres import EmbeddedPostgres
from tests.fakes.provider import FAULTS, FakeProvider
from tests.fakes.router_parts import store
from tests.fakes.router_process import ADMIN, RouterProcess

pytestmark = pytest.mark.services


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        yield provider


@pytest.fixture
async def router(tmp_path: Path, database_url: str) -> AsyncIterator[RouterProcess]:
    async with RouterProcess(tmp_path / "home", database_url) as router:
        yield router


async def booked(router: RouterProcess, requests: int) -> None:
    """Wait until so many calls are rows."""
    async with asyncio.timeout(20):
        while len((await router.admin("GET", "/calls", params={"limit": 1000})).json()) < requests:
            await asyncio.sleep(0.05)


async def test_before_there_is_a_backend_the_rehearsal_answers_and_says_so(
    router: RouterProcess, provider: FakeProvider
) -> None:
    answer = await router.ask("rehearsal")
    assert "[rehearsal]" in answer.json()["choices"][0]["message"]["content"]
    await router.add_backend(f"{provider.url}/v1", "gpt")
    assert (await router.ask("rehearsal")).status_code == 404
    assert [model["id"] for model in (await router.get("/v1/models")).json()["data"]] == ["gpt"]


async def test_a_backend_works_as_soon_as_it_is_added_and_its_calls_are_booked(
    router: RouterProcess, provider: FakeProvider
) -> None:
    await router.add_backend(f"{provider.url}/v1", "gpt")
    answer = await router.ask("gpt")
    assert answer.json()["model"] == "gpt"
    assert float(answer.headers["x-quarterdeck-overhead-ms"]) >= 0
    await booked(router, 1)
    totals = await router.totals()
    usage = answer.json()["usage"]
    assert totals["total_tokens"] == usage["total_tokens"]
    expected = usage["prompt_tokens"] * 2.5e-6 + usage["completion_tokens"] * 1e-5
    assert totals["total_cost"] == pytest.approx(expected, abs=1e-12)
    assert "sidecar_requests_total 1.0" in await router.metrics()


async def test_a_second_router_on_the_same_database_refuses_to_start(
    router: RouterProcess, tmp_path: Path, database_url: str
) -> None:
    second = RouterProcess(tmp_path / "second", database_url)
    process = second.spawn()
    assert await asyncio.to_thread(process.wait, 60) != 0
    assert "Another router runs on this database" in second.log.read_text()
    await second._client.aclose()
    assert (await router.get("/health")).status_code == 200


async def test_a_port_that_is_taken_is_named(
    router: RouterProcess, tmp_path: Path, database_url: str
) -> None:
    await router.stop()
    with __import__("socket").socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        other = RouterProcess(tmp_path / "other", database_url, SIDECAR_PORT=port)
        process = other.spawn()
        assert await asyncio.to_thread(process.wait, 60) != 0
    said = other.log.read_text()
    assert f"Port {port}" in said
    assert "SIDECAR_PORT" in said
    assert "Traceback" not in said
    await other._client.aclose()


async def test_cooldowns_survive_a_restart(router: RouterProcess, provider: FakeProvider) -> None:
    identity = await router.add_backend(f"{provider.url}/v1", "gpt")
    provider.script("native-gpt", [FAULTS["429-quota"]])
    assert (await router.ask("gpt")).status_code == 503
    before = (await router.admin("GET", f"/backends/{identity}")).json()
    assert before["status"] == "cooling"
    await router.stop()
    await router.start()
    after = (await router.admin("GET", f"/backends/{identity}")).json()
    kept = ("status", "cooldown_until", "consecutive_429_count", "reason")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert (await router.ask("gpt")).status_code == 503
    assert (await router.admin("POST", f"/backends/{identity}/reset")).status_code == 200
    assert (await router.ask("gpt")).status_code == 200


async def test_an_orderly_stop_loses_no_call(router: RouterProcess, provider: FakeProvider) -> None:
    await router.add_backend(f"{provider.url}/v1", "gpt")
    answers = await asyncio.gather(*(router.ask("gpt") for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert await router.stop() == 0
    await router.start()
    assert (await router.totals())["total_client_requests"] == 40
    billed = provider.invoice.tokens("native-gpt")
    assert (await router.totals())["total_tokens"] == billed.prompt + billed.completion


async def test_a_stream_that_runs_when_the_router_stops_ends_with_an_error_event(
    router: RouterProcess, provider: FakeProvider
) -> None:
    await router.add_backend(f"{provider.url}/v1", "gpt")
    provider.script("native-gpt", [FAULTS["stall-after-tokens"]])
    body = {"model": "gpt", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    address = f"{router.addresses.calls}/v1/chat/completions"
    async with httpx.AsyncClient(timeout=30) as client, client.stream("POST", address, json=body) as answer:
        lines = answer.aiter_lines()
        first = await anext(lines)
        stopping = asyncio.create_task(router.stop())
        rest = [line async for line in lines if line]
        await stopping
    assert first.startswith("data: {")
    assert '"error"' in rest[-1]
    await router.start()


async def test_while_postgresql_is_killed_calls_go_on_and_are_booked_when_it_is_back(
    tmp_path: Path, provider: FakeProvider
) -> None:
    home = tmp_path / "home"
    with EmbeddedPostgres(home, fast=True).running() as server:
        schema.ensure_database(server.url())
        schema.migrate(server.url())
        async with RouterProcess(home) as router:
            await router.add_backend(f"{provider.url}/v1", "gpt")
            done = 0
            is_away = asyncio.Event()

            async def load() -> None:
                nonlocal done
                while not is_away.is_set() or done < 60:
                    assert (await router.ask("gpt")).status_code == 200
                    done += 1
                    await asyncio.sleep(0.05)  # below the backend's limit per minute

            loading = asyncio.create_task(load())
            postmaster = int((home / "postgres" / "postmaster.pid").read_text().split()[0])
            os.kill(postmaster, signal.SIGKILL)
            async with asyncio.timeout(30):
                while "postgres_started_again" not in router.log.read_text():
                    await asyncio.sleep(0.05)
            is_away.set()
            await loading
            async with asyncio.timeout(30):
                while (await router.get("/health")).status_code != 200:
                    await asyncio.sleep(0.05)
            await booked(router, done)
            assert (await router.totals())["total_client_requests"] == done
            assert len(provider.requests) >= done


async def test_health_tells_a_postgresql_that_is_away_also_when_nothing_is_to_be_written(
    tmp_path: Path,
) -> None:
    server = EmbeddedPostgres(tmp_path / "database", fast=True)
    with server.running():
        schema.ensure_database(server.url())
        schema.migrate(server.url())
    settings = {"SIDECAR_ROUTER_REFRESH": "1"}

    async def health_becomes(router: RouterProcess, status: int) -> None:
        async with asyncio.timeout(20):
            while (await router.get("/health")).status_code != status:
                await asyncio.sleep(0.05)

    with server.running():
        router = RouterProcess(tmp_path / "home", server.url(), **settings)
        await router.start()
        await health_becomes(router, 200)
    try:
        await health_becomes(router, 503)
        assert (await router.get("/health")).json()["status"] == "degraded"
        with server.running():
            await health_becomes(router, 200)
            await router.stop()
    finally:
        await router.__aexit__()


async def test_keys_that_another_process_makes_and_takes_away_count_at_once(
    tmp_path: Path, database_url: str, database: Database
) -> None:
    clients = store(database).clients
    never = {"SIDECAR_ROUTER_REFRESH": "3600", "SIDECAR_PROXY_TOKEN": "proxy-token-0001"}
    async with RouterProcess(tmp_path / "home", database_url, **never) as router:
        for agent in ("scout", "developer"):
            key = await clients.key_of_agent(agent)
            assert (await router.ask("rehearsal", key)).status_code == 200
        assert (await router.ask("rehearsal", "nobodys-key")).status_code == 401
        await clients.delete((await clients.all())[1].id)
        async with asyncio.timeout(20):
            while (await router.ask("rehearsal", key)).status_code != 401:
                await asyncio.sleep(0.02)


async def test_upkeep_is_done_by_the_router_itself_and_when_it_is_asked(router: RouterProcess) -> None:
    async with asyncio.timeout(30):
        while len((await router.admin("GET", "/upkeep")).json()) < 5:
            await asyncio.sleep(0.05)
    assert {entry["by"] for entry in (await router.admin("GET", "/upkeep")).json()} == {"router"}
    answer = await router.admin("POST", "/upkeep/backup", params={"by": "prefect"})
    assert answer.json()["ok"]
    assert len(list((router.home / "backups").glob("sidecar_v2_*.db"))) >= 1
    assert "db_backup_created" in router.log.read_text()
    shown = {entry["job"]: entry["by"] for entry in (await router.admin("GET", "/upkeep")).json()}
    assert shown["backup"] == "prefect"


async def test_no_secret_is_in_its_log(router: RouterProcess, provider: FakeProvider) -> None:
    await router.add_backend(f"{provider.url}/v1", "gpt", api_key="sk-canary-key-of-a-provider-01")
    key = (await router.admin("POST", "/clients", json={"name": "scout"})).json()["key"]
    provider.script("native-gpt", [FAULTS["401"]])
    for token in (key, "qr_wrong-canary-token-0123456789", ""):
        await router.ask("gpt", token, messages=[{"role": "user", "content": "canary prompt"}])
    await router.admin("GET", "/backends", token="canary-wrong-admin-token")
    await router.stop()
    said = router.log.read_text()
    assert "backend_key_refused" in said
    assert "backend_out_of_order" in said
    for secret in ("canary", key, ADMIN):
        assert secret not in said
    await router.start()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SIDECAR_PORT", "many"), ("SIDECAR_ENCRYPTION_KEY", "0" * 64), ("SIDECAR_HOST", "0.0.0.0")],
)
async def test_a_wrong_setting_stops_the_start_with_its_name_and_without_its_value(
    tmp_path: Path, database_url: str, variable: str, value: str
) -> None:
    router = RouterProcess(tmp_path / "home", database_url, **{variable: value})
    process = router.spawn()
    assert await asyncio.to_thread(process.wait, 60) != 0
    said = router.log.read_text()
    named = variable if variable != "SIDECAR_HOST" else "SIDECAR_PROXY_TOKEN"
    assert named in said
    assert "Traceback" not in said
    assert value == "0.0.0.0" or value not in said
    await router._client.aclose()
