"""The short way: backends that speak the OpenAI dialect get the client's own bytes, with another model.

One pooled session for all backends. What comes back is relayed as bytes, too; only the model is put back.
"""

import ssl
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
from aiohttp import hdrs
from yarl import URL

from quarterdeck.router.backend import Backend
from quarterdeck.router.door.patience import Patience
from quarterdeck.router.exchange import Answer, Attempt, Failure, Outcome, Stream
from quarterdeck.router.limits import rules
from quarterdeck.router.ways.openai_dialect import error_status, text_of, usage_of
from quarterdeck.router.ways.openai_stream import OpenAIStream
from quarterdeck.router.ways.pool import Pool
from quarterdeck.router.ways.raw_json import quoted, with_member, with_model

CONNECT_SECONDS = 10.0
LONGEST_ANSWER = 64_000_000
"""Bytes of a whole answer: thousands of embeddings fit in."""

LONGEST_REFUSAL = 64_000
KEPT_ALIVE_SECONDS = 30.0
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


class OpenAIWay:
    """A `Way` over one session, which is made at the first call and lives until `close`."""

    def __init__(self, now: Callable[[], float], *, longest_answer: int = LONGEST_ANSWER) -> None:
        self._now = now
        self._longest_answer = longest_answer
        self._session: aiohttp.ClientSession | None = None
        self._patience = Patience()
        self._timeouts: dict[int, aiohttp.ClientTimeout] = {}
        self._urls: dict[str, URL] = {}

    async def send(self, attempt: Attempt) -> Answer | Stream:
        """Raises `Failure`. Whatever goes wrong, the connection is let go."""
        _check_key(attempt.backend)
        try:
            with self._patience.of(attempt.patience):
                response = await self._opened().post(
                    self._url(attempt),
                    data=body_for(attempt),
                    headers=_headers(attempt),
                    timeout=self._timeout(attempt.backend.timeout_seconds),
                    allow_redirects=False,
                )
                try:
                    return await self._received(attempt, response)
                except BaseException:
                    response.close()
                    raise
        except Failure:
            raise
        except Exception as error:
            raise failure_of(error) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = Pool(limit=0, keepalive_timeout=KEPT_ALIVE_SECONDS, ttl_dns_cache=60)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _url(self, attempt: Attempt) -> URL:
        text = rules.join(attempt.backend.api_base_url, attempt.path, attempt.query)
        url = self._urls.get(text)
        if url is None:
            if len(self._urls) > 1000:  # queries are the clients' own
                self._urls.clear()
            url = self._urls[text] = URL(text, encoded=True)
        return url

    def _timeout(self, seconds: int) -> aiohttp.ClientTimeout:
        timeout = self._timeouts.get(seconds)
        if timeout is None:
            timeout = self._timeouts[seconds] = aiohttp.ClientTimeout(
                total=None, connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=seconds
            )
        return timeout

    async def _received(self, attempt: Attempt, response: aiohttp.ClientResponse) -> Answer | Stream:
        status = response.status
        if not 200 <= status < 300:
            raise await _refusal(response)
        if attempt.is_stream:
            first = await response.content.readany()
            if _is_sse(response, first):
                return await OpenAIStream(attempt, response, _passed_on(response), self._now).open(first)
            return self._answer(attempt, response, first + await self._read(response))
        if self._is_short(response):
            return self._answer(attempt, response, await response.read())
        return self._answer(attempt, response, await self._read(response))

    def _is_short(self, response: aiohttp.ClientResponse) -> bool:
        """Does it promise that? Nobody knows of packed ones."""
        length = response.headers.get(hdrs.CONTENT_LENGTH, "")
        is_plain = hdrs.CONTENT_ENCODING not in response.headers
        return is_plain and length.isdecimal() and int(length) <= self._longest_answer

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body. Raises `Failure` when it is too long (packed ones are counted unpacked)."""
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > self._longest_answer:
                raise Failure(
                    Outcome.BROKEN,
                    f"The answer is longer than {self._longest_answer} bytes.",
                    response.status,
                )
        return b"".join(parts)

    def _answer(self, attempt: Attempt, response: aiohttp.ClientResponse, raw: bytes) -> Answer:
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


def _headers(attempt: Attempt) -> dict[str, str]:
    return {
        "accept": "*/*",
        **attempt.headers,
        "content-type": "application/json",
        "accept-encoding": "identity",
        "authorization": f"Bearer {attempt.backend.api_key}",
    }


def _check_key(backend: Backend) -> None:
    key = backend.api_key
    if not key or backend.fault:
        raise Failure(Outcome.BAD_KEY, backend.fault or "The backend has no key.")
    if not (key.isascii() and key.isprintable()):
        raise Failure(Outcome.BAD_KEY, "The backend's key has characters that no header may have.")


def _passed_on(response: aiohttp.ClientResponse) -> tuple[tuple[bytes, bytes], ...]:
    headers = rules.response_headers(response.raw_headers)
    return tuple([pair for pair in headers if pair[0] not in _OURS])


def _is_sse(response: aiohttp.ClientResponse, first: bytes) -> bool:
    """The content type is often wrong, in both directions: what comes first decides."""
    begin = first.lstrip()[:6]
    if begin.startswith((b"{", b"<", b"[")):
        return False
    return begin.startswith(_SSE_BEGINS) or response.content_type == "text/event-stream"


def _object(raw: bytes, response: aiohttp.ClientResponse) -> dict[str, Any]:
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
        raise failure_of_error(error, raw, dict(response.headers))
    return content


def failure_of_error(error: Any, raw: bytes, headers: dict[str, str]) -> Failure:
    """What an error means that came with a good status, or as an event."""
    status = error_status(error)
    reason = f"The provider sent an error ({status}) with a good status."
    return Failure(rules.outcome_of(status, raw), reason, status, raw[:LONGEST_REFUSAL], headers=headers)


async def _refusal(response: aiohttp.ClientResponse) -> Failure:
    """What a provider's status and text mean; a text that breaks off does not change the meaning."""
    status = response.status
    body = b""
    try:
        while len(body) < LONGEST_REFUSAL and (part := await response.content.readany()):
            body += part
    except (aiohttp.ClientError, OSError):
        pass
    where = " It wants to send us elsewhere." if status in _REDIRECTS else ""
    return Failure(
        rules.outcome_of(status, body),
        f"The provider answered {status}.{where}",
        status,
        body[:LONGEST_REFUSAL],
        response.headers.get("content-type", "application/json"),
        dict(response.headers),
    )


def failure_of(error: Exception) -> Failure:
    """What an error of the connection means. The reason names no address: it could hold a password."""
    match error:
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Failure(Outcome.UNREACHABLE, f"TLS does not work: {_cause(error)}.")
        case aiohttp.ConnectionTimeoutError():
            return Failure(Outcome.TIMED_OUT, f"No connection within {CONNECT_SECONDS:g} s.")
        case aiohttp.SocketTimeoutError():
            return Failure(Outcome.TIMED_OUT, "Nothing came for longer than the backend's time limit.")
        case TimeoutError():
            return Failure(Outcome.TIMED_OUT, "No answer before the request's deadline.")
        case aiohttp.ClientConnectorDNSError():
            return Failure(Outcome.UNREACHABLE, "The host's name does not resolve.")
        case aiohttp.ClientConnectorError():
            return Failure(Outcome.UNREACHABLE, f"No connection: {_cause(error)}.")
        case aiohttp.ServerDisconnectedError():
            return Failure(Outcome.UNREACHABLE, "The provider hung up before it answered.")
        case aiohttp.ClientPayloadError() | aiohttp.ClientOSError() | ConnectionError():
            return Failure(Outcome.UNREACHABLE, f"The connection broke: {type(error).__name__}.")
        case _:
            return Failure(Outcome.BROKEN, f"The answer is none: {type(error).__name__}.")


def _cause(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    return getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or type(cause).__name__
