"""Budgets at the door: calls under way hold what their answers may cost, so many at once pass no limit."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from aiohttp import web

from quarterdeck.router import steady
from quarterdeck.router.backend import PICO
from quarterdeck.router.clients import Clients
from quarterdeck.router.door.ask import ANSWER, answer_length, prompt_length
from quarterdeck.router.storage.client_store import ClientKey
from quarterdeck.router.storage.keys import digest
from tests.fakes.served_router import PRICES, Servant, Served, backend

KEY = {"Authorization": "Bearer sk-client"}
DAY = 86_400


def clients(tokens: int | None = None, dollars: float | None = None) -> Clients:
    """One client with these budgets, whose key is `KEY`."""
    then = datetime(2026, 11, 22, tzinfo=UTC)
    cost = None if dollars is None else int(dollars * PICO)
    known = Clients()
    known.adopt(
        [ClientKey("cli_1", "crew", "scout", digest("sk-client"), "sk-…", True, tokens, cost, then, then)]
    )
    return known


class Slow:
    """A provider whose answers wait until they may go on; each then uses `completion` tokens."""

    def __init__(self, completion: int) -> None:
        self.completion = completion
        self.asked = 0
        self.goes_on = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if (await request.json()).get("stream"):
            return await self._stream(request)
        await self.goes_on.wait()
        return web.json_response({"model": "native-gpt", "choices": [], "usage": self._usage()})

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": 10, "completion_tokens": self.completion}

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_event("well"))
        await self.goes_on.wait()
        for _ in range(self.completion // 10):
            await response.write(_event("ten tokens" * 4))
            await asyncio.sleep(0)
        await response.write(b"data: [DONE]\n\n")
        return response


def _event(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "model": "native-gpt", "choices": [choice]}).encode() + b"\n\n"


@asynccontextmanager
async def at_work(slow: Slow, known: Clients) -> AsyncIterator[Served]:
    async with (
        Servant(slow.answer) as servant,
        Served([backend(servant.url, "gpt")], clients=known) as router,
    ):
        yield router


async def at_once(
    router: Served, slow: Slow, call: Callable[[], Awaitable[httpx.Response]], number: int
) -> list[httpx.Response]:
    """So many calls, of which none goes on before each has either reached the provider or been refused."""
    calls = [asyncio.ensure_future(call()) for _ in range(number)]
    await router.until(lambda: slow.asked + router.refused == number)
    slow.goes_on.set()
    return await asyncio.gather(*calls)


LIMITS = [{"tokens": 1_000}, {"dollars": 1_000 * PRICES.output / PICO}]


@pytest.mark.parametrize("limit", LIMITS, ids=["tokens", "dollars"])
@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "stream"])
async def test_many_calls_at_once_pass_a_budget_by_no_more_than_one_answer(
    limit: dict[str, Any], is_stream: bool
) -> None:
    slow, known = Slow(400), clients(**limit)
    async with at_work(slow, known) as router:

        async def call() -> httpx.Response:
            return await router.ask("gpt", headers=KEY, max_tokens=400, stream=is_stream)

        answers = await at_once(router, slow, call, 20)
        assert 0 < slow.asked <= 3
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 20 - slow.asked
        await router.until(lambda: router.app.open_requests == 0 and len(router.calls) == slow.asked)
        used = known.spent("cli_1", steady.now())
        if "tokens" in limit:
            assert used.tokens <= 1_000 + 400
        else:
            assert used.cost <= (1_000 + 400) * PRICES.output


async def test_streams_at_once_stop_each_other_when_together_they_use_the_budget() -> None:
    """Each said that it needs little, and goes on far beyond."""
    slow, known = Slow(4_000), clients(tokens=1_000)
    async with at_work(slow, known) as router:

        async def call() -> httpx.Response:
            return await router.ask("gpt", headers=KEY, max_tokens=10, stream=True)

        answers = await at_once(router, slow, call, 8)
        assert slow.asked == 8
        assert all(b"budget_spent" in answer.content for answer in answers)
        await router.until(lambda: len(router.calls) == 8)
        assert 500 <= known.spent("cli_1", steady.now()).tokens <= 1_000 + 8 * 100  # a look each kB


async def test_the_last_call_is_not_refused_for_an_answer_that_would_not_fit() -> None:
    slow, known = Slow(20), clients(tokens=1_000)
    async with at_work(slow, known) as router:
        slow.goes_on.set()
        for _ in range(5):
            assert (await router.ask("gpt", headers=KEY, max_tokens=100_000)).status_code == 200


async def test_what_calls_under_way_hold_is_asked_for_again_soon_and_what_is_spent_tomorrow() -> None:
    slow, known = Slow(1_000), clients(tokens=1_000)
    async with at_work(slow, known) as router:
        first = asyncio.ensure_future(router.ask("gpt", headers=KEY))
        await router.until(lambda: slow.asked == 1)
        held = await router.ask("gpt", headers=KEY)
        assert (held.status_code, held.json()["error"]["code"]) == (429, "budget_held")
        assert int(held.headers["retry-after"]) <= 5
        assert "x-should-retry" not in held.headers
        slow.goes_on.set()
        assert (await first).status_code == 200
        spent = await router.ask("gpt", headers=KEY)
        assert (spent.status_code, spent.json()["error"]["code"]) == (429, "budget_spent")
        assert spent.headers["x-should-retry"] == "false"


async def test_nothing_is_reckoned_for_a_client_without_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, known = Slow(400), clients()
    with _reckoned(monkeypatch) as asked:
        async with at_work(slow, known) as router:
            slow.goes_on.set()
            assert (await router.ask("gpt", headers=KEY)).status_code == 200
            assert asked == []
            assert known.spent("cli_1", steady.now()).tokens == 410


@contextmanager
def _reckoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    asked: list[str] = []

    def reckon(*of: object) -> int:
        asked.append(str(of))
        return 0

    with monkeypatch.context() as patch:
        for name in ("prompt_length", "answer_length"):
            patch.setattr(f"quarterdeck.router.door.application.{name}", reckon)
        yield asked


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, ANSWER),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 8}, 8),
        ({"max_output_tokens": 9}, 9),
        ({"max_tokens": 7, "max_completion_tokens": 8}, 8),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"n": 2}, 2 * ANSWER),
        ({"max_tokens": 7, "n": 2, "best_of": 5}, 35),
        ({"max_tokens": 7, "prompt": ["one", "two", "three"]}, 21),
        ({"max_tokens": 7, "prompt": [[1, 2], [3]], "n": 2}, 28),
        ({"max_tokens": 7, "prompt": [1, 2, 3]}, 7),
        ({"max_tokens": 7, "prompt": []}, 7),
        ({"max_tokens": 7, "prompt": "one"}, 7),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": None, "n": None}, ANSWER),
        ({"max_tokens": -5, "n": -5}, ANSWER),
        ({"max_tokens": True, "n": True}, ANSWER),
        ({"max_tokens": "many", "n": 1.5}, ANSWER),
    ],
)
def test_an_answer_may_be_as_long_as_its_request_allows(body: dict[str, Any], tokens: int) -> None:
    assert answer_length(body) == tokens


LONG = "word " * 8_000
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 80_000}}


@pytest.mark.parametrize(
    "body",
    [
        {"system": LONG},
        {"system": [{"type": "text", "text": LONG}]},
        {"instructions": LONG, "input": "short"},
        {"tools": [{"type": "function", "function": {"name": "f", "description": LONG}}]},
        {"tools": [{"name": "f", "input_schema": {"properties": {"x": {"description": LONG}}}}]},
        {"functions": [{"name": "f", "description": LONG}]},
        {"messages": [{"role": "user", "content": LONG}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}, PICTURE]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": LONG}}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"file": LONG}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": LONG}]}]},
        {"input": [{"type": "function_call", "arguments": LONG}]},
        {"input": [{"type": "function_call_output", "output": LONG}]},
        {"input": [1] * 10_000},
        {"prompt": LONG},
    ],
    ids=lambda body: "-".join(body),
)
def test_the_prompt_is_reckoned_with_all_that_a_model_reads(body: dict[str, Any]) -> None:
    assert 9_900 < prompt_length(json.dumps(body).encode(), body) < 10_200


def test_what_is_nested_too_deep_to_be_read_refuses_no_call() -> None:
    tools: list[Any] = []
    for _ in range(900):
        tools = [tools]
    assert prompt_length(b" " * 5_000, {"tools": tools, "input": tools}) == 1
