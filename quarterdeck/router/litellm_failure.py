"""What it means when LiteLLM raises: what the wire saw counts, never what LiteLLM makes of it."""

from typing import TYPE_CHECKING

from quarterdeck.router import rules
from quarterdeck.router.exchange import Failure, Outcome
from quarterdeck.router.litellm_request import refused
from quarterdeck.router.openai_way import failure_of

if TYPE_CHECKING:
    from quarterdeck.router.litellm_wire import Wire

_UNCLEAR = 500


def failure_from(error: BaseException, wire: "Wire", *, is_open: bool = False) -> Failure:
    """The same that the short way would raise. `is_open`: the client has part of the answer."""
    if isinstance(error, Failure):
        return error
    if wire.status and not 200 <= wire.status < 300:
        return _of_status(wire)
    if wire.error is not None:
        return _broken_off(wire.error, is_open)
    if isinstance(error, TimeoutError):
        return failure_of(error)
    if not wire.is_used:
        return _not_sent(error)
    if is_open:
        return Failure(Outcome.CUT, f"The stream went wrong: {_kind(error)}.", wire.status)
    status = _status(error)
    outcome = rules.outcome_of(status) if _is_told(error) else Outcome.BROKEN
    reason = f"The provider's answer is none that can be read: {_kind(error)}."
    return Failure(outcome, reason, wire.status, headers=wire.headers)


def _of_status(wire: "Wire") -> Failure:
    where = " It wants to send us elsewhere." if wire.status < 400 else ""
    kind = wire.headers.get("content-type", "application/json")
    reason = f"The provider answered {wire.status}.{where}"
    return Failure(rules.outcome_of(wire.status), reason, wire.status, wire.body, kind, wire.headers)


def _broken_off(error: Exception, is_open: bool) -> Failure:
    if not is_open:
        return failure_of(error)
    if isinstance(error, TimeoutError):
        return Failure(Outcome.TIMED_OUT, "The stream stood still for too long.")
    return Failure(Outcome.CUT, f"The stream broke off: {type(error).__name__}.")


def _not_sent(error: BaseException) -> Failure:
    """LiteLLM found the request or the key wanting, and nothing went out."""
    status = _status(error)
    if status in (401, 403):
        return Failure(Outcome.BAD_KEY, "The backend's key is none that LiteLLM can use.")
    if 400 <= status < 500 and status != 408:
        return refused(_text(error), status)
    return Failure(Outcome.BROKEN, f"LiteLLM cannot make this request: {_kind(error)}.")


def _original(error: BaseException) -> BaseException:
    """Under what LiteLLM wraps around errors of streams."""
    inner = getattr(error, "original_exception", None)
    return _original(inner) if isinstance(inner, BaseException) and inner is not error else error


def _status(error: BaseException) -> int:
    status = getattr(_original(error), "status_code", _UNCLEAR)
    return status if isinstance(status, int) else _UNCLEAR


def _is_told(error: BaseException) -> bool:
    """Whether the provider itself named a limit: what else LiteLLM makes of a text is a guess."""
    return _status(error) == 429


def _kind(error: BaseException) -> str:
    return type(_original(error)).__name__


def _text(error: BaseException) -> str:
    """Its sentence for the client, without its own name in front."""
    return str(getattr(error, "message", "") or error).partition("Error: ")[2] or str(error)
