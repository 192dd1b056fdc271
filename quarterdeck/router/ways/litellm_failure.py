"""What it means when LiteLLM raises: what the wire saw counts, never what LiteLLM makes of it."""

from typing import TYPE_CHECKING, Any

import orjson

from quarterdeck.router.exchange import Failure, Outcome
from quarterdeck.router.limits import rules
from quarterdeck.router.ways.connection_failure import failure_of, in_words
from quarterdeck.router.ways.litellm_answer import dumped, passed_on
from quarterdeck.router.ways.litellm_request import refused
from quarterdeck.router.ways.openai_dialect import error_status
from quarterdeck.router.ways.openai_way import LONGEST_REFUSAL, failure_of_error
from quarterdeck.router.ways.sse import Splitter, data_of

if TYPE_CHECKING:
    from quarterdeck.router.ways.litellm_wire import Wire

_BREAKS = (Outcome.UNREACHABLE, Outcome.TIMED_OUT)
_UNCLEAR = 500

_MALFORMED = (AttributeError, LookupError, TypeError, ValueError)
"""What LiteLLM stumbles over where a field has another form than it takes for granted."""


class EndedEarly(Exception):
    """A stream was over before the model had said that it had finished."""


def failure_from(error: BaseException, wire: "Wire", *, is_open: bool = False) -> Failure:
    """The same that the short way would raise. `is_open`: the client has part of the answer."""
    failure = _meant(error, wire, is_open)
    failure.is_charged |= failure.outcome in _BREAKS and wire.has_begun
    return failure


def _meant(error: BaseException, wire: "Wire", is_open: bool) -> Failure:
    if isinstance(error, Failure):
        return error
    if wire.status and not 200 <= wire.status < 300:
        return _of_status(wire)
    if wire.error is not None:
        return _broken_off(wire.error, is_open)
    if isinstance(error, TimeoutError):
        return failure_of(error)
    if (told := _error_event(wire.last)) is not None:
        return failure_in_stream(told, wire, is_cut=is_open)
    if isinstance(error, EndedEarly):
        outcome = Outcome.CUT if is_open else Outcome.BROKEN
        reason = "The stream ended before the model had finished."
        return Failure(outcome, reason, wire.status, is_charged=wire.has_begun)
    if not wire.is_used:
        return _not_sent(error)
    if is_open:
        return Failure(Outcome.CUT, f"The stream went wrong: {_kind(error)}.", wire.status)
    return _told(wire) or Failure(Outcome.BROKEN, f"The answer is none: {_kind(error)}.", wire.status)


def failure_in_stream(error: Any, wire: "Wire", *, is_cut: bool) -> Failure:
    """What an error means that came as an event. `is_cut`: the client has part of the answer."""
    status, body = error_status(error), dumped({"type": "error", "error": error})
    outcome = Outcome.CUT if is_cut else rules.outcome_of(status, body)
    reason = f"The provider sent an error ({status}) in its stream."
    return Failure(outcome, reason, status, body, headers=wire.headers, passed_on=passed_on(wire))


def _error_event(last: bytes) -> Any:
    """The error that the last events of a stream tell of; None = none. LiteLLM forgets its kind."""
    splitter = Splitter()
    for event in (*splitter.feed(last), splitter.rest()):
        try:
            told = orjson.loads(data_of(event) or b"null")
        except orjson.JSONDecodeError:
            continue
        if isinstance(told, dict) and told.get("error"):
            return told["error"]
    return None


def _told(wire: "Wire") -> Failure | None:
    """An error that came with a good status."""
    try:
        told = orjson.loads(wire.body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return failure_of_error(told, wire.body, wire.headers, passed_on(wire))


def _of_status(wire: "Wire") -> Failure:
    where = " It wants to send us elsewhere." if wire.status < 400 else ""
    kind = wire.headers.get("content-type", "application/json")
    reason = f"The provider answered {wire.status}.{where}"
    outcome = rules.outcome_of(wire.status, wire.body[:LONGEST_REFUSAL])
    told = passed_on(wire)
    return Failure(outcome, reason, wire.status, wire.body, kind, wire.headers, passed_on=told)


def _broken_off(error: Exception, is_open: bool) -> Failure:
    if not is_open:
        return failure_of(error)
    if isinstance(error, TimeoutError):
        return Failure(Outcome.TIMED_OUT, "The stream stood still for too long.")
    return Failure(Outcome.CUT, f"The stream broke off: {in_words(error)}.")


def _not_sent(error: BaseException) -> Failure:
    """LiteLLM found the request or the key wanting, and nothing went out."""
    status = _status(error)
    if status in (401, 403):
        return Failure(Outcome.BAD_KEY, "The backend's key is none that LiteLLM can use.")
    if 400 <= status < 500 and status != 408:
        return refused(_text(error), status)
    first = _first(error)
    if _is_malformed(first):
        return refused(
            f"This request cannot be translated for the provider: {type(first).__name__}, {first}."
        )
    return Failure(Outcome.BROKEN, f"LiteLLM cannot make this request: {_kind(error)}.")


def _original(error: BaseException) -> BaseException:
    """Under what LiteLLM wraps around errors of streams."""
    inner = getattr(error, "original_exception", None)
    return _original(inner) if isinstance(inner, BaseException) and inner is not error else error


def _is_malformed(error: BaseException) -> bool:
    """Is it the request's form? What cannot be encoded is not: that is a key's or an address's fault."""
    if isinstance(error, UnicodeError):
        return False
    return type(error) is Exception or isinstance(error, _MALFORMED)


def _first(error: BaseException) -> BaseException:
    """With what the trouble began, before LiteLLM gave it other names."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _status(error: BaseException) -> int:
    status = getattr(_original(error), "status_code", _UNCLEAR)
    return status if isinstance(status, int) else _UNCLEAR


def _kind(error: BaseException) -> str:
    return in_words(_original(error))


def _text(error: BaseException) -> str:
    """Its sentence for the client, without its own name in front."""
    return str(getattr(error, "message", "") or error).partition("Error: ")[2] or str(error)
