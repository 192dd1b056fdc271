"""All the ways in which a provider fails; the name of the model that is asked for selects one.

A fault that waits does so until the client goes away. Faults of a stream (`ways` = "stream") leave a plain
answer as it is.
"""

import asyncio
import dataclasses
import json
import zlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Literal

from tests.fakes.provider_reply import Frame, Reply, sse

if TYPE_CHECKING:
    from tests.fakes.provider import Exchange

K = 3
"""Tokens that come before a stream breaks."""

WAIT = 7
"""Seconds that `Retry-After` asks for."""

PAUSE = 0.02
"""Seconds between what a slow provider sends, and before a break, so that the client has read what came."""

HUGE = 1_000_000

Act = Callable[["Exchange"], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """`door` is where it happens: at the usual address, or at one that `FakeProvider.base` gives for it."""

    name: str
    meaning: str
    act: Act
    ways: Literal["both", "stream"] = "both"
    door: Literal["http", "plain-for-tls", "self-signed", "unknown-name"] = "http"


async def _ok(exchange: "Exchange") -> None:
    await exchange.answer()


OK = Fault("ok", "a good answer", _ok)


def held(event: asyncio.Event, after: int | None = None, then: Fault = OK) -> Fault:
    """Wait for the event before answering, or after so many tokens of a stream."""

    async def act(exchange: "Exchange") -> None:
        if after is None:
            await exchange.wait(event)
        else:
            exchange.holds_after = (after, event)
        await then.act(exchange)

    return Fault("held", "waits until it is released", act)


def _refusing(
    status: int,
    kind: str,
    message: str,
    code: str | None = None,
    headers: Callable[[], Iterable[tuple[str, str]]] = tuple,
) -> Act:
    async def act(exchange: "Exchange") -> None:
        await exchange.refuse(status, kind, message, code, headers())

    return act


LIMITED = "Rate limit reached for requests per minute (RPM): Limit 40, Used 40. Please try again later."


def _limited(retry_after: Callable[[], str] | None = None) -> Act:
    def headers() -> Iterable[tuple[str, str]]:
        return [("Retry-After", retry_after())] if retry_after else []

    return _refusing(429, "requests", LIMITED, "rate_limit_exceeded", headers)


def in_seconds(seconds: float) -> datetime:
    """A moment as providers name it: in UTC, whole seconds."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).replace(microsecond=0)


def tomorrow() -> datetime:
    """The next midnight in UTC: when daily quotas begin anew."""
    return (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


async def _quota(exchange: "Exchange") -> None:
    until = tomorrow()
    message = (
        "You have reached your daily limit (requests per day): Limit 200, Used 200. "
        f"You will regain access on {until:%Y-%m-%d} at {until:%H:%M} UTC."
    )
    await exchange.refuse(429, "requests", message, "rate_limit_exceeded")


NO_CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."


async def _account(exchange: "Exchange") -> None:
    message = "You exceeded your current quota, please check your plan and billing details."
    if exchange.is_anthropic:
        message = NO_CREDIT
    await exchange.refuse(429, "insufficient_quota", message, "insufficient_quota")


async def _reset(exchange: "Exchange") -> None:
    exchange.wire.reset()


async def _hang(exchange: "Exchange") -> None:
    await exchange.wire.gone()


async def _slow_headers(exchange: "Exchange") -> None:
    await exchange.answer(pause=PAUSE)


def _breaking(after: int | None, end: Callable[["Exchange"], Awaitable[None]]) -> Act:
    """Break a stream after so many tokens (None = before its first event), a plain answer in its middle."""

    async def act(exchange: "Exchange") -> None:
        if exchange.is_stream:
            await exchange.begin()
            await exchange.stream([] if after is None else _until(exchange.frames(), after))
        else:
            await exchange.half()
        await asyncio.sleep(PAUSE)
        await end(exchange)

    return act


async def _cut(exchange: "Exchange") -> None:
    if exchange.is_stream:
        await exchange.wire.raw(b'40\r\ndata: {"id": "hal')
    await asyncio.sleep(PAUSE)
    exchange.wire.reset()


async def _end_early(exchange: "Exchange") -> None:
    if exchange.is_stream:
        await exchange.wire.end()
    else:
        exchange.wire.reset()


def _until(frames: Iterable[Frame], tokens: int) -> list[Frame]:
    kept: list[Frame] = []
    for frame in frames:
        if frame.tokens and sum(f.tokens for f in kept) == tokens:
            break
        kept.append(frame)
    return kept


def _with(change: Callable[[list[Frame]], list[Frame]]) -> Act:
    async def act(exchange: "Exchange") -> None:
        await exchange.answer(change=change)

    return act


async def _malformed(exchange: "Exchange") -> None:
    if exchange.is_stream:
        return await exchange.answer(change=_with_broken_line)
    exchange.charge(exchange.reply.tokens.completion)
    return await exchange.wire.send(200, [("Content-Type", "application/json")], b'{"id": "broken", "choi')


def _with_broken_line(frames: list[Frame]) -> list[Frame]:
    place = len(_until(frames, K))
    return [
        *frames[:place],
        sse('{"id": "broken", "choices": [{"delta": {"con', pause=PAUSE),
        *frames[place:],
    ]


def _doubled(frames: list[Frame]) -> list[Frame]:
    place = len(_until(frames, K))
    again = dataclasses.replace(frames[place - 1], tokens=0)
    return [*frames[:place], again, *frames[place:]]


def _endless(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if not frame.is_end]


def _replying(change: Callable[[Reply], Reply]) -> Act:
    async def act(exchange: "Exchange") -> None:
        exchange.reply = change(exchange.reply)
        await exchange.answer()

    return act


def _usage(kind: str) -> Act:
    return _replying(lambda reply: dataclasses.replace(reply, usage=kind))


def _huge(reply: Reply) -> Reply:
    pieces = list(reply.pieces)
    if reply.tool is None:
        pieces[K - 1] = " " + "x" * HUGE
    return dataclasses.replace(reply, pieces=tuple(pieces))


async def _gzip(exchange: "Exchange") -> None:
    squeezed = [("Content-Encoding", "gzip")]
    press = zlib.compressobj(wbits=31)
    if not exchange.is_stream:
        exchange.charge(exchange.reply.tokens.completion)
        body = press.compress(json.dumps(exchange.plain()).encode()) + press.flush()
        return await exchange.wire.send(200, [("Content-Type", "application/json"), *squeezed], body)
    await exchange.begin(squeezed)
    for frame in exchange.frames():
        exchange.charge(frame.tokens)
        await exchange.wire.chunk(press.compress(frame.data) + press.flush(zlib.Z_SYNC_FLUSH))
    await exchange.wire.chunk(press.flush())
    return await exchange.wire.end()


async def _html(exchange: "Exchange") -> None:
    page = b"<!doctype html><html><head><title>Sign in</title></head><body>Sign in first.</body></html>"
    await exchange.wire.send(200, [("Content-Type", "text/html; charset=utf-8")], page)


async def _empty(exchange: "Exchange") -> None:
    kind = "text/event-stream" if exchange.is_stream else "application/json"
    await exchange.wire.send(200, [("Content-Type", kind)], b"")


def _error_event(after: int) -> Act:
    """A stream that turns out to be an error after so many tokens; a plain answer is one with status 200."""

    async def act(exchange: "Exchange") -> None:
        body: dict[str, Any] = exchange.dialect.error(
            529, "server_error", "The engine is overloaded, please try again later.", "overloaded"
        )
        if not exchange.is_stream:
            return await exchange.wire.send(200, [("Content-Type", "application/json")], _json(body))
        await exchange.begin()
        if after:
            await exchange.stream(_until(exchange.frames(), after))
            await asyncio.sleep(PAUSE)
        await exchange.wire.chunk(exchange.dialect.error_frame(body).data)
        return await exchange.wire.end()

    return act


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


async def _never(exchange: "Exchange") -> None:
    raise AssertionError("nothing can arrive here")


SERVER = "The server had an error while processing your request."

_ALL = (
    OK,
    Fault("429", "limit per minute, no hint how long", _limited()),
    Fault("429-seconds", f"limit per minute, `Retry-After: {WAIT}`", _limited(lambda: str(WAIT))),
    Fault(
        "429-date",
        f"limit per minute, `Retry-After` is an HTTP date {WAIT} s ahead",
        _limited(lambda: format_datetime(in_seconds(WAIT), usegmt=True)),
    ),
    Fault("429-huge", "`Retry-After: 1000000000`", _limited(lambda: "1000000000")),
    Fault("429-negative", "`Retry-After: -5`", _limited(lambda: "-5")),
    Fault("429-text", "`Retry-After: soon`", _limited(lambda: "soon")),
    Fault("429-quota", "daily quota used up; the body says until when", _quota),
    Fault("429-account", "account without money", _account),
    Fault(
        "400-account",
        "account without money, told with 400 as Anthropic does",
        _refusing(400, "invalid_request_error", NO_CREDIT),
    ),
    Fault(
        "400",
        "request refused",
        _refusing(400, "invalid_request_error", "Invalid value for 'temperature'.", "invalid_value"),
    ),
    Fault(
        "401",
        "key refused",
        _refusing(401, "invalid_request_error", "Incorrect API key provided.", "invalid_api_key"),
    ),
    Fault(
        "403",
        "key may not do this",
        _refusing(403, "invalid_request_error", "Your key has no access to this model.", "permission_denied"),
    ),
    Fault(
        "404",
        "model unknown to the provider",
        _refusing(404, "invalid_request_error", "The model does not exist.", "model_not_found"),
    ),
    Fault("408", "provider gave up waiting", _refusing(408, "timeout", "Request timed out.")),
    Fault("500", "server error", _refusing(500, "server_error", SERVER)),
    Fault("502", "bad gateway", _refusing(502, "server_error", "Bad gateway.")),
    Fault("503", "service unavailable", _refusing(503, "server_error", "The engine is overloaded.")),
    Fault("529", "overloaded", _refusing(529, "overloaded_error", "Overloaded")),
    Fault("reset", "connection reset before the headers", _reset),
    Fault("hang", "nothing comes, the connection stays open", _hang),
    Fault("slow-headers", "headers come a few bytes at a time, then all is well", _slow_headers),
    Fault("cut-after-headers", "headers come, then the connection is reset", _breaking(None, _cut)),
    Fault("cut-before-tokens", "a stream begins, and is reset before its first token", _breaking(0, _cut)),
    Fault("cut-after-tokens", f"connection reset after {K} tokens", _breaking(K, _cut)),
    Fault("ends-early", f"stream ends in good order after {K} tokens, unfinished", _breaking(K, _end_early)),
    Fault("stall-after-headers", "headers come, then nothing", _breaking(None, _hang)),
    Fault("stall-before-tokens", "a stream begins, and brings no token", _breaking(0, _hang)),
    Fault("stall-after-tokens", f"nothing more after {K} tokens", _breaking(K, _hang)),
    Fault("malformed", "a line that is no JSON among good ones; a plain body that is none", _malformed),
    Fault("no-done", "stream finishes without its end mark", _with(_endless), ways="stream"),
    Fault("usage-inline", "usage comes in the chunk that finishes", _usage("inline"), ways="stream"),
    Fault("usage-absent", "no usage is told", _usage("absent")),
    Fault("usage-null", "`usage: null`", _usage("null")),
    Fault("usage-apart", "reasoning tokens are told beside the answer's, as xAI does", _usage("apart")),
    Fault("duplicate-chunk", "a chunk comes twice", _with(_doubled), ways="stream"),
    Fault("huge-line", "a line of 1 MB", _replying(_huge)),
    Fault("gzip", "the answer is compressed", _gzip),
    Fault("html", "200 with an HTML page", _html),
    Fault(
        "json-error-to-stream",
        "JSON error 400 where a stream was asked for",
        _refusing(400, "invalid_request_error", "Streaming is not supported by this model.", "unsupported"),
        ways="stream",
    ),
    Fault("error-event-first", "200, and then only an error", _error_event(0)),
    Fault("error-event-later", f"an error event after {K} tokens", _error_event(K), ways="stream"),
    Fault("empty", "200 with an empty body", _empty),
    Fault("tls-to-plain", "https to a port without TLS", _never, door="plain-for-tls"),
    Fault("tls-self-signed", "certificate signed by itself", _never, door="self-signed"),
    Fault("dns", "host name does not resolve", _never, door="unknown-name"),
)

FAULTS = {fault.name: fault for fault in _ALL}
"""Every fault by its name, and `ok`."""
