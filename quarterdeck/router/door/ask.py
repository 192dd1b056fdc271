"""Who knocks and what they bring: token, agent, item, request id, body. All of it is checked, or refused."""

import asyncio
import re
from collections.abc import Mapping as Map
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from secrets import token_hex
from typing import Any, Protocol

import orjson

from quarterdeck.router.call import Caller
from quarterdeck.router.door.answers import NO_RETRY, Receive, Refusal, seconds

AGENT = re.compile(r"[A-Za-z0-9._-]{1,50}")
ITEM = re.compile(r"[A-Z][A-Z0-9]{0,9}-[0-9]{1,9}")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,100}")

Headers = Map[bytes, bytes]

PATIENCE = 5.0
"""Seconds for which a client may go on sending what is too much."""

SMALL = 4_000
"""Bytes of a request up to which it is not worth a look what is text in it, and what is not."""

ANSWER = 4_096
"""Tokens that are held back for an answer where the request sets no limit to it."""

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_NUMBERS = ("n", "best_of")
_BESIDE = ("system", "instructions")
_TOOLS = ("tools", "functions")


class Client(Protocol):
    """Whom a token belongs to; `id` is '' for the proxy token, and for nobody when no key is needed."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def agent(self) -> str: ...


class BudgetSpent(Exception):
    """A client has used what it may use today. `retry_after` is in seconds."""

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class BudgetHeld(BudgetSpent):
    """What a client may still use today is held for its calls under way."""


class Hold(Protocol):
    """A part of a client's budget, kept for one request."""

    @property
    def left_tokens(self) -> int | None:
        """What the request may use, its own part included; None = there is no limit."""
        ...

    @property
    def left_cost(self) -> int | None:
        """The same in pico-dollars."""
        ...

    def grow(self, tokens: int, cost: int) -> None:
        """Keep at least so much: it is used already, and others must not count on it."""
        ...

    def settle(self, tokens: int, cost: int) -> None:
        """What was really used; exactly once."""
        ...


class Clients(Protocol):
    """Who may call, and how much each may use."""

    @property
    def needs_key(self) -> bool: ...

    def who(self, token: str) -> Client | None:
        """In constant time."""
        ...

    def is_limited(self, client: Any) -> bool:
        """Whether it has a budget."""
        ...

    def reserve(
        self, client: Any, tokens: int, cost: int, now: float, *, answer_tokens: int = 0, answer_cost: int = 0
    ) -> Hold:
        """Raises `BudgetSpent`. Of what the answer may use, only as much is held as there is left."""
        ...


@dataclass(slots=True)  # frozen ones take five times as long to make
class Ask:
    """A client's request, read and checked. `began` is steady, `started` what `perf_counter` said then."""

    id: str
    path: str
    query: str
    headers: Map[str, str]
    raw: bytes
    body: Map[str, Any]
    model: str
    is_stream: bool
    wants_usage: bool
    caller: Caller
    hold: Hold | None
    prompt_tokens: int
    began: float
    started: float


class RequestIds:
    """Names for requests and attempts: unlike any other, also after a restart."""

    def __init__(self) -> None:
        self._start = token_hex(6)
        self._numbers = count(1)

    def __call__(self, prefix: str) -> str:
        return f"{prefix}_{self._start}{next(self._numbers):08x}"

    def of_request(self, headers: Headers) -> str:
        """The client's own where it is sane, else a new one."""
        given = headers.get(b"x-request-id")
        if given and REQUEST_ID.fullmatch(given):
            return given.decode()
        return self("req")


def token_of(headers: Headers) -> str:
    """The key that a client shows, as OpenAI's clients do it or as Anthropic's do."""
    given = headers.get(b"authorization", b"")
    if given[:7].lower() == b"bearer ":
        return given[7:].strip().decode("latin-1")
    return headers.get(b"x-api-key", b"").strip().decode("latin-1")


def client_of(clients: Clients, headers: Headers) -> Client | None:
    """None = nobody in particular, and no key is needed. Raises `Refusal` (401)."""
    token = token_of(headers)
    client = clients.who(token) if token else None
    if client is None and clients.needs_key:
        what = "This key is not valid here." if token else "A key is needed."
        how = "Send it as `Authorization: Bearer ...`; the router's owner gives keys out."
        challenge = ((b"www-authenticate", b"Bearer"), NO_RETRY)
        raise Refusal(401, f"{what} {how}", "invalid_api_key", headers=challenge)
    return client


def caller_of(client: Client | None, headers: Headers) -> Caller:
    """Whom to book the call to: as the headers say, else the client's own agent. Raises `Refusal` (400)."""
    agent = _named(headers, b"x-quarterdeck-agent", AGENT, "up to 50 letters, digits, dots, - or _")
    item = _named(headers, b"x-quarterdeck-item", ITEM, "a key like ET-007")
    if client is None:
        return _caller("", agent, item)
    return _caller(client.id, agent or client.agent, item)


@lru_cache(maxsize=1024)
def _caller(client_id: str, agent: str, item: str) -> Caller:
    return Caller(client_id, agent, item)


def _named(headers: Headers, name: bytes, form: re.Pattern[str], wanted: str) -> str:
    given = headers.get(name)
    if not given:
        return ""
    text = given.decode("latin-1").strip()
    if not form.fullmatch(text):
        title = name.decode().title()
        raise Refusal(400, f"The header {title} must be {wanted}.", "invalid_header")
    return text


async def read_body(receive: Receive, headers: Headers, limit: int) -> bytes | None:
    """The whole body; None when the client has left. Raises `Refusal` (413, 415) and keeps nothing then."""
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise Refusal(415, "Send the body without a content encoding.", "unsupported_encoding")
    told = headers.get(b"content-length", b"")
    if told.isdigit() and int(told) > limit:
        raise await _too_large(receive, limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            parts.clear()
            raise await _too_large(receive, limit)
        if not message.get("more_body"):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


async def _too_large(receive: Receive, limit: int) -> Refusal:
    """Hears the client out for a while: whoever is cut short while sending does not get to read why."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while (await receive()).get("more_body"):
                pass
    message = f"The body is larger than {limit} bytes."
    return Refusal(413, message, "request_too_large", headers=((b"connection", b"close"), NO_RETRY))


def parsed(raw: bytes) -> tuple[dict[str, Any], str]:
    """The body and its model. Raises `Refusal` (400)."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"The body is no JSON: {error.msg}.", "invalid_json") from None
    if type(body) is not dict:
        raise Refusal(400, "The body must be a JSON object.", "invalid_json")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "The body must name a model, as text.", "model_missing")
    return body, model


def prompt_length(raw: bytes, body: Map[str, Any]) -> int:
    """About how many tokens the request itself has: a quarter of its letters. For budgets, not for bills."""
    if len(raw) < SMALL:
        return len(raw) // 4 + 1
    said = (body.get("messages") or body.get("input") or body.get("prompt"), *map(body.get, _BESIDE))
    written = sum(_written(body[name]) for name in _TOOLS if name in body)
    return (sum(_letters(part, 0) for part in said) + written) // 4 + 1


def answer_length(body: Map[str, Any]) -> int:
    """How many tokens all its answers may have together, by what the request says, else by a guess."""
    said = [limit for name in _LIMITS if type(limit := body.get(name)) is int and limit >= 0]
    return (max(said) if said else ANSWER) * _answers(body)


def _answers(body: Map[str, Any]) -> int:
    """How many are made: `n` for each prompt; those of `best_of` that nobody sees are paid, too."""
    each = [number for name in _NUMBERS if type(number := body.get(name)) is int and number > 1]
    return max(each, default=1) * _prompts(body.get("prompt"))


def _prompts(given: Any) -> int:
    """A list of numbers is one prompt, as tokens."""
    return len(given) if isinstance(given, list) and given and not isinstance(given[0], int) else 1


def _letters(said: Any, depth: int) -> int:
    if isinstance(said, str):
        return len(said)
    if isinstance(said, list) and depth < 6:
        return sum(_letters(part, depth + 1) for part in said)
    if isinstance(said, dict) and depth < 6:
        called = said.get("tool_calls") or said.get("arguments") or said.get("input")
        text = said.get("content") or said.get("text") or said.get("output")
        return _letters(text, depth + 1) + (_written(called) if called else 0)
    return 4 if isinstance(said, int) else 0  # a token as a number


def _written(part: Any) -> int:
    """The letters of what models read as JSON; it has no pictures."""
    try:
        return len(orjson.dumps(part))
    except orjson.JSONEncodeError:  # nested deeper than any provider takes
        return 0


def spent(detail: str, retry_after: float) -> Refusal:
    """The refusal of a client whose budget is used up: asking again soon is no use."""
    headers = ((b"retry-after", seconds(retry_after)), NO_RETRY)
    return Refusal(429, detail, "budget_spent", headers=headers)


def no_budget(error: BudgetSpent) -> Refusal:
    """The refusal of a client whose budget does not allow its call now."""
    if isinstance(error, BudgetHeld):
        headers = ((b"retry-after", seconds(error.retry_after)),)
        return Refusal(429, error.detail, "budget_held", headers=headers)
    return spent(error.detail, error.retry_after)
