"""The short way: backends that speak the OpenAI dialect get the client's own bytes, with another model.

One pooled session for all backends. What comes back is relayed as bytes, too; only the model is put back.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp.http import SERVER_SOFTWARE
from yarl import URL

from quarterdeck.router.backend import Backend
from quarterdeck.router.exchange import Answer, Attempt, Failure, Outcome, Stream
from quarterdeck.router.limits import rules
from quarterdeck.router.ways.connection_failure import failure_of
from quarterdeck.router.ways.openai_dialect import error_status, text_of, usage_of
from quarterdeck.router.ways.openai_stream import OpenAIStream
from quarterdeck.router.ways.outgoing import Outgoing, Reply
from quarterdeck.router.ways.raw_json import quoted, with_member, with_model

LONGEST_ANSWER = 64_000_000
"""Bytes of a whole answer: thousands of embeddings fit in."""

LONGEST_REFUSAL = 64_000
"""Bytes that are read of a refusal that is not passed on."""

_REDIRECTS = (301, 302, 303, 307, 308)
_SSE_BEGINS = (b"data:", b"event:", b"id:", b"retry:", b":")
_OURS = frozenset(
    (
        *(b"content-type", b"date", b"server", b"x-request-id"),
        *(b"x-quarterdeck-overhead-ms", b"x-quarterdeck-attempts", b"x-quarterdeck-backend"),
    )
)
"""Headers of an answer that we write ourselves."""

_ASKED = {"include_usage": True}
_MOST_TARGETS = 1000
_UNFIT = re.compile(r"[^\t -~\x80-\xff]")
"""What no value of a header may have."""

_NO_TARGET = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class _Target:
    """Where calls of one backend go, and what stands at the head of each."""

    url: URL
    head: bytes


class OpenAIWay:
    """A `Way` over one pool of connections, which is made at the first call and lives until `close`."""

    def __init__(self, now: Callable[[], float], *, longest_answer: int = LONGEST_ANSWER) -> None:
        self._now = now
        self._longest_answer = longest_answer
        self._outgoing = Outgoing()
        self._targets: dict[tuple[str, str, str, str], _Target] = {}

    async def send(self, attempt: Attempt) -> Answer | Stream:
        """Raises `Failure`. Whatever goes wrong, the connection is let go."""
        try:
            target = self._target(attempt)
            body = body_for(attempt)
            deadline = asyncio.get_running_loop().time() + attempt.patience
            head = _head(target, attempt, len(body))
            reply = await self._outgoing.post(
                target.url, head, body, attempt.backend.timeout_seconds, deadline
            )
            try:
                return await self._received(attempt, reply)
            except BaseException:
                reply.close()
                raise
        except Failure:
            raise
        except Exception as error:
            raise failure_of(error) from error

    async def close(self) -> None:
        await self._outgoing.close()

    def _target(self, attempt: Attempt) -> _Target:
        """Raises `Failure` for a key that cannot be sent."""
        backend = attempt.backend
        named = (backend.api_base_url, backend.api_key, attempt.path, attempt.query)
        target = self._targets.get(named)
        if target is None or backend.fault:
            _check_key(backend)
            if len(self._targets) > _MOST_TARGETS:  # queries are the clients' own
                self._targets.clear()
            target = self._targets[named] = _made(backend, attempt)
        return target

    async def _received(self, attempt: Attempt, response: Reply) -> Answer | Stream:
        status = response.status
        if not 200 <= status < 300:
            raise await _refusal(response, self._longest_answer)
        first = await response.some()
        if attempt.is_stream and _is_sse(response, first):
            return await OpenAIStream(attempt, response, _passed_on(response), self._now).open(first)
        return self._answer(attempt, response, await self._whole(response, first))

    async def _whole(self, response: Reply, first: bytes) -> bytes:
        """The body. Raises `Failure` when it is too long (packed ones are counted unpacked)."""
        if response.is_at_end:
            return first
        parts, size = [first], len(first)
        while part := await response.some():
            parts.append(part)
            size += len(part)
            if size > self._longest_answer:
                raise Failure(
                    Outcome.BROKEN,
                    f"The answer is longer than {self._longest_answer} bytes.",
                    response.status,
                )
        return b"".join(parts)

    def _answer(self, attempt: Attempt, response: Reply, raw: bytes) -> Answer:
        content = _object(raw, response)
        model = content.get("model")
        body = with_model(raw, quoted(attempt.mapping.model)) if isinstance(model, str) else raw
        usage = usage_of(content.get("usage"))
        said = "" if usage else text_of(content)
        return Answer(response.status, "application/json", body, usage, _passed_on(response), said)


def body_for(attempt: Attempt) -> bytes:
    """The client's own bytes with the native model, and with the wish for usage unless that is forbidden."""
    raw = attempt.raw or orjson.dumps(attempt.body)
    raw = with_model(raw, quoted(attempt.mapping.native_id))
    if not attempt.is_stream or attempt.wants_usage or not attempt.mapping.reports_stream_usage:
        return raw
    options = attempt.body.get("stream_options")
    if not options:
        return with_member(raw, "stream_options", _ASKED)
    if not isinstance(options, dict) or "include_usage" in options:
        return raw  # the client has said no, or something that the provider must judge
    return with_member(raw, "stream_options", options | _ASKED)


def _made(backend: Backend, attempt: Attempt) -> _Target:
    url = URL(rules.join(backend.api_base_url, attempt.path, attempt.query), encoded=True)
    path, host = url.raw_path_qs, url.host_port_subcomponent or ""
    if _NO_TARGET.search(path + host):
        raise Failure(Outcome.UNREACHABLE, "The backend's address has characters that none may have.")
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"accept-encoding: identity\r\nauthorization: Bearer {backend.api_key}\r\n"
    )
    return _Target(url, head.encode())


def _head(target: _Target, attempt: Attempt, length: int) -> bytes:
    """The head of a request, with what of the client's own headers is passed on. Raises `Failure`."""
    given = attempt.headers
    accept, agent = given.get("accept", "*/*"), given.get("user-agent", SERVER_SOFTWARE)
    named = given.get("x-request-id", "")
    check_fit(f"{accept}{agent}{named}")
    own = f"x-request-id: {named}\r\n" if named else ""
    own += f"accept: {accept}\r\nuser-agent: {agent}\r\ncontent-length: {length}\r\n\r\n"
    return target.head + own.encode("latin-1")


def check_fit(values: str) -> None:
    """Raises `Failure` (refused) when a client's header cannot be sent to anybody."""
    if _UNFIT.search(values):
        raise Failure(Outcome.REFUSED, "A header of the request has characters that none may have.", 400)


def _check_key(backend: Backend) -> None:
    key = backend.api_key
    if not key or backend.fault:
        raise Failure(Outcome.BAD_KEY, backend.fault or "The backend has no key.")
    if not (key.isascii() and key.isprintable()):
        raise Failure(Outcome.BAD_KEY, "The backend's key has characters that no header may have.")


def _passed_on(response: Reply) -> tuple[tuple[bytes, bytes], ...]:
    headers = rules.response_headers(response.raw_headers)
    return tuple([pair for pair in headers if pair[0] not in _OURS])


def _is_sse(response: Reply, first: bytes) -> bool:
    """The content type is often wrong, in both directions: what comes first decides."""
    begin = first.lstrip()[:6]
    if begin.startswith((b"{", b"<", b"[")):
        return False
    return begin.startswith(_SSE_BEGINS) or response.content_type == "text/event-stream"


def _object(raw: bytes, response: Reply) -> dict[str, Any]:
    """A good answer. Raises `Failure` for anything else that comes with a good status."""
    status = response.status
    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError:
        what = "is empty" if not raw.strip() else f"is no JSON ({response.content_type})"
        raise Failure(Outcome.BROKEN, f"The answer {what}.", status) from None
    if not isinstance(content, dict):
        raise Failure(Outcome.BROKEN, "The answer is JSON, but no object.", status)
    error = content.get("error")
    if error and "choices" not in content and "data" not in content:
        raise failure_of_error(error, raw, dict(response.headers), _passed_on(response))
    return content


def failure_of_error(
    error: Any, raw: bytes, headers: dict[str, str], passed_on: tuple[tuple[bytes, bytes], ...]
) -> Failure:
    """What an error means that came with a good status, or as an event."""
    status = error_status(error)
    reason = f"The provider sent an error ({status}) with a good status."
    outcome = rules.outcome_of(status, raw)
    return Failure(outcome, reason, status, raw, headers=headers, passed_on=passed_on)


async def _refusal(response: Reply, longest: int) -> Failure:
    """What a provider's status and text mean."""
    status = response.status
    body = await text_of_refusal(status, response.some, longest)
    where = " It wants to send us elsewhere." if status in _REDIRECTS else ""
    return Failure(
        rules.outcome_of(status, body[:LONGEST_REFUSAL]),
        f"The provider answered {status}.{where}",
        status,
        body,
        response.headers.get("content-type", "application/json"),
        dict(response.headers),
        passed_on=_passed_on(response),
    )


async def text_of_refusal(status: int, some: Callable[[], Awaitable[bytes]], longest: int) -> bytes:
    """All of it where the client gets it (nothing if that is too long), else its beginning.

    One that breaks off does not change what the status says.
    """
    is_passed_on = rules.outcome_of(status) is Outcome.REFUSED
    body = bytearray()
    try:
        while (is_passed_on or len(body) < LONGEST_REFUSAL) and (part := await some()):
            body += part
            if is_passed_on and len(body) > longest:
                return b""
    except (aiohttp.ClientError, OSError):
        pass
    return bytes(body if is_passed_on else body[:LONGEST_REFUSAL])
