"""The admin API: every route asks for the token, every value is checked, every change counts at once."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from quarterdeck.kernel.database import Database
from quarterdeck.router.admin.forms import BackendChange, ClientForm
from quarterdeck.router.admin.wire import only
from quarterdeck.router.backend import Limit
from quarterdeck.router.limits.rules import LimitHint
from tests.fakes.admin_desk import Desk, admin_desk
from tests.fakes.router_parts import PLAIN_KEY

BACKEND = {
    "name": "One",
    "api_base_url": "http://127.0.0.1:9/v1",
    "api_key": PLAIN_KEY,
    "model_mappings": {"gpt": {"native_id": "native"}},
}
ROUTES = [
    ("GET", "/backends"), ("POST", "/backends"), ("GET", "/backends/x"), ("PUT", "/backends/x"),
    ("DELETE", "/backends/x"), ("POST", "/backends/x/reset"), ("GET", "/pools"), ("GET", "/stats/total"),
    ("GET", "/stats/hourly"), ("GET", "/stats/daily"), ("GET", "/stats/cooldown"), ("GET", "/config"),
    ("GET", "/config/x"), ("PUT", "/config/x"), ("DELETE", "/config/x"), ("GET", "/settings"),
    ("GET", "/clients"), ("POST", "/clients"), ("GET", "/clients/x"), ("PUT", "/clients/x"),
    ("DELETE", "/clients/x"), ("POST", "/clients/x/key"), ("GET", "/calls"), ("GET", "/spend"),
    ("GET", "/upkeep"), ("POST", "/upkeep/backup"), ("GET", "/no/such/route"), ("PATCH", "/backends"),
    ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/"),
]  # fmt: skip


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    async with admin_desk(database, tmp_path) as made:
        yield made


async def test_all_routes_there_are_are_in_this_list(desk: Desk) -> None:
    there = {
        (method, route.path.replace("{id}", "x").replace("{key}", "x").replace("{job}", "backup"))
        for route in desk.admin._app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert there <= set(ROUTES)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (None, "missing"),
        ("Bearer wrong", "invalid"),
        ("Bearer the-admin-token-and-more", "invalid"),
        ("Bearer ", "invalid"),
        ("Basic the-admin-token", "invalid"),
    ],
)
async def test_no_route_answers_without_the_right_token(desk: Desk, header: str | None, words: str) -> None:
    del desk.http.headers["Authorization"]
    if header is not None:
        desk.http.headers["Authorization"] = header
    for method, path in ROUTES:
        answer = await desk.http.request(method, path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert words in answer.json()["detail"]
    assert desk.taken_over == 0


def test_a_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("quarterdeck.router.admin.wire.hmac.compare_digest", compare)
    is_admin = only("tökén")
    assert is_admin("tökén") and not is_admin("x") and not is_admin("") and not is_admin("\ud800")
    assert len(compared) == 4


async def test_without_a_configured_token_the_admin_api_is_off(database: Database, tmp_path: Path) -> None:
    async with admin_desk(database, tmp_path, is_admin=None) as desk:
        for method, path in ROUTES:
            answer = await desk.http.request(method, path)
            assert answer.status_code == 401 and "no admin token is configured" in answer.json()["detail"]


async def test_a_backend_is_added_shown_and_never_with_its_key(desk: Desk) -> None:
    added = await desk.post("/backends", BACKEND | {"label": "<b>", "pool": "fallback"})
    assert added["api_key"] == "sk-can****cdef"
    assert (added["pool"], added["label"], added["rpm_limit"], added["timeout_seconds"]) == (
        "fallback",
        "<b>",
        40,
        120,
    )
    assert added["model_mappings"]["gpt"] == {
        "native_id": "native",
        "reasoning": False,
        "reasoning_effort": False,
        "input_modalities": ["text"],
        "context_window": 128_000,
        "max_tokens": 65_536,
        "compat": {},
    }
    assert (added["status"], added["health"], added["source"]) == ("healthy", "healthy", "webui")
    assert added["rate_limiter"]["capacity"] == 40
    assert await desk.get("/backends") == [added]
    assert await desk.get(f"/backends/{added['id']}") == added
    assert await desk.get("/backends", pool="primary") == []
    answer = await desk.http.get("/backends")
    assert PLAIN_KEY not in answer.text and answer.headers["cache-control"] == "no-store"


async def test_a_change_reaches_the_running_balancer_at_once(desk: Desk) -> None:
    added = await desk.post("/backends", BACKEND)
    assert desk.balancer.knows("gpt")
    changed = await desk.put(f"/backends/{added['id']}", {"rpm_limit": 7, "enabled": False})
    assert (changed["status"], changed["rate_limiter"]["capacity"]) == ("disabled", 7)
    assert not desk.balancer.knows("gpt")
    assert (await desk.get("/pools"))["primary"]["healthy"] == 0
    assert changed["name"] == "One" and changed["api_key"] == added["api_key"]
    assert await desk.delete(f"/backends/{added['id']}") == {"status": "deleted", "id": added["id"]}
    assert list(desk.balancer.backends()) == []


async def test_a_blank_key_keeps_the_old_one(desk: Desk) -> None:
    added = await desk.post("/backends", BACKEND)
    changed = await desk.put(f"/backends/{added['id']}", {"api_key": " ", "name": "Two"})
    assert changed["api_key"] == added["api_key"] and changed["name"] == "Two"
    assert desk.balancer.backends()[0].api_key == PLAIN_KEY
    other = await desk.put(f"/backends/{added['id']}", {"api_key": "short"})
    assert other["api_key"] == "sh****" and desk.balancer.backends()[0].api_key == "short"


@pytest.mark.parametrize("field", ["name", "api_base_url", "api_key"])
async def test_a_missing_field_is_named(desk: Desk, field: str) -> None:
    body = {key: value for key, value in BACKEND.items() if key != field}
    assert field in (await desk.post("/backends", body, 400))["detail"]


BAD = [
    {"api": "esperanto"}, {"metadata": {"a": 2**64}},
    {"model_mappings": {"m": {"native_id": "n", "compat": {"a": -(2**64)}}}},
    {"name": ""}, {"name": "a\nb"}, {"name": 5}, {"name": "x" * 201}, {"api_base_url": "provider"},
    {"api_base_url": "ftp://x"}, {"api_base_url": "http://"}, {"api_base_url": "http://u:p@x"},
    {"api_base_url": "http://x:99999"}, {"rpm_limit": "40"}, {"rpm_limit": 0}, {"rpm_limit": 1001},
    {"rpm_limit": 4.5}, {"rpm_limit": True}, {"timeout_seconds": 9}, {"timeout_seconds": 601},
    {"timeout_seconds": None}, {"pool": "third"}, {"pool": None}, {"enabled": 1}, {"enabled": "yes"},
    {"model_mappings": None}, {"model_mappings": []}, {"model_mappings": {"m": None}},
    {"model_mappings": {"m": {}}}, {"model_mappings": {"m": {"native_id": ""}}},
    {"model_mappings": {"": {"native_id": "n"}}}, {"model_mappings": {"m": {"native_id": "n", "x": 1}}},
    {"model_mappings": {"m": {"native_id": "n", "cost": {"input": -1}}}},
    {"model_mappings": {"m": {"native_id": "n", "cost": {"input": "1"}}}},
    {"model_mappings": {"m": {"native_id": "n", "context_window": 0}}}, {"source": "elsewhere"},
    {"metadata": None}, {"metadata": {"a": "\0"}}, {"no_such_field": 1}, {"api": ""},
    {"api_base_url": "http://exa mple/v1"}, {"api_base_url": "http://ex..ample/v1"},
    {"api_base_url": f"http://{'a' * 64}.example/v1"}, {"api_base_url": "http://.example/v1"},
    {"api_base_url": f"http://{'a.' * 150}example/v1"}, {"api_base_url": "http://exa_mple%20/v1"},
    {"api_base_url": "http://[::g]/v1"}, {"api_base_url": "http://ex<am>ple/v1"},
    {"api_base_url": "http://example/a b/v1"},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=str)
async def test_a_wrong_value_is_refused_by_its_field_and_nothing_changes(
    desk: Desk, bad: dict[str, Any]
) -> None:
    added = await desk.post("/backends", BACKEND)
    (field,) = bad
    adding = bad if field != "timeout_seconds" or bad[field] is not None else {"timeout_seconds": "x"}
    for problem in (
        (await desk.post("/backends", BACKEND | adding, 422))["detail"],
        (await desk.put(f"/backends/{added['id']}", bad, 422))["detail"],
    ):
        assert problem[0]["loc"][:2] == ["body", field] and problem[0]["msg"]
    assert await desk.get("/backends") == [added]


@pytest.mark.parametrize(
    "good",
    [
        *("http://my_host:9000/v1", "https://api.example./v1", "http://[::1]:9/v1", "http://127.0.0.1/v1"),
        *("https://бюро.example/v1", "https://x/v1?api-version=1", "http://host/a%20b/v1"),
    ],
)
async def test_an_address_that_can_work_is_taken(desk: Desk, good: str) -> None:
    assert (await desk.post("/backends", BACKEND | {"api_base_url": good}))["api_base_url"] == good


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"name": NaN'])
async def test_what_is_not_json_is_told_so(desk: Desk, body: bytes) -> None:
    answer = await desk.http.post("/backends", content=body)
    assert answer.status_code == 400 and "JSON" in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"5", b"null"])
async def test_what_is_no_object_is_refused(desk: Desk, body: bytes) -> None:
    assert (await desk.http.put("/backends/x", content=body)).status_code == 422


async def test_a_huge_body_is_refused(desk: Desk) -> None:
    assert (await desk.http.post("/backends", content=b" " * 2_000_001)).status_code == 413


async def test_an_error_never_repeats_a_key(desk: Desk) -> None:
    answer = await desk.http.post("/backends", json=BACKEND | {"api_key": f"{PLAIN_KEY}\n\0x"})
    assert answer.status_code == 422 and PLAIN_KEY not in answer.text


async def test_a_key_and_a_connection_exclude_each_other(desk: Desk) -> None:
    await desk.post("/backends", BACKEND | {"key_connection": "nvidia"}, 422)
    both = {key: value for key, value in BACKEND.items() if key != "api_key"}
    added = await desk.post("/backends", both | {"key_connection": "nvidia"})
    assert added["status"] == "error" and added["api_key"] == "" and "onnection" in added["reason"]


async def test_unknown_ids_and_routes_are_404(desk: Desk) -> None:
    for path in ("/backends/bkd_x", "/clients/x", "/config/queue_max_depth", "/no/such"):
        assert isinstance((await desk.get(path, 404))["detail"], str)
    for path in ("/backends/bkd_x", "/clients/x"):
        await desk.put(path, {}, 404)
        await desk.delete(path, 404)
    await desk.post("/backends/x/reset", status=404)
    await desk.post("/clients/x/key", status=404)
    await desk.get("/backends/a%00b", 404)
    assert "detail" in (await desk.http.patch("/backends")).json()


async def cooled(desk: Desk) -> str:
    """A backend that a 429 made rest."""
    added = await desk.post("/backends", BACKEND)
    admission = desk.balancer.admit("gpt", (), desk.now)
    assert admission is not None
    desk.balancer.limited(admission, desk.now, LimitHint(Limit.RATE), "slow down")
    desk.ledger.changes(desk.balancer.take_changes())
    await desk.ledger.flush()
    return str(added["id"])


async def test_a_cooling_backend_says_why_until_when_and_what_comes_next(desk: Desk) -> None:
    identity = await cooled(desk)
    shown = await desk.get(f"/backends/{identity}")
    assert (shown["status"], shown["reason"], shown["kind"]) == ("cooling", "slow down", "rate")
    assert shown["cooldown_until"] == shown["next_probe_at"] == "2026-11-22T12:30:30Z"
    assert shown["consecutive_429_count"] == 1
    assert (await desk.get("/pools"))["primary"] == {
        "total": 1,
        "enabled": 1,
        "healthy": 0,
        "cooling": 1,
        "error": 0,
    }
    assert (await desk.get("/pools"))["fallback"]["total"] == 0
    (event,) = await desk.get("/stats/cooldown")
    assert (event["backend_name"], event["consecutive_count"], event["cooldown_seconds"]) == ("One", 1, 30)
    assert event["ended_at"] is None and event["started_at"] == "2026-11-22T12:30:00Z"


@pytest.mark.parametrize(
    "how",
    ["button", {"status": "healthy"}, {"cooldown_until": None}, {"consecutive_429_count": 0}],
    ids=str,
)
async def test_a_reset_makes_a_cooling_backend_usable_at_once(desk: Desk, how: Any) -> None:
    identity = await cooled(desk)
    if how == "button":
        shown = await desk.post(f"/backends/{identity}/reset")
    else:
        shown = await desk.put(f"/backends/{identity}", how)
    assert (shown["status"], shown["cooldown_until"], shown["consecutive_429_count"]) == ("healthy", None, 0)
    assert desk.balancer.admit("gpt", (), desk.now) is not None
    desk.ledger.changes(desk.balancer.take_changes())
    await desk.ledger.flush()
    row = await desk.store.backend(identity)
    assert (row.status, row.cooldown_until, row.consecutive_429_count) == ("healthy", None, 0)
    assert (await desk.get("/stats/cooldown"))[0]["ended_at"] is not None


@pytest.mark.parametrize(
    "change",
    [
        {"status": "cooling"},
        {"status": "error"},
        {"cooldown_until": "2026-01-01T00:00:00Z"},
        {"consecutive_429_count": 3},
    ],
    ids=str,
)
async def test_what_routing_keeps_itself_can_only_be_reset(desk: Desk, change: dict[str, Any]) -> None:
    added = await desk.post("/backends", BACKEND)
    await desk.put(f"/backends/{added['id']}", change, 422)


async def test_a_change_of_something_else_leaves_a_cooldown_alone(desk: Desk) -> None:
    identity = await cooled(desk)
    assert (await desk.put(f"/backends/{identity}", {"label": "x"}))["status"] == "cooling"


# Upkeep.


async def test_an_unreachable_database_is_told_as_503_and_errors_of_ours_as_500(
    desk: Desk, database: Database
) -> None:
    await database.close()
    desk.store._database = Database("postgresql+psycopg://127.0.0.1:1/none", connections=1)
    desk.stats._database = desk.store._database
    for path in ("/backends", "/config"):
        answer = await desk.http.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert (await desk.http.get("/stats/hourly")).status_code == 503
    await desk.store._database.close()
    desk.store._database = None  # type: ignore[assignment]
    answer = await desk.http.get("/backends")
    assert answer.status_code == 500 and "NoneType" not in answer.text and "detail" in answer.json()


async def test_a_job_is_run_and_its_result_kept(desk: Desk) -> None:
    done = (await desk.http.post("/upkeep/aggregate", params={"by": "prefect"})).json()
    assert (done["ok"], done["by"], done["ran_at"]) == (True, "prefect", "2026-11-22T12:30:00Z")
    assert desk.jobs == ["aggregate"]
    assert await desk.get("/upkeep") == [done]
    await desk.post("/upkeep/nonsense", status=404)
    assert (await desk.http.post("/upkeep/aggregate", params={"by": "x" * 51})).status_code == 422
    assert (await desk.post("/upkeep/aggregate"))["by"] == "api"


# Rubbish.

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from([*BackendChange.model_fields, *ClientForm.model_fields, "value", "description", "x"])
rubbish = st.dictionaries(fields, anything, max_size=4)
words = st.text(max_size=20)


async def test_no_rubbish_breaks_anything(desk: Desk) -> None:
    identity = (await desk.post("/backends", BACKEND))["id"]
    client = (await desk.post("/clients", {"name": "anna"}))["id"]
    asked = 0

    async def ask(method: str, path: str, **how: Any) -> None:
        answer = await desk.http.request(method, path, **how)
        assert answer.status_code < 500, (method, path, how, answer.text)
        assert answer.status_code == 200 or "detail" in answer.text, (method, path, how, answer.text)

    @settings(
        max_examples=120,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def draw(data: st.DataObject) -> None:
        nonlocal asked
        asked += 1
        requests.append((data.draw(st.sampled_from(doors)), data.draw(rubbish), data.draw(words)))

    doors = [
        ("POST", "/backends"),
        ("PUT", f"/backends/{identity}"),
        ("POST", "/clients"),
        ("PUT", f"/clients/{client}"),
        ("PUT", "/config/queue_max_depth"),
        ("PUT", "/config/health_probe_endpoint"),
    ]
    requests: list[tuple[tuple[str, str], dict[str, Any], str]] = []
    draw()
    for (method, path), body, word in requests:
        content = json.dumps(BACKEND | body if path == "/backends" else body).encode(errors="surrogatepass")
        await ask(method, path, content=content)
        name = quote(word, safe="", errors="surrogatepass")
        await ask("GET", f"/backends/x{name}")
        query = dict.fromkeys(("since", "agent", "item", "hours", "limit", "pool", "backend_id"), word)
        for path_ in ("/calls", "/spend", "/stats/hourly", "/stats/cooldown", "/backends"):
            some = {key: value.encode(errors="replace").decode() for key, value in query.items()}
            await ask("GET", path_, params=some)
    assert asked >= 100
