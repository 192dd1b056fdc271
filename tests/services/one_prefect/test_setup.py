"""`quarterdeck setup` against a real Prefect server, and what that server then holds."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from deployments import prefect_server
from deployments.catalogue import CATALOGUE
from quarterdeck.kernel.postgres import CORE, PREFECT
from tests.services.one_prefect.conftest import RunningPrefect
from tests.services.waiting import until

CANARY = "1234567890:canary-of-the-block"
FROM_ENVIRONMENT = {"ORCH_TELEGRAM_BOT_TOKEN": CANARY, "ORCH_TELEGRAM_CHAT_ID": "-100"}


def steps(
    prefect: RunningPrefect, half: str, *arguments: str, **environment: str
) -> dict[str, dict[str, Any]]:
    done = prefect.setup(half, "--json", *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return {step["name"]: step for step in json.loads(done.stdout)["steps"]}


async def registered(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    found = (await api.post("/deployments/filter", json={"sort": "NAME_ASC"})).json()
    return [{key: one[key] for key in ("id", "name", "version", "updated", "schedules")} for one in found]


@pytest.fixture(scope="module")
def told(prefect: RunningPrefect) -> Iterator[RunningPrefect]:
    """Set up with a secret in the environment, which no other file's desk may use."""
    steps(prefect, "core", **FROM_ENVIRONMENT)
    steps(prefect, "prefect", **FROM_ENVIRONMENT)
    yield prefect
    for name, kept in ((CORE, "connections"), (PREFECT, "block_document")):
        with psycopg.connect(prefect.server.url(name).replace("+psycopg", "")) as connection:
            connection.execute(f"delete from {kept}")


async def test_setup_a_second_time_changes_nothing(told: RunningPrefect, api: httpx.AsyncClient) -> None:
    before = await registered(api)
    again = steps(told, "core", **FROM_ENVIRONMENT) | steps(told, "prefect", **FROM_ENVIRONMENT)
    assert [step for step in again.values() if step["outcome"] != "already"] == []
    assert await registered(api) == before
    assert (await api.post("/automations/count", json={})).json() == 1


async def test_every_entry_of_the_catalogue_is_registered(
    prefect: RunningPrefect, api: httpx.AsyncClient
) -> None:
    prefect.must_be_set_up("core", "prefect")
    assert [one["name"] for one in await registered(api)] == sorted(entry.name for entry in CATALOGUE)


async def test_the_server_plans_the_runs_of_a_schedule(
    prefect: RunningPrefect, api: httpx.AsyncClient
) -> None:
    prefect.must_be_set_up("core", "prefect")
    planned = {
        "deployments": {"name": {"any_": ["keep-house"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }

    async def found() -> Any:
        return (await api.post("/flow_runs/filter", json=planned)).json()

    assert await until(found)


async def test_the_owners_token_is_shown_once_and_never_stored(prefect: RunningPrefect) -> None:
    token = steps(prefect, "core", QUARTERDECK_TOKEN="canary-owner-token")["token"]
    assert token["token"] == ""
    url = prefect.server.url().replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        rows = connection.execute("select slug, token_hash from people").fetchall()
    assert [slug for slug, _ in rows] == ["owner"]
    assert "canary" not in str(rows)


async def test_a_change_of_a_file_is_told_and_taken_only_with_apply(prefect: RunningPrefect) -> None:
    prefect.must_be_set_up("core")
    file = prefect.settings.crew_file
    before = file.read_text()
    tester = "agents:\n  - {slug: tester, parameters: {program: 'true'}}\n"
    file.write_text(before.replace("agents:\n", tester, 1))
    try:
        told = steps(prefect, "core")["crew"]
        assert told["outcome"] == "differs"
        assert "tester" in told["detail"]
        assert steps(prefect, "core", "--apply")["crew"]["outcome"] == "done"
        assert steps(prefect, "core")["crew"]["outcome"] == "already"
    finally:
        file.write_text(before)
        steps(prefect, "core", "--apply")


async def test_the_api_answers_nobody_without_the_login(prefect: RunningPrefect) -> None:
    address = f"{prefect_server.address(prefect.settings.prefect_port)}/api"
    async with httpx.AsyncClient(base_url=address, timeout=30) as stranger:
        assert (
            await stranger.post("/block_documents/filter", json={"include_secrets": True})
        ).status_code == 401
        assert (await stranger.get("/admin/version", auth=("admin", "guessed"))).status_code == 401
        assert (await stranger.get("/health")).status_code == 200


async def test_neither_the_key_nor_a_blocks_secret_is_in_prefects_database(told: RunningPrefect) -> None:
    key = prefect_server.encryption_key(told.settings)
    with psycopg.connect(told.server.url(PREFECT).replace("+psycopg", "")) as connection:
        keys = connection.execute("select key, value::text from configuration").fetchall()
        blocks = connection.execute("select data::text from block_document").fetchall()
    assert blocks
    assert not any("ENCRYPTION_KEY" in name or key in value for name, value in keys)
    assert CANARY not in str(blocks)


async def test_the_servers_settings_are_as_we_mean_them(
    prefect: RunningPrefect, api: httpx.AsyncClient
) -> None:
    server = (await api.get("/admin/settings")).json()["server"]
    assert server["analytics_enabled"] is False
    assert server["events"]["retention_period"] == "P2D"
    assert set(server["services"]["db_vacuum"]["enabled"]) == {"events", "flow_runs"}
    assert server["services"]["db_vacuum"]["retention_period"] == "P14D"
    assert server["services"]["task_run_recorder"]["batch_size"] == 100
    assert server["services"]["task_run_recorder"]["flush_interval"] == 1
    assert server["api"]["host"] == "127.0.0.1"


@asynccontextmanager
async def sooner(api: httpx.AsyncClient) -> AsyncIterator[None]:
    """Our rule for silent runs, as it is but for the silence: the least that Prefect allows."""
    [rule] = (await api.post("/automations/filter", json={})).json()
    assert rule["trigger"]["within"] == prefect_server.SILENCE
    address = f"/automations/{rule['id']}"
    ours = {name: rule[name] for name in rule.keys() - {"id", "created", "updated"}}
    changed = ours | {"trigger": ours["trigger"] | {"within": 10}}
    (await api.put(address, json=changed)).raise_for_status()
    try:
        yield
    finally:
        (await api.put(address, json=ours)).raise_for_status()


async def test_a_run_that_falls_silent_is_closed(prefect: RunningPrefect, api: httpx.AsyncClient) -> None:
    prefect.must_be_set_up("core", "prefect")
    flow = (await api.post("/flows/", json={"name": "silent"})).json()
    running = {"type": "RUNNING", "name": "Running"}
    run = (await api.post("/flow_runs/", json={"flow_id": flow["id"], "state": running})).json()
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{run['id']}",
        "prefect.resource.name": "silent",
    }

    async def gives_a_sign_of_life() -> None:
        heartbeat = {
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": resource,
            "id": str(uuid4()),
        }
        assert (await api.post("/events", json=[heartbeat])).status_code == 204

    async def is_closed() -> bool:
        state = (await api.get(f"/flow_runs/{run['id']}")).json()["state"]
        return bool((state["type"], state["name"]) == ("CRASHED", "Zombie"))

    async with sooner(api):
        for _ in range(5):  # what comes before the server knows of the change is for nothing
            await gives_a_sign_of_life()
            with suppress(TimeoutError):
                await until(is_closed, 60)
                break
        assert await is_closed()
