"""The web process as a whole: every room answers behind one application, and health is told truthfully."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

import quarterdeck
from quarterdeck.crew.roster import Roster
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from tests.fakes.company import ANNA, OWNER, VIKTOR, company, environment
from tests.fakes.doors import desk_doors
from tests.fakes.prefect_api import FakePrefect

Client = httpx.AsyncClient
ITEM = {"project": "ET", "title": "A thing"}
ONLY_THE_OWNERS = {"/api/v1/webhooks"}


def client(house: House, token: str) -> Client:
    transport = httpx.ASGITransport(desk_doors(house))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Client(transport=transport, base_url="http://desk/api/v1", headers=headers)


@pytest.fixture
async def house(tmp_path: Path, database_url: str) -> AsyncIterator[House]:
    async with company(tmp_path, database_url) as house:
        yield house


@pytest.fixture
async def anna(house: House) -> AsyncIterator[Client]:
    """A member who may approve, with the project ET and the item ET-001."""
    async with client(house, ANNA) as client_:
        await client_.post("/projects", json={"key": "ET", "name": "Enduro"})
        assert (await client_.post("/items", json=ITEM)).status_code == 201
        yield client_


async def test_health_is_told_to_everybody_and_names_what_is_down(house: House):
    async with client(house, "") as stranger:
        answer = await stranger.get("http://desk/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "degraded",
        "database": "up",
        "prefect": "down",
        "version": quarterdeck.__version__,
    }


async def test_health_is_503_without_the_database(house: House):
    real, house.database = house.database, Database("postgresql+psycopg://nobody@127.0.0.1:9/none")
    async with client(house, "") as stranger:
        answer = await stranger.get("http://desk/health")
    await house.database.close()
    house.database = real
    assert (answer.status_code, answer.json()["status"], answer.json()["database"]) == (503, "down", "down")


async def test_metrics_are_told_to_everybody_in_prometheus_own_format(house: House):
    await house.crew.import_roster(
        Roster.model_validate({"agents": [{"slug": "coder", "heartbeat": {"category": "business"}}]}), {}
    )
    await house.sweeper.sweep("coder")
    async with client(house, "") as stranger:
        answer = await stranger.get("http://desk/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPE_LATEST)
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert told["quarterdeck_sweeps_total", "coder", "quiet"] == 1
    assert told["quarterdeck_sweeps_skipped_total", "coder"] == 0


async def test_the_front_page_lists_every_room_and_loads_nothing_from_elsewhere(house: House):
    async with client(house, "") as stranger:
        answer = await stranger.get("http://desk/")
    assert answer.status_code == 200
    for path in ("/api/v1/items/{key}/approve", "/api/v1/dead-letters", "/api/v1/runs/{run_id}/log"):
        assert path in answer.text
    assert "<script" not in answer.text and "src=" not in answer.text
    assert "/dashboard" in answer.text and "name=viewport" in answer.text


async def test_every_room_is_closed_to_strangers_and_open_to_people(house: House, anna: Client):
    document = (await anna.get("http://desk/openapi.json")).json()
    plain = [path for path, found in document["paths"].items() if "get" in found and "{" not in path]
    rooms = [path for path in plain if path.startswith("/api/v1")]
    assert {"/api/v1/items", "/api/v1/agents", "/api/v1/outbox", "/api/v1/deployments"} <= set(rooms)
    async with client(house, "") as stranger:
        for path in rooms:
            assert (await stranger.get(f"http://desk{path}")).status_code == 401, path
            token = OWNER if path in ONLY_THE_OWNERS else ANNA
            answer = await anna.get(f"http://desk{path}", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 200, path
            assert set(answer.json()) == {"items", "next_cursor"}, path


async def test_a_viewer_changes_nothing_anywhere(house: House, anna: Client):
    document = (await anna.get("http://desk/openapi.json")).json()
    before = (await anna.get("/items")).json()
    bodies = {
        "/api/v1/projects": {"key": "XX", "name": "x"},
        "/api/v1/projects/{key}": {"name": "x"},
        "/api/v1/items": ITEM,
        "/api/v1/items/{key}": {"title": "x"},
        "/api/v1/items/{key}/approve": {},
        "/api/v1/items/{key}/reject": {"comment": "x"},
        "/api/v1/items/{key}/move": {"stage": "analysis"},
        "/api/v1/agents": {"slug": "talker", "parameters": {"program": "sh"}},
        "/api/v1/agents/{agent_id}": {"slug": "analyst", "parameters": {"program": "sh"}},
        "/api/v1/agents/{agent_id}/assign": {"task_id": "ET-001", "prompt": "x"},
        "/api/v1/agents/{agent_id}/wake": {"text": "x"},
        "/api/v1/agents/callback": {"sessionKey": "task:ET-001"},
        "/api/v1/notify/test": {"channel": "log"},
        "/api/v1/deployments/{name}/run": {"parameters": {}},
        "/api/v1/heartbeats/{agent}/unblock": {"work": "board:ET-001"},
        "/api/v1/heartbeats/{agent}/limit": {"work": "board:ET-001", "rounds": 9},
        "/api/v1/heartbeats/{agent}/allow": {"work": "board:ET-001"},
    }
    async with client(house, VIKTOR) as viewer:
        for path, found in document["paths"].items():
            for method in set(found) - {"get"} if path.startswith("/api") else ():
                address = path.replace("{key}", "ET-001").replace("{id}", "1").replace("{name}", "stage")
                address = address.replace("{agent_id}", "analyst").replace("{agent}", "analyst")
                address = address.replace("{run_id}", "1")
                answer = await viewer.request(method, f"http://desk{address}", json=bodies.get(path))
                assert answer.status_code == 403, f"{method} {path}: {answer.text}"
    assert (await anna.get("/items")).json() == before


@pytest.mark.parametrize(
    ("path", "code", "named"),
    [
        ("/items/ET-999", "unknown_item", "ET-001"),
        ("/items/ET-999/runs", "unknown_item", "ET-001"),
        ("/items?stage=nonsense", "unknown_stage", "analysis"),
        ("/items?assignee=nobody", "unknown_agent_or_person", "developer"),
        ("/items?project=XX", "unknown_project", "ET"),
        ("/projects/XX", "unknown_project", "ET"),
        ("/agents/nobody", "unknown_agent", "developer"),
        ("/runs/999", "unknown_run", ""),
    ],
)
async def test_what_is_unknown_is_answered_with_what_there_is(anna: Client, path, code, named):
    answer = await anna.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, code)
    assert named in answer.json()["instruction"]


@pytest.mark.parametrize("verb", ["approve", "reject", "cancel", "retry"])
async def test_deciding_about_an_unknown_item_is_answered_with_the_items_there_are(anna: Client, verb):
    answer = await anna.post(f"/items/ET-999/{verb}", json={"comment": "x"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_item")


async def test_an_item_is_cancelled_and_taken_up_again(anna: Client):
    cancelled = await anna.post("/items/ET-001/cancel", json={"comment": "not now"})
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    again = await anna.post("/items/ET-001/retry")
    assert (again.status_code, again.json()["state"]) == (200, "queued")
    kinds = [e["kind"] for e in (await anna.get("/items/ET-001/events")).json()["items"]]
    assert kinds == ["item_filed", "item_cancelled", "item_retried"]


async def test_an_item_without_runs_has_an_empty_list_of_them(anna: Client):
    assert (await anna.get("/items/ET-001/runs")).json() == {"items": [], "next_cursor": None}


async def test_a_pipeline_that_does_not_exist_is_answered_with_those_that_do(anna: Client):
    answer = await anna.post("/projects", json={"key": "XX", "name": "x", "pipeline": "nonsense"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_pipeline")
    assert "default" in answer.json()["instruction"]


async def test_a_deployment_is_started_once_for_each_key_of_each_person(house: House):
    async with FakePrefect() as prefect:
        house.settings = house.settings.model_copy(update={"prefect_port": prefect.port})
        runs = []
        for token, key in ((ANNA, "a"), (ANNA, "a"), (OWNER, "a"), (ANNA, "b"), (ANNA, ""), (ANNA, "")):
            async with client(house, token) as somebody:
                headers = {"Idempotency-Key": key} if key else {}
                wanted = {"parameters": {"item": "ET-001"}}
                answer = await somebody.post("/deployments/stage/run", json=wanted, headers=headers)
                assert answer.status_code == 202, answer.text
                runs.append(answer.json()["flow_run_id"])
    assert runs[0] == runs[1]
    assert len(set(runs)) == len(prefect.runs) == 5


async def test_the_owners_token_files_for_others(house: House, anna: Client):
    async with client(house, OWNER) as owner:
        assert (await owner.post("/items", json=ITEM | {"by": "viktor"})).json()["reporter"] == "viktor"


async def test_the_process_serves_says_so_and_stops_when_told(
    tmp_path: Path, house: House, database_url: str
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = environment(tmp_path, database_url) | {"QUARTERDECK_HTTP_PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deployments.web"), env=told, cwd=Path(__file__).parents[2]
    )
    try:
        async with Client(base_url=f"http://127.0.0.1:{port}") as stranger:
            while True:
                try:
                    answer = await stranger.get("/health")
                    break
                except httpx.ConnectError:
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
        assert answer.json()["database"] == "up"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
