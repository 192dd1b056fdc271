"""The admin API's settings and clients: every value is checked, every change counts at once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.kernel.database import Database
from quarterdeck.router.config import KEYS, SECRETS
from tests.fakes.admin_desk import Desk, admin_desk

BACKEND = {"name": "One", "api_base_url": "http://127.0.0.1:9/v1", "api_key": "sk-the-key-0123456789"}


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    async with admin_desk(database, tmp_path) as made:
        yield made


# Configuration.


async def test_settings_are_put_listed_and_forgotten_and_count_at_once(desk: Desk) -> None:
    body = {"value": " 7 ", "description": "for a while"}
    assert await desk.put("/config/default_rpm_limit", body) == {"key": "default_rpm_limit", "value": "7"}
    await desk.put("/config/default_rpm_limit", {"value": 8})
    assert await desk.get("/config/default_rpm_limit") == {"key": "default_rpm_limit", "value": "8"}
    (row,) = await desk.get("/config")
    assert (row["value"], row["description"]) == ("8", "for a while")
    assert (await desk.post("/backends", BACKEND))["rpm_limit"] == 8
    effective = {row["key"]: row for row in await desk.get("/settings")}
    assert set(effective) == set(KEYS)
    assert (effective["default_rpm_limit"]["value"], effective["default_rpm_limit"]["source"]) == (
        8,
        "database",
    )
    assert effective["port"]["needs_restart"] and not effective["queue_max_depth"]["needs_restart"]
    assert await desk.delete("/config/default_rpm_limit") == {"status": "deleted", "key": "default_rpm_limit"}
    await desk.delete("/config/default_rpm_limit", 404)


@pytest.mark.parametrize("key", [*SECRETS, "upstream", "no_such"])
async def test_secrets_and_unknown_keys_cannot_be_settings(desk: Desk, key: str) -> None:
    await desk.put(f"/config/{key}", {"value": "x"}, 400)
    await desk.get(f"/config/{key}", 404)
    assert key not in (await desk.http.get("/settings")).text.replace("key_connection", "")


@pytest.mark.parametrize(
    ("key", "value"),
    [("queue_max_depth", "many"), ("cooldown_exponential_backoff", "maybe"), ("port", "70000"), ("host", "")],
)
async def test_a_value_that_does_not_fit_is_refused(desk: Desk, key: str, value: str) -> None:
    await desk.put(f"/config/{key}", {"value": value}, 422)
    assert await desk.get("/config") == []


@pytest.mark.parametrize("odd", ["\0", "\x1b", "\n", "\x7f"])
@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("queue_max_depth", {"value": "5", "description": "a{odd}b"}),
        ("queue_max_depth", {"value": "5{odd}5"}),
        ("db_path", {"value": "a{odd}b"}),
        ("health_probe_endpoint", {"value": "/v1/{odd}models"}),
    ],
)
async def test_a_setting_has_no_control_characters(
    desk: Desk, key: str, body: dict[str, str], odd: str
) -> None:
    *_, field = body
    given = {name: text.replace("{odd}", odd) for name, text in body.items()}
    (problem,) = (await desk.put(f"/config/{key}", given, 422))["detail"]
    assert problem == {"loc": ["body", field], "msg": "must not have control characters"}
    assert await desk.get("/config") == []


async def test_a_setting_needs_a_value(desk: Desk) -> None:
    assert "value" in (await desk.put("/config/port", {}, 400))["detail"]
    await desk.put("/config/port", {"value": None}, 422)
    assert (await desk.put("/config/cooldown_exponential_backoff", {"value": False}))["value"] == "false"


# Clients.


async def test_a_client_key_is_told_once_and_renewed(desk: Desk) -> None:
    body = {"name": "anna", "agent": "dev", "cost_per_day": 0.1}
    made = await desk.post("/clients", body)
    key = made.pop("key")
    assert key.startswith("qr_") and made["cost_per_day"] == 0.1 and made["tokens_per_day"] is None
    client = desk.clients.who(key)
    assert client is not None and (client.id, client.agent) == (made["id"], "dev")
    assert await desk.get("/clients") == [made] and await desk.get(f"/clients/{made['id']}") == made
    assert key not in (await desk.http.get("/clients")).text
    renewed = (await desk.post(f"/clients/{made['id']}/key"))["key"]
    assert desk.clients.who(key) is None and desk.clients.who(renewed) is not None
    changed = await desk.put(f"/clients/{made['id']}", {"enabled": False, "tokens_per_day": 5})
    assert (changed["enabled"], changed["tokens_per_day"], changed["cost_per_day"]) == (False, 5, 0.1)
    assert desk.clients.needs_key and desk.clients.who(renewed) is None
    assert await desk.delete(f"/clients/{made['id']}") == {"status": "deleted", "id": made["id"]}
    assert not desk.clients.needs_key
    assert await desk.get("/clients") == []


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"tokens_per_day": -1},
        {"tokens_per_day": "5"},
        {"cost_per_day": -0.1},
        {"key": "x"},
        {"agent": "не имя!"},
        {"agent": "a b"},
        {"agent": "a" * 51},
    ],
    ids=str,
)
async def test_a_wrong_client_is_refused(desk: Desk, bad: dict[str, Any]) -> None:
    made = await desk.post("/clients", {"name": "anna"})
    assert (await desk.post("/clients", {"name": "b"} | bad, 422))["detail"][0]["loc"][1] in bad
    await desk.put(f"/clients/{made['id']}", bad, 422)
    await desk.post("/clients", {"name": "anna"}, 409)
    await desk.post("/clients", {}, 400)


async def test_a_client_needs_no_agent_and_may_lose_the_one_it_has(desk: Desk) -> None:
    made = await desk.post("/clients", {"name": "anna", "agent": "dev.one_2-3"})
    assert (await desk.put(f"/clients/{made['id']}", {"agent": ""}))["agent"] == ""
