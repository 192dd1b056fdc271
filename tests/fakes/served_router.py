"""A router without its database, in the test's own loop: real door, real balancer, books in memory.

async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
    answer = await router.ask("gpt")
    assert router.calls[0].outcome is Outcome.OK
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import uvicorn
from aiohttp import web

from quarterdeck.kernel.http import trusted
from quarterdeck.router import steady
from quarterdeck.router.backend import Backend, Prices, Usage
from quarterdeck.router.backend import Mapping as ModelMapping
from quarterdeck.router.call import Call
from quarterdeck.router.config import Tuning
from quarterdeck.router.door.application import Application
from quarterdeck.router.door.ask import BudgetSpent, Clients
from quarterdeck.router.door.attempts import Ways
from quarterdeck.router.door.request_log import RequestLog
from quarterdeck.router.exchange import Answer, Attempt, Failure, Outcome, Stream, Way
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.limits.line import Line
from quarterdeck.router.ways.openai_way import OpenAIWay
from quarterdeck.router.ways.rehearsal import RehearsalWay
from tests.fakes.provider import FakeProvider
from tests.fakes.provider_invoice import prompt_tokens

KEY = "sk-the-backends-own-key-0001"
PRICES = Prices(input=2_500_000, output=10_000_000, cache_read=1_250_000, cache_write=3_125_000)
"""Those of the fake provider."""

CHAT = "/v1/chat/completions"
SOON = 20.0
"""Seconds in which whatever a test waits for has to happen."""
DRAINS = 5.0
"""Seconds for the calls that a test left open."""


def backend(
    provider: FakeProvider | str, *models: str, name: str = "one", native: str = "", **changes: Any
) -> Backend:
    """A backend at the provider. Models are called there `native-<model>`, unless `native` says how."""
    base = provider if isinstance(provider, str) else f"{provider.url}/v1"
    prices = changes.pop("prices", PRICES)
    compat = changes.pop("compat", {})
    mappings = {
        model: ModelMapping(model, native or f"native-{model}", prices, compat=compat) for model in models
    }
    fields = {"api_key": KEY, "rpm_limit": 1000, "mappings": mappings, "timeout_seconds": 10} | changes
    return Backend(id=f"bkd_{name}", name=name, api_base_url=base, **fields)


class MemoryBook:
    """A book that keeps what it is told, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def record(self, call: Call) -> None:
        self.calls.append(call)


class WordCounter:
    """Counts as the fake provider does."""

    def __init__(self) -> None:
        self.counted: list[str] = []

    async def count(self, native_id: str, path: str, body: Mapping[str, Any], text: str) -> Usage:
        self.counted.append(native_id)
        prompt, said = prompt_tokens(dict(body)), len(text.split())
        return Usage(prompt, said, prompt + said, is_estimate=True)


@dataclass(frozen=True)
class Guest:
    id: str = ""
    name: str = ""
    agent: str = ""


@dataclass
class Budget:
    """What a client may use; tokens that are reserved count as used until they are settled."""

    tokens: int
    cost: int | None = None
    settled: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Kept:
    budget: Budget | None
    tokens: int

    @property
    def left_tokens(self) -> int | None:
        return self.budget.tokens + self.tokens if self.budget else None

    @property
    def left_cost(self) -> int | None:
        return self.budget.cost if self.budget else None

    def grow(self, tokens: int, cost: int) -> None:
        if self.budget and tokens > self.tokens:
            self.budget.tokens -= tokens - self.tokens
            self.tokens = tokens

    def settle(self, tokens: int, cost: int) -> None:
        if self.budget:
            self.budget.tokens += self.tokens - tokens
            self.budget.settled.append((tokens, cost))


class MemoryClients:
    """Tokens and whom they belong to. Without any, no key is needed."""

    def __init__(self, guests: Mapping[str, Guest] | None = None, **budgets: Budget) -> None:
        self.guests = dict(guests or {})
        self.budgets = budgets

    @property
    def needs_key(self) -> bool:
        return bool(self.guests)

    def who(self, token: str) -> Guest | None:
        return self.guests.get(token)

    def is_limited(self, client: Guest) -> bool:
        return client.id in self.budgets

    def reserve(
        self,
        client: Guest,
        tokens: int,
        cost: int,
        now: float,
        *,
        answer_tokens: int = 0,
        answer_cost: int = 0,
    ) -> Kept:
        budget = self.budgets.get(client.id)
        if budget and budget.tokens < tokens:
            raise BudgetSpent(f"{client.name} has used its tokens of today.", 120.0)
        if budget:
            tokens = min(tokens + answer_tokens, budget.tokens)
            budget.tokens -= tokens
        return Kept(budget, tokens)


class NoWay:
    """For what a test does not need."""

    async def send(self, attempt: Attempt) -> Answer | Stream:
        raise Failure(Outcome.BROKEN, "There is no translation here.")

    async def close(self) -> None:
        """Nothing is open."""


async def no_admin(scope: Any, receive: Any, send: Any) -> None:
    """An admin application with one page that says where it is."""
    body = f"admin {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Served:
    """The application on a port, and a client for it. `tuning` may be any of its fields."""

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        clients: Clients | None = None,
        book: Any = None,
        counter: Any = None,
        short: Way | None = None,
        translated: Way | None = None,
        log: RequestLog | None = None,
        now: Callable[[], float] = steady.now,
        renewed: Callable[[], Awaitable[None]] | None = None,
        **tuning: Any,
    ) -> None:
        self.book = book or MemoryBook()
        self.counter = counter or WordCounter()
        self.clients = clients or MemoryClients()
        self.refused_as: list[Outcome] = []
        self.balancer = Balancer(Tuning(**tuning))
        self.balancer.adopt(backends, now())
        self.line = Line(self.balancer, now)
        self.short = short or OpenAIWay(now)
        ways = Ways(short=self.short, translated=translated or NoWay(), rehearsal=RehearsalWay())
        self.app = Application(
            balancer=self.balancer,
            line=self.line,
            ways=ways,
            clients=self.clients,
            book=self.book,
            counter=self.counter,
            now=now,
            admin=no_admin,
            health=lambda: (200, {"status": "ok"}),
            log=log or RequestLog(write=lambda text: None),
            refused=self.refused_as.append,
            **({"renewed": renewed} if renewed else {}),
        )

    @property
    def refused(self) -> int:
        """How many requests reached no backend."""
        return len(self.refused_as)

    @property
    def calls(self) -> list[Call]:
        calls: list[Call] = self.book.calls
        return calls

    async def __aenter__(self) -> Self:
        config = uvicorn.Config(self.app, log_config=None, lifespan="off", access_log=False)
        self._server = uvicorn.Server(config)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._serving = asyncio.create_task(self._server._serve([listening]))
        while not self._server.started:
            await asyncio.sleep(0)
        self.http = httpx.AsyncClient(base_url=self.url, timeout=20, verify=trusted())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()
        await self.app.drain(DRAINS)
        self._server.should_exit = True
        await self._serving
        await self.short.close()

    async def ask(self, model: str, path: str = CHAT, **body: Any) -> httpx.Response:
        """A short chat."""
        headers = body.pop("headers", {})
        return await self.http.post(path, json=asked(model, **body), headers=headers)

    async def stream(self, model: str, **body: Any) -> "Heard":
        """A streamed chat, heard to its end."""
        async with self.streaming(model, **body) as response:
            return Heard(response, b"".join([part async for part in response.aiter_raw()]))

    @asynccontextmanager
    async def streaming(self, model: str, path: str = CHAT, **body: Any) -> AsyncIterator[httpx.Response]:
        headers = body.pop("headers", {})
        asked_for = asked(model, stream=True, **body)
        async with self.http.stream("POST", path, json=asked_for, headers=headers) as response:
            yield response

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what happens in the router after its answer."""
        async with asyncio.timeout(SOON):
            while not condition():
                await asyncio.sleep(0)


class Servant:
    """A provider that answers every call with one function, for what the fake provider does not do."""

    def __init__(self, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        app = web.Application(client_max_size=10**9)
        app.router.add_post("/{path:.*}", answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


def asked(model: str, **body: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "all hands on deck"}]} | body


@dataclass(frozen=True)
class Heard:
    """A stream that has ended."""

    response: httpx.Response
    raw: bytes

    @property
    def data(self) -> list[str]:
        """The data of each event."""
        lines = self.raw.decode().split("\n")
        return [line[5:].removeprefix(" ") for line in lines if line.startswith("data:")]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(data) for data in self.data if data != "[DONE]"]

    @property
    def text(self) -> str:
        deltas = [choice["delta"] for chunk in self.chunks for choice in chunk.get("choices", ())]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def is_complete(self) -> bool:
        return self.data[-1] == "[DONE]"

    @property
    def error(self) -> dict[str, Any]:
        """The error with which it ended."""
        error: dict[str, Any] = self.chunks[-1]["error"]
        return error
