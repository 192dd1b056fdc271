"""What errors of a connection to a provider mean."""

import ssl

import aiohttp

from quarterdeck.router.exchange import Failure, Outcome
from quarterdeck.router.ways.outgoing import CONNECT_SECONDS


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
