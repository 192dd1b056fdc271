"""What errors of a connection to a provider mean, and how people are told."""

import json
import os
import re
import ssl

import aiohttp
from aiohttp.http import HttpProcessingError

from quarterdeck.router.exchange import Failure, Outcome
from quarterdeck.router.ways.outgoing import CONNECT_SECONDS


def failure_of(error: Exception) -> Failure:
    """What an error of the connection means. The reason names no address: it could hold a password."""
    said = in_words(error)
    match error:
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Failure(Outcome.UNREACHABLE, f"TLS does not work: {said}.")
        case aiohttp.ConnectionTimeoutError():
            return Failure(Outcome.TIMED_OUT, f"No connection within {CONNECT_SECONDS:g} s.")
        case aiohttp.SocketTimeoutError():
            return Failure(Outcome.TIMED_OUT, "Nothing came for longer than the backend's time limit.")
        case TimeoutError():
            return Failure(Outcome.TIMED_OUT, "No answer before the request's deadline.")
        case aiohttp.ClientConnectorDNSError():
            return Failure(Outcome.UNREACHABLE, "The host's name does not resolve.")
        case aiohttp.ClientConnectorError():
            return Failure(Outcome.UNREACHABLE, f"No connection: {said}.")
        case aiohttp.ServerDisconnectedError():
            return Failure(Outcome.UNREACHABLE, "The provider hung up before it answered.")
        case aiohttp.ClientPayloadError() | aiohttp.ClientOSError() | ConnectionError():
            return Failure(Outcome.UNREACHABLE, f"The connection broke: {said}.")
        case _:
            return Failure(Outcome.BROKEN, f"The answer is none: {said}.")


_SAID: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "the host's name does not resolve"),
    (aiohttp.ServerDisconnectedError, "the provider hung up"),
    (aiohttp.ClientPayloadError, "it ended too early"),
    (aiohttp.InvalidURL, "the address is none"),
    ((aiohttp.ClientResponseError, HttpProcessingError), "it is no HTTP"),
    (json.JSONDecodeError, "it is no JSON"),
    (TimeoutError, "nothing came in time"),
)


def in_words(error: BaseException) -> str:
    """What went wrong, for people: no address, and the name of a class only where nothing else is known."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return _of_tls(error)
    for kind, said in _SAID:
        if isinstance(error, kind):
            return said
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return _begun_small(os.strerror(error.errno))
    if isinstance(error, aiohttp.ClientConnectorError):
        return "none of its addresses answers"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()


def _of_tls(error: BaseException) -> str:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if said := getattr(cause, "verify_message", ""):
        return _begun_small(said)
    return str(getattr(cause, "reason", None) or "no agreement").replace("_", " ").lower()


def _begun_small(said: str) -> str:
    return said[:1].lower() + said[1:]
