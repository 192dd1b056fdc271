"""Outgoing HTTP: the one place where clients are made.

    async with client("telegram", base_url=address, seconds=5) as telegram:
        answer = await telegram.post(f"/bot{token}/sendMessage", json=...)

Every client has a time limit for the whole request, a size limit for the decoded answer, and our name.
Only what cannot happen twice is tried again: connections that never came about, and idempotent methods.
What goes wrong is one of three, and no text of it holds a path, a query, a header or a body:

    Unavailable  down: unreachable, timed out, cut off; with `maybe_arrived`: may it have had an effect?
    Conflict     refused: the other side answered, and said no (`status`)
    Unavailable  wrong: code `wrong_answer`, the other side is not what we take it for

`Misconfigured` names an address that is none.
"""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from math import ceil
from types import TracebackType
from typing import Any, Self

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from quarterdeck import __version__
from quarterdeck.kernel.errors import Conflict, Forbidden, Misconfigured, QuarterdeckError, Unavailable

MOST_BYTES = 10_000_000
"""The largest answer that is read, decoded."""

LONGEST_WAIT = 86_400
"""The most seconds that an answer may ask us to wait; whoever waits has a limit of its own."""

MOST_REDIRECTS = 5
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
PASSING = frozenset({502, 503, 504})
"""Answers of something in between: the same request may work in a moment."""

for _library in ("httpx", "httpcore"):  # they log whole addresses, and a Bot API address is a secret
    logging.getLogger(_library).setLevel(logging.WARNING)


def client(
    name: str,
    *,
    base_url: str = "",
    headers: dict[str, str] | None = None,
    seconds: float = 30.0,
    attempts: int = 3,
    pause: float = 0.2,
    most_bytes: int = MOST_BYTES,
    user_given: bool = False,
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    """A client for one other side; `name` is what errors call it.

    `seconds` limits a whole request with its retries (a streamed answer: each silence). `pause` is the
    longest first wait between attempts, doubled each time. `user_given=True` is for addresses that
    people or agents supply: redirects are followed, and no hop may lead to a private address.
    `transport` replaces the network (an application under test).
    """
    network = transport or httpx.AsyncHTTPTransport(
        verify=trusted(told=not user_given), limits=httpx.Limits()
    )
    if user_given and transport is None:
        network = _PublicOnly(network)
    return _Client(
        name,
        seconds,
        base_url=base_url,
        headers={"User-Agent": f"Quarterdeck/{__version__}", **(headers or {})},
        timeout=httpx.Timeout(seconds, connect=min(seconds, 5.0)),
        transport=_Guarded(name, network, attempts, pause, most_bytes),
        follow_redirects=user_given,
        max_redirects=MOST_REDIRECTS,
    )


@cache
def trusted(*, told: bool = True) -> ssl.SSLContext:
    """Whom we trust over TLS, read once in a process: it takes 30 ms.

    `told`: the variables SSL_CERT_FILE and SSL_CERT_DIR are obeyed, as they are when it is first asked.
    """
    return httpx.create_ssl_context(trust_env=told)


def accepted(answer: httpx.Response) -> httpx.Response:
    """The answer if it is a 2xx.

    Raises `Unavailable` for 5xx and 429 (with `retry_after` in seconds where given), `Conflict` for any
    other refusal; `status` tells which.
    """
    status = answer.status_code
    if answer.is_success:
        return answer
    host = _origin(answer.request.url)
    if status == 429 or status >= 500:
        raise Unavailable(
            f"{host} answered {status} {answer.reason_phrase}.",
            "It is tried again later.",
            code="too_many_requests" if status == 429 else "server_error",
            status=status,
            retry_after=retry_after(answer),
            maybe_arrived=status >= 500,
        )
    raise Conflict(
        f"{host} refused: {status} {answer.reason_phrase}.",
        "Check its credentials (401, 403) or what was asked for (404, 422).",
        code="refused",
        status=status,
    )


def retry_after(answer: httpx.Response) -> int | None:
    """The seconds that `Retry-After` asks for, said as a number or as a date (RFC 9110, 10.2.3).

    A date is read by the other side's own clock, where it tells it. None: nothing that could be understood.
    """
    told = answer.headers.get("retry-after", "").strip()
    if told.isascii() and told.isdigit():
        return min(int(told), LONGEST_WAIT) if len(told) < 10 else LONGEST_WAIT
    if (until := _date(told)) is None:
        return None
    now = _date(answer.headers.get("date", "")) or datetime.now(UTC)
    return min(max(0, ceil((until - now).total_seconds())), LONGEST_WAIT)


def _date(told: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(told)
    except (ValueError, OverflowError):
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def json_of(answer: httpx.Response) -> Any:
    """The JSON of an accepted answer. Raises like `accepted`, and `wrong_answer` when it is not JSON."""
    try:
        return accepted(answer).json()
    except ValueError:
        raise _wrong(_origin(answer.request.url), "answered something that is not JSON") from None


class _Client(httpx.AsyncClient):
    """Adds the limit of a whole request, and the errors that httpx raises above its transport."""

    def __init__(self, name: str, seconds: float, **options: Any) -> None:
        self._name = name
        self._seconds = seconds
        try:
            super().__init__(**options)
        except httpx.InvalidURL as error:
            raise _no_address(name, error) from None

    def build_request(self, *args: Any, **options: Any) -> httpx.Request:
        try:
            return super().build_request(*args, **options)
        except httpx.InvalidURL as error:
            raise _no_address(self._name, error) from None

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        try:
            async with asyncio.timeout(None if stream else self._seconds):
                return await super().send(request, stream=stream, **options)
        except TimeoutError:
            raise _timed_out(self._name, self._seconds) from None
        except httpx.TooManyRedirects:
            raise _wrong(self._name, "redirects in circles") from None
        except (httpx.InvalidURL, httpx.RemoteProtocolError):
            raise _wrong(self._name, "redirects to something that is no address") from None


class _Guarded(httpx.AsyncBaseTransport):
    """Tries again where that is safe, limits the answer's size, and speaks our errors."""

    def __init__(
        self, name: str, network: httpx.AsyncBaseTransport, attempts: int, pause: float, most_bytes: int
    ) -> None:
        self._name = name
        self._network = network
        self._attempts = attempts
        self._wait = wait_random_exponential(multiplier=pause, max=5)
        self._most_bytes = most_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: _may_repeat(request, error)),
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            retry_error_callback=_outcome,
        )
        try:
            answer: httpx.Response = await retrying(self._attempt, request)
        except _PassingAnswer as passing:
            answer = passing.answer
        except httpx.HTTPError as error:
            raise _translated(self._name, error) from None
        return self._limited(answer)

    async def _attempt(self, request: httpx.Request) -> httpx.Response:
        answer = await self._network.handle_async_request(request)
        asks_to_wait = "retry-after" in answer.headers
        if answer.status_code in PASSING and request.method in IDEMPOTENT and not asks_to_wait:
            await answer.aclose()
            raise _PassingAnswer(httpx.Response(answer.status_code, headers=_without_body(answer.headers)))
        return answer

    def _limited(self, answer: httpx.Response) -> httpx.Response:
        """The same answer, decoded while it is read, and cut off when it grows too large."""
        return httpx.Response(
            answer.status_code,
            headers=_without_body(answer.headers),
            stream=_LimitedBody(self._name, answer, self._most_bytes),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        await self._network.aclose()

    async def __aenter__(self) -> Self:
        await self._network.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self._network.__aexit__(kind, error, trace)


class _LimitedBody(httpx.AsyncByteStream):
    def __init__(self, name: str, answer: httpx.Response, most_bytes: int) -> None:
        self._name = name
        self._answer = answer
        self._most_bytes = most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        try:
            async for chunk in self._answer.aiter_bytes():
                read += len(chunk)
                if read > self._most_bytes:
                    raise _wrong(self._name, f"answered more than {self._most_bytes} bytes", too_large=True)
                yield chunk
        except httpx.HTTPError as error:
            raise _translated(self._name, error) from None

    async def aclose(self) -> None:
        await self._answer.aclose()


class _PublicOnly(httpx.AsyncBaseTransport):
    """Connects to the very address that was checked, so that a name cannot change its mind in between."""

    def __init__(self, network: httpx.AsyncBaseTransport) -> None:
        self._network = network

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        unreachable = httpx.ConnectError("the name has no address")
        for address in await _public_addresses(host):
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # `Host` keeps the name
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await self._network.handle_async_request(pinned)
            except httpx.ConnectError as error:
                unreachable = error
        raise unreachable

    async def aclose(self) -> None:
        await self._network.aclose()


async def _public_addresses(host: str) -> list[str]:
    """The addresses of a host. Raises `Forbidden` when any of them is not public."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpx.ConnectError(f"the name is not known ({error.strerror})") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not all(is_public(address) for address in addresses):
        raise Forbidden(
            f"{host} leads to an address that is not public.",
            "Give an address that is reachable from the internet.",
            code="private_address",
        )
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet, also when it wraps an IPv4 address in an IPv6 one."""
    with suppress(ValueError):
        ip = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address):
            wrapped = ip.ipv4_mapped or ip.sixtofour or _nat64(ip)
            if wrapped is not None:
                return is_public(str(wrapped))
        return ip.is_global and not ip.is_multicast
    return False


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if ip in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


class _PassingAnswer(Exception):
    """A 502, 503 or 504 to something that may be asked again."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(answer.status_code)
        self.answer = answer


def _outcome(state: RetryCallState) -> Any:
    """The last attempt's own error, not tenacity's."""
    return state.outcome.result() if state.outcome else None


def _may_repeat(request: httpx.Request, error: BaseException) -> bool:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return True  # nothing has left this machine
    if request.method not in IDEMPOTENT or not isinstance(request.stream, httpx.ByteStream):
        return False  # a body that is read once cannot be sent again
    return isinstance(error, _PassingAnswer | httpx.NetworkError | httpx.RemoteProtocolError)


def _translated(name: str, error: httpx.HTTPError) -> QuarterdeckError:
    if isinstance(error, httpx.UnsupportedProtocol):
        return _no_address(name, error)
    if isinstance(error, httpx.DecodingError):
        return _wrong(name, "answered something that cannot be unpacked")
    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    if isinstance(error, httpx.TimeoutException):
        return _timed_out(name, None, maybe_arrived=not unsent)
    reason = str(error) or type(error).__name__
    what = "cannot be reached" if unsent else "broke off the connection"
    return Unavailable(
        f"{name} {what}: {reason}.", "It is tried again later.", code="unreachable", maybe_arrived=not unsent
    )


def _timed_out(name: str, seconds: float | None, *, maybe_arrived: bool = True) -> Unavailable:
    limit = "" if seconds is None else f" within {seconds:g} s"
    return Unavailable(
        f"{name} did not answer{limit}.",
        "It is tried again later.",
        code="timed_out",
        maybe_arrived=maybe_arrived,
    )


def _wrong(name: str, what: str, **data: Any) -> Unavailable:
    return Unavailable(
        f"{name} {what}.",
        "Check that its address leads to the right service.",
        code="wrong_answer",
        maybe_arrived=True,
        **data,
    )


def _no_address(name: str, error: Exception) -> Misconfigured:
    kind = "is not http or https" if isinstance(error, httpx.UnsupportedProtocol) else "cannot be understood"
    return Misconfigured(f"The address of {name} {kind}.", "Write it like https://host:port.")


def _origin(url: httpx.URL) -> str:
    """Host and port only: paths and queries may hold secrets."""
    return url.netloc.decode("ascii", "replace")


def _without_body(headers: httpx.Headers) -> list[tuple[bytes, bytes]]:
    told = (b"content-encoding", b"content-length", b"transfer-encoding")
    return [(key, value) for key, value in headers.raw if key.lower() not in told]
