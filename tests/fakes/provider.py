"""A small working provider of models on a loopback port, in the test's own event loop.

    async with FakeProvider() as provider:
        provider.script("m", [FAULTS["500"], OK])      # first call fails, second does not
        ...                                            # point a backend at provider.url + "/v1"
        assert [request.path for request in provider.to("m")] == ["/v1/chat/completions"]
        assert provider.invoice.tokens("m").completion == 12

It speaks the OpenAI dialect (chat completions, completions, embeddings, models, responses) and the Anthropic
one (messages), below any prefix. A model that is named like a fault of `FAULTS` fails so; any other answers.
What follows an `@` in a name only tells models apart: `429@mine` fails like `429`.
"""

import argparse
import asyncio
import json
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from tests.fakes.provider_anthropic import MESSAGES
from tests.fakes.provider_anthropic import models as anthropic_models
from tests.fakes.provider_faults import FAULTS, OK, Fault, held
from tests.fakes.provider_invoice import Charge, Invoice, Prices, Tokens, prompt_tokens, prose
from tests.fakes.provider_openai import CHAT, COMPLETIONS, EMBEDDINGS
from tests.fakes.provider_openai import models as openai_models
from tests.fakes.provider_reply import Dialect, Frame, Reply, arguments, in_pieces
from tests.fakes.provider_responses import RESPONSES
from tests.fakes.provider_wire import LONGEST, Broken, Headers, Wire, self_signed

__all__ = ["FAULTS", "MODELS", "OK", "FakeProvider", "Fault", "Offer", "Prices", "Received", "Tokens", "held"]

DIALECTS = {
    "chat/completions": CHAT,
    "completions": COMPLETIONS,
    "embeddings": EMBEDDINGS,
    "responses": RESPONSES,
    "messages": MESSAGES,
}

Called = tuple[str, dict[str, Any]]
"""The name of a tool, and its arguments."""

PATIENCE = 5.0
"""Seconds that calls under way have to notice that they are over."""

MODELS = "/models"
"""What to script for when the list of models shall fail."""


@dataclass(frozen=True)
class Offer:
    """A model: what it costs, how long its answers are, how much of each prompt the cache knows.

    `calls_tools`: whether it calls the first tool that it is offered, or only talks.
    `calls`: which tool it calls with which arguments, by what it is asked (the body); `None` = it talks.
    `text`: what it says, word for word; else it talks of nothing for `completion` tokens.
    """

    prices: Prices = field(default_factory=Prices)
    completion: int = 12
    cached_read: int = 0
    cached_write: int = 0
    calls_tools: bool = True
    calls: Callable[[dict[str, Any]], Called | None] | None = None
    text: str = ""


@dataclass(frozen=True)
class Received:
    """One request as it came. `at` is monotonic seconds; `over` is set when its answer has ended."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    raw: bytes
    body: dict[str, Any]
    at: float
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def model(self) -> str:
        """The model that was asked for; `MODELS` for their list."""
        return str(self.body.get("model", "")) or (MODELS if self.method == "GET" else "")

    @property
    def key(self) -> str:
        bearer = self.headers.get("authorization", "")
        return self.headers.get("x-api-key") or bearer.removeprefix("Bearer ")


@dataclass
class Exchange:
    """One request being answered; what the faults work with."""

    wire: Wire
    request: Received
    dialect: Dialect
    reply: Reply
    line: Callable[[Tokens], Charge]
    holds_after: tuple[int, asyncio.Event] | None = None
    _charge: Charge | None = None

    @property
    def is_stream(self) -> bool:
        return bool(self.request.body.get("stream")) and self.dialect.stream is not None

    @property
    def is_anthropic(self) -> bool:
        return self.dialect is MESSAGES

    def plain(self) -> dict[str, Any]:
        return self.dialect.plain(self.reply, self.request.body)

    def frames(self) -> list[Frame]:
        assert self.dialect.stream is not None
        return self.dialect.stream(self.reply, self.request.body)

    def charge(self, completion: int) -> None:
        """From now on the request costs its prompt, and so many tokens more than before."""
        if self._charge is None:
            tokens = self.reply.tokens
            self._charge = self.line(Tokens(tokens.prompt, 0, tokens.cached_read, tokens.cached_write))
        self._charge.tokens += Tokens(completion=completion)

    async def refuse(
        self, status: int, kind: str, message: str, code: str | None, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        body = json.dumps(self.dialect.error(status, kind, message, code)).encode()
        await self.wire.send(status, [("Content-Type", "application/json"), *headers], body)

    async def answer(
        self, change: Callable[[list[Frame]], list[Frame]] | None = None, pause: float = 0
    ) -> None:
        """Everything, in the way that was asked for."""
        if self.is_stream:
            await self.begin(pause=pause)
            await self.stream(change(self.frames()) if change else self.frames())
            return await self.wire.end()
        self.charge(self.reply.tokens.completion)
        body = json.dumps(self.plain()).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        await self.wire.head(200, headers, pause)
        return await self.wire.raw(body)

    async def begin(self, headers: Iterable[tuple[str, str]] = (), pause: float = 0) -> None:
        kind = [("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache")]
        await self.wire.head(200, [*kind, ("Transfer-Encoding", "chunked"), *headers], pause)

    async def stream(self, frames: Iterable[Frame]) -> None:
        """Every token is charged before it is sent; a stream that has begun costs its prompt."""
        sent = 0
        for frame in frames:
            if frame.tokens and self.holds_after and self.holds_after[0] == sent:
                await self.wait(self.holds_after[1])
            await asyncio.sleep(frame.pause)
            sent += frame.tokens
            self.charge(frame.tokens)
            await self.wire.chunk(frame.data)

    async def half(self) -> None:
        """The first half of a plain answer."""
        self.charge(self.reply.tokens.completion)
        body = json.dumps(self.plain()).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        await self.wire.head(200, headers)
        await self.wire.raw(body[: len(body) // 2])

    async def wait(self, event: asyncio.Event) -> None:
        """Until the event, or until the client hangs up. Raises `Broken` for the latter."""
        released = asyncio.create_task(event.wait())
        gone = asyncio.create_task(self.wire.gone())
        try:
            await asyncio.wait([released, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (released, gone):
                task.cancel()
            await asyncio.gather(released, gone, return_exceptions=True)
        if not event.is_set():
            raise Broken


class FakeProvider:
    """`keys` are those that are accepted; without any, every key is."""

    def __init__(self, *, keys: Collection[str] = (), port: int = 0) -> None:
        self.keys = set(keys)
        self.port = port
        self.tls_port = 0
        self.requests: list[Received] = []
        self.invoice = Invoice()
        self.offers: dict[str, Offer] = {}
        self._scripts: dict[str, deque[Fault]] = defaultdict(deque)
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], Wire] = {}
        self._news = asyncio.Event()

    # For tests

    @property
    def url(self) -> str:
        """The address without a version."""
        return f"http://127.0.0.1:{self.port}"

    def base(self, fault: str | Fault) -> str:
        """The address at which a fault happens."""
        known = FAULTS[fault] if isinstance(fault, str) else fault
        return {
            "http": self.url,
            "plain-for-tls": f"https://127.0.0.1:{self.port}",
            "self-signed": f"https://127.0.0.1:{self.tls_port}",
            "unknown-name": "http://provider.invalid",
        }[known.door]

    def offer(self, model: str, **terms: Any) -> Offer:
        """Set what a model costs and answers; see `Offer`."""
        self.offers[model] = Offer(**terms)
        return self.offers[model]

    def script(self, model: str, faults: Iterable[Fault | str]) -> None:
        """What becomes of the next requests for a model, in order; afterwards its name decides again."""
        self._scripts[model].extend(FAULTS[f] if isinstance(f, str) else f for f in faults)

    def hold(self, model: str, after: int | None = None) -> asyncio.Event:
        """Hold the next answer, or hold its stream after so many tokens, until the event is set."""
        event = asyncio.Event()
        self.script(model, [held(event, after)])
        return event

    def to(self, model: str) -> list[Received]:
        """The requests for one model."""
        return [request for request in self.requests if request.model == model]

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Wait for something to become of the requests. Raises `TimeoutError`."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def __aenter__(self) -> Self:
        plain = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=LONGEST)
        secure = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self_signed(), limit=LONGEST)
        self._servers = [plain, secure]
        self.port, self.tls_port = (server.sockets[0].getsockname()[1] for server in self._servers)
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for wire in self._connections.values():
            wire.abort()
        if self._connections:
            _over, stuck = await asyncio.wait(self._connections, timeout=PATIENCE)
            for task in stuck:
                task.cancel()  # it waits for something else than its wire
        for server in self._servers:
            await server.wait_closed()

    # The server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        wire = self._connections[task] = Wire(reader, writer)
        try:
            await self._converse(wire)
        except (Broken, OSError, asyncio.IncompleteReadError):
            wire.abort()
        finally:
            await wire.close()
            del self._connections[task]

    async def _converse(self, wire: Wire) -> None:
        """Requests of one kept-alive connection, one after the other."""
        while (came := await wire.read()) is not None:
            method, target, headers, raw = came
            url = urlsplit(target)
            request = Received(
                method, url.path, url.query, dict(headers), raw, _object(raw), time.monotonic()
            )
            self.requests.append(request)
            self._news.set()
            try:
                await self._answer(wire, request)
            finally:
                request.over.set()
                self._news.set()
            if request.headers.get("connection", "").lower() == "close":
                return

    async def _answer(self, wire: Wire, request: Received) -> None:
        match = re.fullmatch(rf"(?:/.*?)?/({'|'.join(DIALECTS)}|models)", request.path)
        is_anthropic = "anthropic-version" in request.headers
        dialect = DIALECTS.get(match[1] if match else "", MESSAGES if is_anthropic else CHAT)
        exchange = self._exchange(wire, request, dialect)
        if self.keys and request.key not in self.keys:
            await FAULTS["401"].act(exchange)
        elif match is None or (request.method == "GET") is not (match[1] == "models"):
            await exchange.refuse(404, "invalid_request_error", "There is nothing here.", None)
        elif not request.model:
            await exchange.refuse(400, "invalid_request_error", "You must provide a model.", None)
        elif (fault := self._fault(request.model)) is OK and request.method == "GET":
            listed = (anthropic_models if is_anthropic else openai_models)(self.offers)
            await wire.send(200, _JSON, json.dumps(listed).encode())
        else:
            await (OK if fault.ways == "stream" and not exchange.is_stream else fault).act(exchange)

    def _fault(self, model: str) -> Fault:
        if self._scripts[model]:
            return self._scripts[model].popleft()
        return FAULTS.get(model.partition("@")[0], OK)

    def _exchange(self, wire: Wire, request: Received, dialect: Dialect) -> Exchange:
        offer = self.offers.get(request.model, Offer())

        def line(tokens: Tokens) -> Charge:
            return self.invoice.add(Charge(request.model, tokens, offer.prices))

        reply = _reply(len(self.requests), request, offer, dialect)
        return Exchange(wire, request, dialect, reply, line)


_JSON: Headers = [("Content-Type", "application/json")]


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _reply(number: int, request: Received, offer: Offer, dialect: Dialect) -> Reply:
    """A tool is called when one is offered and the last message does not bring a tool's result."""
    body = request.body
    called = None if _has_result(body) else _called(body, offer)
    limits = (body.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
    limit = min((given for given in limits if given), default=None)
    if called is not None:
        name, given = called
        pieces, full = in_pieces(given), False
    else:
        whole = tuple(re.findall(r"\s*\S+\s*", offer.text)) or prose(offer.completion)
        pieces, name, full = whole[:limit], None, limit is not None and limit < len(whole)
    if dialect.stream is None:
        pieces = ()
    tokens = Tokens(prompt_tokens(body), len(pieces), offer.cached_read, offer.cached_write)
    return Reply(number, request.model, pieces, tokens, name, full)


def _called(body: dict[str, Any], offer: Offer) -> Called | None:
    """The tool that it chooses, else the first one with arguments by its schema."""
    if offer.calls is not None:
        return offer.calls(body)
    tools = body.get("tools") if offer.calls_tools else None
    first = tools[0].get("function", tools[0]) if tools else None
    return (first["name"], arguments(first)) if first else None


def _has_result(body: dict[str, Any]) -> bool:
    items = body.get("messages") or body.get("input") or [{}]
    last = items[-1] if isinstance(items, list) else {}
    if not isinstance(last, dict):
        return False
    if last.get("role") == "tool" or last.get("type") == "function_call_output":
        return True
    content = last.get("content")
    return isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)


async def _alone(port: int) -> None:
    async with FakeProvider(port=port) as provider:
        print(provider.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answer as a provider of models would, until Ctrl-C.")
    parser.add_argument("--port", type=int, default=0)
    try:
        asyncio.run(_alone(parser.parse_args().port))
    except KeyboardInterrupt:
        print("closed")
