"""The router's own door: what is there, who may enter, what is refused and how that is said."""

import asyncio
import json
from typing import Any

import pytest

from tests.fakes.provider import FakeProvider
from tests.fakes.served_router import CHAT, Guest, MemoryClients, Served, asked, backend

LOCAL = "http://127.0.0.1:9"
"""Nobody is there: these tests never get that far."""


def guarded() -> MemoryClients:
    guests = {"sk-crew": Guest("cli_1", "crew", "scout"), "sk-proxy": Guest()}
    return MemoryClients(guests)


async def test_models_are_listed_from_memory() -> None:
    off = backend(LOCAL, "hidden", name="off", enabled=False)
    async with Served([backend(LOCAL, "gpt", "meta/llama-3/8b"), off]) as router:
        listed = (await router.http.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == ["gpt", "meta/llama-3/8b"]
        assert listed["object"] == "list"
        one = (await router.http.get("/v1/models/meta/llama-3/8b")).json()
        assert (one["id"], one["object"]) == ("meta/llama-3/8b", "model")
        assert (await router.http.get("/v1/models/meta%2Fllama-3%2F8b")).json() == one
        missing = await router.http.get("/v1/models/hidden")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/models/", 404),
        ("POST", "/v1/files", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/api/adminx", 404),
        ("GET", "/static/chart.js", 404),
        ("GET", "/metrics", 404),
        ("GET", "/docs", 404),
        ("GET", CHAT, 405),
        ("OPTIONS", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
        ("GET", "/health", 200),
        ("GET", "/api/admin/backends", 200),
        ("GET", "/dashboard", 200),
        ("GET", "/dashboard/sse", 200),
    ],
)
async def test_nothing_but_the_known_paths_is_there(method: str, path: str, status: int) -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        answer = await router.http.request(method, path)
        assert answer.status_code == status
        if status >= 400:
            assert answer.json()["error"]["type"] == f"Error_{status}"
        if status == 405:
            assert answer.headers["allow"]
        assert provider.requests == []


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nothing"])
async def test_a_head_request_has_headers_only(path: str) -> None:
    async with Served([backend(LOCAL, "gpt")]) as router:
        answer, whole = await router.http.head(path), await router.http.get(path)
        assert answer.content == b""
        assert answer.status_code == whole.status_code
        assert answer.headers["content-length"] == str(len(whole.content))


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"X-Api-Key": "wrong"}, {"Authorization": "Basic sk-crew"}],
)
async def test_nobody_enters_without_a_key_once_there_is_one(headers: dict[str, str]) -> None:
    clients = guarded()
    async with FakeProvider() as provider, Served([backend(provider, "gpt")], clients=clients) as router:
        for answer in (await router.ask("gpt", headers=headers), await router.http.get("/v1/models")):
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await router.http.get("/health")).status_code == 200
        assert provider.requests == []


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer sk-crew"}, {"authorization": "bearer sk-crew"}, {"X-Api-Key": "sk-crew"}],
)
async def test_a_key_is_shown_as_any_sdk_does_it_and_says_whose_call_it_is(headers: dict[str, str]) -> None:
    clients = guarded()
    async with FakeProvider() as provider, Served([backend(provider, "gpt")], clients=clients) as router:
        assert (await router.ask("gpt", headers=headers)).status_code == 200
        (call,) = router.calls
        assert (call.caller.client_id, call.caller.agent, call.caller.item) == ("cli_1", "scout", "")
        assert (await router.http.get("/v1/models", headers=headers)).status_code == 200


async def test_a_key_that_was_made_just_now_is_looked_for_before_it_is_refused() -> None:
    clients, looks = guarded(), 0

    async def renewed() -> None:
        nonlocal looks
        looks += 1
        clients.guests["sk-new"] = clients.guests["sk-crew"]

    local = backend(LOCAL, "gpt")
    async with Served([local], clients=clients, renewed=renewed) as router:
        for headers, status, looked in (
            ({}, 401, 0),  # who shows no key makes nobody look
            ({"Authorization": "Bearer sk-crew"}, 200, 0),
            ({"Authorization": "Bearer sk-new"}, 200, 1),
            ({"Authorization": "Bearer sk-new"}, 200, 1),
            ({"Authorization": "Bearer sk-wrong"}, 401, 2),
        ):
            assert (await router.http.get("/v1/models", headers=headers)).status_code == status
            assert looks == looked
        assert (await router.ask("none", headers={"Authorization": "Bearer sk-wrong"})).status_code == 401
        assert looks == 3


async def test_headers_say_for_whom_and_for_what_a_call_is() -> None:
    clients = guarded()
    async with FakeProvider() as provider, Served([backend(provider, "gpt")], clients=clients) as router:
        who = {"X-Quarterdeck-Agent": "coder-2", "X-Quarterdeck-Item": "ET-007"}
        for key in ("sk-crew", "sk-proxy"):
            await router.ask("gpt", headers={"Authorization": f"Bearer {key}", **who})
        assert [(c.caller.client_id, c.caller.agent, c.caller.item) for c in router.calls] == [
            ("cli_1", "coder-2", "ET-007"),
            ("", "coder-2", "ET-007"),
        ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Quarterdeck-Agent", "two words"),
        ("X-Quarterdeck-Agent", "x" * 51),
        ("X-Quarterdeck-Agent", "<script>"),
        ("X-Quarterdeck-Item", "7"),
        ("X-Quarterdeck-Item", "ET-"),
        ("X-Quarterdeck-Item", "ET-007; drop"),
    ],
)
async def test_a_header_of_ours_that_makes_no_sense_is_refused(name: str, value: str) -> None:
    async with Served([backend(LOCAL, "gpt")]) as router:
        answer = await router.ask("gpt", headers={name: value})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_header")
        assert name in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'"gpt"', 400, "invalid_json"),
        (b"{}", 400, "model_missing"),
        (b'{"model":null}', 400, "model_missing"),
        (b'{"model":7}', 400, "model_missing"),
        (b'{"model":""}', 400, "model_missing"),
        (b'{"model":"unknown"}', 404, "model_not_found"),
        (b'{"model":"gpt","model":"unknown"}', 404, "model_not_found"),
        (b'{"model":"off"}', 404, "model_not_found"),
    ],
)
async def test_a_body_that_cannot_be_routed_is_refused_with_a_reason(
    raw: bytes, status: int, code: str
) -> None:
    off = backend(LOCAL, "off", name="off", enabled=False)
    async with Served([backend(LOCAL, "gpt"), off]) as router:
        answer = await router.http.post(CHAT, content=raw)
        assert answer.status_code == status
        error = answer.json()["error"]
        assert (error["code"], error["type"]) == (code, f"Error_{status}")
        assert error["message"]
        assert answer.headers["x-request-id"]
        assert (router.refused, router.calls) == (1, [])


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_body_larger_than_the_limit_is_refused_so_that_the_client_reads_why(is_told: bool) -> None:
    async def parts() -> Any:
        for _ in range(3000):
            yield b"x" * 1000

    async with Served([backend(LOCAL, "gpt")], largest_body_bytes=10_000) as router:
        content = b"x" * 3_000_000 if is_told else parts()
        answer = await router.http.post(CHAT, content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert answer.headers["connection"] == "close"


async def test_a_body_at_the_limit_is_taken() -> None:
    raw = json.dumps(asked("gpt")).encode()
    limit = len(raw)
    async with (
        FakeProvider() as provider,
        Served([backend(provider, "gpt")], largest_body_bytes=limit) as router,
    ):
        assert (await router.http.post(CHAT, content=raw)).status_code == 200


async def test_a_packed_body_is_refused_with_a_reason() -> None:
    async with Served([backend(LOCAL, "gpt")]) as router:
        answer = await router.ask("gpt", headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize("given", ["", "a b", "x" * 101, "é"])
async def test_a_request_id_that_makes_no_sense_is_replaced(given: str) -> None:
    async with Served([backend(LOCAL, "gpt")]) as router:
        answer = await router.http.post(CHAT, content=b"{}", headers={"X-Request-Id": given.encode()})
        assert answer.headers["x-request-id"].startswith("req_")


async def test_errors_for_the_messages_api_have_its_shape_too() -> None:
    async with Served([backend(LOCAL, "gpt")]) as router:
        answer = await router.ask("unknown", path="/v1/messages")
        assert (answer.json()["type"], answer.json()["error"]["code"]) == ("error", "model_not_found")


async def test_a_client_that_leaves_while_it_sends_its_body_leaves_nothing_behind() -> None:
    async with Served([backend(LOCAL, "gpt")]) as router:
        host, port = router.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
        await writer.drain()
        await router.until(lambda: bool(router._server.server_state.tasks))
        writer.close()
        await router.until(lambda: not router._server.server_state.tasks)
        assert (router.app.open_requests, router.calls) == (0, [])
