"""The router's one door: a raw ASGI application (run it without lifespan), so that a call costs little.

    POST /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/messages
    GET  /v1/models, /v1/models/{id}, /health
    /api/admin/..., /dashboard...    the admin application

Everything else is not here (404), whatever a provider may offer below that path.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any

import orjson
import structlog

from quarterdeck.router.backend import Prices
from quarterdeck.router.call import Book
from quarterdeck.router.door.answers import Header, Receive, Refusal, Send, say, stopping
from quarterdeck.router.door.ask import (
    Ask,
    BudgetSpent,
    Client,
    Clients,
    Headers,
    Hold,
    answer_length,
    caller_of,
    client_of,
    no_budget,
    parsed,
    prompt_length,
    read_body,
    token_of,
)
from quarterdeck.router.door.attempts import Hands, Line, Relay, Ways
from quarterdeck.router.door.books import Books, TokenCounter
from quarterdeck.router.door.request_log import LOGGER, RequestLog
from quarterdeck.router.door.watch import End, Watch, Watches
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.limits import rules
from quarterdeck.router.limits.balancer import Balancer

Scope = Mapping[str, Any]
App = Callable[[Any, Receive, Send], Any]
Health = Callable[[], tuple[int, Mapping[str, Any]]]
"""Status and body of `GET /health`."""

CALLS = frozenset(
    f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings", "responses", "messages")
)
EMBEDDINGS = "/v1/embeddings"
"""Never streamed, whatever the body says."""

MODELS = "/v1/models"
HEALTH = "/health"
PRICES_AGE = 5.0
"""Seconds for which the highest prices of each model are remembered; they only serve to hold back budget."""

_FREE = Prices()
_log = structlog.get_logger(LOGGER)


async def _nothing() -> None:
    """Nobody else makes keys."""


class Application:
    """The ASGI application. `refused` is told how each request ended that reached no backend.

    `renewed` returns when keys that were stored before are known.
    """

    def __init__(
        self,
        *,
        balancer: Balancer,
        line: Line,
        ways: Ways,
        clients: Clients,
        book: Book,
        counter: TokenCounter,
        now: Callable[[], float],
        admin: App,
        health: Health,
        log: RequestLog | None = None,
        refused: Callable[[Outcome], None] = lambda outcome: None,
        renewed: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self._balancer = balancer
        self._clients = clients
        self._now = now
        self._admin = admin
        self._health = health
        self._renewed = renewed
        self._books = Books(book, counter, log or RequestLog(), now, refused)
        self._hands = Hands(balancer, line, ways, self._books)
        self._watches = Watches()
        self._is_draining = False
        self._prices: dict[str, Prices] = {}
        self._priced_at = -PRICES_AGE
        self._born = int(now())

    @property
    def open_requests(self) -> int:
        """Calls of models that are not answered to the end."""
        return len(self._watches.open)

    @property
    def emergencies(self) -> int:
        """How often the emergency channel was entered."""
        return self._hands.emergencies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path in CALLS and scope["method"] == "POST":
            await self._call(path, scope, receive, send)
        elif _is_below(path, "/api/admin") or _is_below(path, "/dashboard"):
            await self._admin(scope, receive, send)
        else:
            await self._tell(path, scope, send)

    async def drain(self, limit: float) -> None:
        """Refuse new calls, let those that run end within `limit` seconds, break off the rest, book all.

        A stream that is broken off ends with an explicit error event.
        """
        self._is_draining = True
        await self._watches.drain(limit)
        if self._watches.open:
            _log.warning("requests_still_open", count=self.open_requests)
        await self._books.close(limit)

    async def _call(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A call of a model."""
        started, began = perf_counter(), self._now()
        headers: Headers = dict(scope["headers"])
        request = self._books.ids.of_request(headers)
        watch: Watch | None = None
        try:
            try:
                ask = await self._checked(request, path, scope, headers, receive, started, began)
            except Refusal:
                self._books.refused(Outcome.REFUSED)
                raise
            if ask is None:
                return
            watch = self._watches.begin(receive)
            await Relay(self._hands, ask, watch, send).run()
        except Refusal as refusal:
            await self._refuse(send, refusal, path, request)
        except asyncio.CancelledError:
            end = watch and watch.take_back()
            if end is None:
                raise
            if end is End.STOPPING:
                await self._refuse(send, stopping(), path, request)
        finally:
            if watch is not None:
                self._watches.end(watch)

    async def _checked(
        self,
        request: str,
        path: str,
        scope: Scope,
        headers: Headers,
        receive: Receive,
        started: float,
        began: float,
    ) -> Ask | None:
        """The request, fit to be sent on; None when the client left while sending it. Raises `Refusal`."""
        if self._is_draining:
            raise stopping()
        client = await self._client(headers)
        caller = caller_of(client, headers)
        raw = await read_body(receive, headers, self._balancer.tuning.largest_body_bytes)
        if raw is None:
            return None
        if self._is_draining:  # the stop began while the body came
            raise stopping()
        body, model = parsed(raw)
        if not self._balancer.knows(model):
            raise _unknown(model)
        is_stream = bool(body.get("stream")) and path != EMBEDDINGS
        options = body.get("stream_options")
        wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        hold, prompt = self._hold(client, path, raw, body, model, began)
        forwarded = rules.request_headers(headers.items())
        forwarded["x-request-id"] = request
        query = scope["query_string"].decode("latin-1")
        return Ask(
            request, path, query, forwarded, raw, body, model, is_stream, wants_usage,
            caller, hold, prompt, began, started,
        )  # fmt: skip

    async def _client(self, headers: Headers) -> Client | None:
        """Who calls; a key that is not known may have been made just now. Raises `Refusal` (401)."""
        try:
            return client_of(self._clients, headers)
        except Refusal:
            if not token_of(headers):
                raise
        await self._renewed()
        return client_of(self._clients, headers)

    def _hold(
        self, client: Client | None, path: str, raw: bytes, body: dict[str, Any], model: str, now: float
    ) -> tuple[Hold | None, int]:
        """Keep a part of the client's budget for its request. Raises `Refusal` (429)."""
        if client is None or not client.id:
            return None, 0
        if not self._clients.is_limited(client):
            return self._clients.reserve(client, 0, 0, now), 0  # it is counted what it uses
        prompt, answer = prompt_length(raw, body), 0 if path == EMBEDDINGS else answer_length(body)
        prices = self._prices_of(model, now)
        cost, answer_cost = prompt * prices.input, answer * prices.output
        try:
            hold = self._clients.reserve(
                client, prompt, cost, now, answer_tokens=answer, answer_cost=answer_cost
            )
        except BudgetSpent as error:
            refusal = no_budget(error)
            _log.warning(refusal.code, client=client.id)
            raise refusal from None
        return hold, prompt

    def _prices_of(self, model: str, now: float) -> Prices:
        """The highest that it has anywhere."""
        if now - self._priced_at >= PRICES_AGE:
            self._prices = _highest_prices(self._balancer)
            self._priced_at = now
        return self._prices.get(model, _FREE)

    async def _refuse(self, send: Send, refusal: Refusal, path: str, request: str) -> None:
        headers = refusal.headers
        if not any(name == b"x-request-id" for name, _ in headers):
            headers = ((b"x-request-id", request.encode()), *headers)
        await say(send, refusal.status, refusal.body(path), headers)

    async def _tell(self, path: str, scope: Scope, send: Send) -> None:
        """What the router knows by itself: its models and its health."""
        headers: Headers = dict(scope["headers"])
        method = scope["method"]
        try:
            allowed = _allowed(path)
            if method not in allowed:
                raise _not_allowed(path, method, allowed)
            status, body = await self._known(path, headers)
        except Refusal as refusal:
            status, body, extra = refusal.status, refusal.body(path), refusal.headers
        else:
            extra = ()
        await _say_without_body(send, status, body, extra) if method == "HEAD" else await say(
            send, status, body, extra
        )

    async def _known(self, path: str, headers: Headers) -> tuple[int, bytes]:
        if path == HEALTH:
            status, told = self._health()
            return status, orjson.dumps(told)
        await self._client(headers)
        if path == MODELS:
            models = [self._model(name) for name in self._balancer.models()]
            return 200, orjson.dumps({"object": "list", "data": models})
        name = path[len(MODELS) + 1 :]
        if not self._balancer.knows(name):
            raise _unknown(name)
        return 200, orjson.dumps(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._born, "owned_by": "quarterdeck"}


def _is_below(path: str, start: str) -> bool:
    return path == start or path.startswith(start + "/")


def _allowed(path: str) -> tuple[str, ...]:
    """The methods of a path. Raises `Refusal` (404)."""
    if path in CALLS:
        return ("POST",)
    if path in (MODELS, HEALTH) or (path.startswith(MODELS + "/") and len(path) > len(MODELS) + 1):
        return ("GET", "HEAD")
    raise Refusal(404, "There is nothing at this path.", "not_found")


def _not_allowed(path: str, method: str, allowed: tuple[str, ...]) -> Refusal:
    headers: tuple[Header, ...] = ((b"allow", ", ".join(allowed).encode()),)
    return Refusal(405, f"{path} does not know {method}.", "method_not_allowed", headers=headers)


def _unknown(model: str) -> Refusal:
    shown = model if len(model) <= 100 else f"{model[:100]}…"
    message = f"There is no model {shown!r} here. GET /v1/models lists those that there are."
    return Refusal(404, message, "model_not_found")


def _highest_prices(balancer: Balancer) -> dict[str, Prices]:
    prices: dict[str, Prices] = {}
    for backend in balancer.backends():
        for model, mapping in backend.mappings.items():
            known, new = prices.get(model, _FREE), mapping.prices
            prices[model] = Prices(max(known.input, new.input), max(known.output, new.output))
    return prices


async def _say_without_body(send: Send, status: int, body: bytes, headers: tuple[Header, ...]) -> None:
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": b""})
