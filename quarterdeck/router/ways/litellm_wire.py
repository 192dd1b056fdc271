"""The connection below LiteLLM: ours, not its own.

LiteLLM's client sends a request again when a connection breaks, follows redirects with the key in hand, reads
proxies from the environment, and turns the provider's status into exceptions by what their text contains.
Here every attempt has a `Wire`, which sends each request once and remembers what the provider really did.
"""

import re
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Protocol

import aiohttp
import httpx
from yarl import URL

from quarterdeck.router.exchange import Failure, Outcome
from quarterdeck.router.ways.openai_way import LONGEST_ANSWER, LONGEST_REFUSAL, text_of_refusal
from quarterdeck.router.ways.outgoing import CONNECT_SECONDS

_NOT_SENT = frozenset(("accept-encoding", "connection", "host", "transfer-encoding"))
_NOT_PASSED = frozenset(("content-encoding", "content-length", "transfer-encoding"))


class Wire:
    """What one attempt sent and got. `error` is how the connection failed; `status` 0 = no answer came.

    `has_begun`: a whole event of a stream has come; `last`: its latest events. `whole`: no stream is wanted,
    and the answer is kept as `body`, as a refusal is.
    """

    def __init__(self, session: aiohttp.ClientSession, inactivity: float, *, whole: bool) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.raw_headers: tuple[tuple[bytes, bytes], ...] = ()
        self.body = b""
        self.error: Exception | None = None
        self.left = LONGEST_ANSWER
        self.has_begun = False
        self.last = b""
        self._whole = whole
        self._session = session
        self._sent: set[tuple[str, str]] = set()
        self._responses: list[aiohttp.ClientResponse] = []
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=inactivity
        )

    @property
    def is_used(self) -> bool:
        return bool(self._sent)

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Raises `httpx.ReadError` for whatever goes wrong: LiteLLM does not answer it by sending again."""
        once = (request.method, str(request.url))
        if once in self._sent and request.method != "GET":
            raise httpx.ReadError("The request was sent once, and is not sent again.", request=request)
        self._sent.add(once)
        self.status, self.error = 0, None
        try:
            return await self._answer(request, await self._ask(request))
        except (aiohttp.ClientError, OSError) as error:
            self.error = error
            raise httpx.ReadError(type(error).__name__, request=request) from error

    def close(self) -> None:
        """Hang up, whatever was still to come."""
        for response in self._responses:
            response.close()

    async def _ask(self, request: httpx.Request) -> aiohttp.ClientResponse:
        headers = [pair for pair in request.headers.multi_items() if pair[0] not in _NOT_SENT]
        response = await self._session.request(
            request.method,
            URL(str(request.url), encoded=True),
            data=await request.aread() or None,
            headers=[*headers, ("accept-encoding", "identity")],
            timeout=self._timeout,
            allow_redirects=False,
        )
        self._responses.append(response)
        return response

    async def _answer(self, request: httpx.Request, response: aiohttp.ClientResponse) -> httpx.Response:
        self.status, self.raw_headers = response.status, response.raw_headers
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        headers = [pair for pair in response.headers.items() if pair[0].lower() not in _NOT_PASSED]
        if 200 <= response.status < 300:
            body = _Body(self, response, request)
            if self._whole:
                return httpx.Response(
                    response.status, headers=headers, content=await self._read(body), request=request
                )
            return httpx.Response(response.status, headers=headers, stream=body, request=request)
        self.body = await text_of_refusal(response.status, response.content.readany, LONGEST_ANSWER)
        response.close()
        if response.status < 400:
            raise httpx.ReadError("The provider wants to send us elsewhere.", request=request)
        return httpx.Response(
            response.status, headers=headers, content=self.body[:LONGEST_REFUSAL], request=request
        )

    async def _read(self, body: "_Body") -> bytes:
        raw = b"".join([part async for part in body])
        self.body = raw
        is_silent = body.is_anthropic and b'"usage"' not in raw and raw.startswith(b"{")
        return b"{" + _ZEROS + b"," + raw[1:] if is_silent else raw


_END_OF_EVENT = re.compile(rb"\n\r?\n")
_EVENT_ENDS = (b"\n\n", b"\n\r\n")
_KEPT = 64_000
"""Bytes of `Wire.last`: errors are short."""

_NO_USAGE = re.compile(rb'"usage"\s*:\s*null')
_ZEROS = b'"usage":{"input_tokens":0,"output_tokens":0}'


class _Body(httpx.AsyncByteStream):
    """The answer as it comes. LiteLLM breaks where Anthropic's dialect tells no tokens: it gets zeros."""

    def __init__(self, wire: Wire, response: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._wire, self._response, self._request = wire, response, request
        self.is_anthropic = "anthropic-version" in request.headers

    async def __aiter__(self) -> AsyncIterator[bytes]:
        wire = self._wire
        try:
            async for data in self._response.content.iter_any():
                wire.left -= len(data)
                wire.has_begun = wire.has_begun or _END_OF_EVENT.search(data) is not None
                wire.last = data if wire.last.endswith(_EVENT_ENDS) else (wire.last + data)[-_KEPT:]
                if wire.left < 0:
                    raise Failure(Outcome.BROKEN, "The answer is too long.", wire.status)
                yield _NO_USAGE.sub(_ZEROS, data) if self.is_anthropic else data
        except (aiohttp.ClientError, OSError) as error:
            wire.error = error
            raise httpx.ReadError(type(error).__name__, request=self._request) from error
        finally:
            self._response.close()

    async def aclose(self) -> None:
        self._response.close()


class Sender(Protocol):
    async def send(self, request: httpx.Request) -> httpx.Response: ...


CURRENT: ContextVar[Sender | None] = ContextVar("wire", default=None)
"""The attempt that is being made; LiteLLM copies the context wherever it goes."""


class Transport(httpx.AsyncBaseTransport):
    """What all of LiteLLM's clients send through. It belongs to no event loop and needs no closing."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        wire = CURRENT.get()
        if wire is None:
            raise httpx.ReadError("Nothing is sent outside of an attempt.", request=request)
        return await wire.send(request)
