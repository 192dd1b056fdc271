"""A request to a provider in as few steps as there can be, over aiohttp's connections, TLS and parser.

aiohttp's own client makes a task for each body and two timers for each read, and merges headers, cookies and
redirects that we have no use for: together half of a call's CPU. What is sent here is made of bytes.
"""

import asyncio
import sys
from collections.abc import Callable

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

from quarterdeck.router.door.patience import Patience, Wait
from quarterdeck.router.ways.pool import Pool

CONNECT_SECONDS = 10.0
KEPT_ALIVE_SECONDS = 30.0

_CONNECTING = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS)
_SWITCHING = 101
_LOOK = 0.5
"""Seconds, at most, between two looks at how much of a long body is still to be sent."""


class Outgoing:
    """Sends requests over one pool of connections, made at the first call, which lives until `close`."""

    def __init__(self) -> None:
        self._patience = Patience()
        self._pool: Pool | None = None
        self._origins: dict[URL, ClientRequest] = {}

    async def post(self, url: URL, head: bytes, body: bytes, silence: float, deadline: float) -> "Reply":
        """Send `head` (whole, with the empty line) and `body`; wait for the head of the answer.

        `silence` is how many seconds may pass without a byte, `deadline` (of the loop's clock) is when all of
        the answer must be there. Raises what aiohttp's client raises; `SocketTimeoutError` after `silence`,
        a plain `TimeoutError` at `deadline`.
        """
        clock = asyncio.get_running_loop().time
        wait = self._patience.of(deadline - clock())
        try:
            with wait:
                connection = await self._connected(url)
                try:
                    message, content = await _exchanged(connection, head, body, wait, silence, clock)
                except BaseException:
                    connection.close()
                    raise
        except TimeoutError as error:
            raise _lateness(wait, deadline, error) from None
        return Reply(message, content, connection, self._patience, silence, deadline)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        self._origins.clear()
        if pool is not None:
            await pool.close()

    async def _connected(self, url: URL) -> Connection:
        if self._pool is None:
            self._pool = Pool(limit=0, keepalive_timeout=KEPT_ALIVE_SECONDS, ttl_dns_cache=60)
        origin = self._origins.get(url)
        if origin is None:
            if len(self._origins) > 1000:
                self._origins.clear()
            origin = self._origins[url] = ClientRequest("POST", url, loop=asyncio.get_running_loop())
        try:
            return await self._pool.connect(origin, [], _CONNECTING)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error


async def _exchanged(
    connection: Connection, head: bytes, body: bytes, wait: Wait, silence: float, clock: Callable[[], float]
) -> tuple[RawResponseMessage, StreamReader]:
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None:
        raise aiohttp.ServerDisconnectedError

    protocol.set_response_params(read_until_eof=True)
    transport.writelines((head, body))
    sending: asyncio.Task[None] | None = None
    if protocol.writing_paused:
        sent = _sent(protocol, transport, wait, silence, clock)
        sending = asyncio.get_running_loop().create_task(sent)
    else:
        wait.until = min(wait.until, clock() + silence)
    try:
        while True:
            message, content = await protocol.read()
            if message.code >= 200 or message.code == _SWITCHING:
                return message, content
    finally:
        if sending is not None:
            sending.cancel()


async def _sent(
    protocol: ResponseHandler,
    transport: asyncio.Transport,
    wait: Wait,
    silence: float,
    clock: Callable[[], float],
) -> None:
    """While a long body is being sent nobody needs to answer, only to take more of it."""
    deadline, left = wait.until, sys.maxsize
    while protocol.writing_paused:
        size = transport.get_write_buffer_size()
        if size < left:
            left, wait.until = size, min(deadline, clock() + silence)
        await asyncio.sleep(min(silence / 4, _LOOK))
    wait.until = min(deadline, clock() + silence)


def _lateness(wait: Wait, deadline: float, error: TimeoutError) -> TimeoutError:
    """Whose time was over: a connection's own, that of a silent provider, or the request's."""
    if isinstance(error, aiohttp.ServerTimeoutError):
        return error
    return aiohttp.SocketTimeoutError() if wait.until < deadline else TimeoutError()


class Reply:
    """An answer whose head has come. Its connection goes back to the pool by itself when all of it is read.

    `deadline` may be lifted (None): then the answer may take as long as it likes, but never be silent.
    """

    __slots__ = (
        *("status", "headers", "raw_headers", "deadline"),
        *("_connection", "_content", "_patience", "_silence"),
    )

    def __init__(
        self,
        message: RawResponseMessage,
        content: StreamReader,
        connection: Connection,
        patience: Patience,
        silence: float,
        deadline: float,
    ) -> None:
        self.status = message.code
        self.headers = message.headers
        self.raw_headers = message.raw_headers
        self.deadline: float | None = deadline
        self._connection = connection
        self._content = content
        self._patience = patience
        self._silence = silence
        content.on_eof(connection.release)  # a method of this reply would make a circle of both

    @property
    def content_type(self) -> str:
        """Without its parameters, in lower case."""
        return self.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()

    @property
    def is_at_end(self) -> bool:
        return self._content.at_eof()

    async def some(self) -> bytes:
        """What has come, at least one byte; nothing at the end. Raises as `Outgoing.post` does."""
        content = self._content
        if content.is_eof():  # all of it is here
            return await content.readany()
        clock = asyncio.get_running_loop().time
        until = clock() + self._silence
        is_last = self.deadline is not None and self.deadline <= until
        try:
            with self._patience.of((self.deadline if is_last else until) - clock()):  # type: ignore[operator]
                return await content.readany()
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):
                raise
            raise (TimeoutError() if is_last else aiohttp.SocketTimeoutError()) from None

    def close(self) -> None:
        """Let go of the connection, and hang up if it is not at its end; safe to call twice."""
        self._connection.close()
