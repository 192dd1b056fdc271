"""What the router decides from values alone: outcomes, cooldowns, health, addresses, headers, masks.

Sections named here are those of the provider-router specification.
"""

import math
import re
from collections.abc import Iterable
from collections.abc import Mapping as Map
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import lru_cache
from urllib.parse import urlsplit, urlunsplit

import orjson

from quarterdeck.kernel.log import HIDDEN, redact
from quarterdeck.router.backend import Health, Limit
from quarterdeck.router.config import Tuning
from quarterdeck.router.exchange import Outcome

DAY = 86_400.0
ACCOUNT_SECONDS = 3_600.0
"""How long a backend rests whose account a person must look after."""

FAILURES_UNTIL_DOWN = 3
SUMMARY_LENGTH = 200
_LONGEST_ROW = 60
"""So many 429s reach any sensible cap, and two to their power is still a float."""

_SCANNED = 8_192
"""Characters of an error body in which hints are looked for."""

_FORWARDED = {
    b"content-type": "content-type",
    b"accept": "accept",
    b"user-agent": "user-agent",
    b"x-request-id": "x-request-id",
}
_DROPPED = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"trailers", b"transfer-encoding", b"upgrade"),
        *(b"content-encoding", b"content-length", b"set-cookie", b"set-cookie2"),
    )
)
_VERSION = re.compile(r"v\d+(?:(?:alpha|beta)\d*)?")

_ACCOUNT = re.compile(
    r"insufficient[ _-]?(?:quota|balance|credit|fund)|billing[ _](?:hard[ _]limit|not[ _]active)"
    r"|credit balance is too low|out of credit|arrear"
    r"|account (?:is |has been )?(?:not active|suspended|overdue)",
    re.IGNORECASE,
)
_NO_CREDIT = "your credit balance is too low"
"""How Anthropic begins what it says of an empty account, with status 400."""

_QUOTA = re.compile(
    r"per[ _-]?(?:day|week|month)|\b(?:daily|weekly|monthly)\b|_(?:daily|weekly|monthly)\b|\b[RT]PD\b"
    r"|usage limits?\b|regain access",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_PART = (
    r"\d+(?:\.\d+)?\s*(?:ms|milliseconds?|d(?:ays?)?|h(?:ours?|rs?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)"
)
_DURATION = rf"(?:{_PART}\b|{_PART}(?=\d))(?:[\s,]*(?:and\s+)?{_PART})*"
_PARTS = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milli|d|h|m|s)", re.IGNORECASE)
_WHOLE_DURATION = re.compile(rf"(?:{_PART}\s*)+", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "milli": 0.001, "d": DAY, "h": 3600.0, "m": 60.0, "s": 1.0}
_SOON = re.compile(
    rf"(?:(?:again|retry|reset|resets|wait|access)\s+(?:in|after|for)?\s*|retry_?delay[\\\"']*\s*:\s*[\\\"']*)"
    rf"({_DURATION})",
    re.IGNORECASE,
)
_FIELD = re.compile(r"retry_after(?:_seconds)?[\\\"']+\s*:\s*[\\\"']*(\d+(?:\.\d+)?)", re.IGNORECASE)
_DATED = re.compile(
    r"(?:until|access|resets?|again|available)(?:\s+(?:on|at|after))?[\s:]*"
    r"(\d{4}-\d\d-\d\d)(?:(?:T|\s+(?:at\s+)?)(\d\d:\d\d(?::\d\d)?))?(?:\.\d+)?\s*(Z|UTC|[+-]\d\d:?\d\d)?",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r'"message"\s*:\s*"((?:[^"\\]|\\.)+)("?)')
_RESETS = re.compile(r"(?:x-|anthropic-)?ratelimit-(?:reset(-[a-z-]+)?|([a-z-]+)-reset)")


class Hint(StrEnum):
    """Who said how long to wait. Only `retry-after` is an order, the others are advice."""

    RETRY_AFTER = "retry-after"
    TEXT = "text"
    RESET = "reset"
    NONE = "none"


class Probe(StrEnum):
    """What an answer to a probe means (section 10)."""

    GOOD = "good"
    BAD_KEY = "bad_key"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LimitHint:
    """What a 429 tells: its kind, and how long to stay away, at most a day; None = it does not say."""

    kind: Limit = Limit.RATE
    seconds: float | None = None
    source: Hint = Hint.NONE


def outcome_of(status: int, body: bytes = b"") -> Outcome:
    """What a provider's status means for the attempt (section 8).

    402 says that an account is empty, not that the request is wrong: the next backend may well answer it.
    Anthropic says the same with 400, and only its text tells.
    """
    if 200 <= status < 300:
        return Outcome.OK
    if status in (429, 402) or (status == 400 and _is_without_credit(body)):
        return Outcome.LIMITED
    if status in (401, 403):
        return Outcome.BAD_KEY
    if 400 <= status < 500 and status != 408:
        return Outcome.REFUSED
    return Outcome.BROKEN


def _is_without_credit(body: bytes) -> bool:
    """Does the message begin with that? Further on it could be the client's own words."""
    return message_of(body).lower().startswith(_NO_CREDIT)


def message_of(body: bytes) -> str:
    """What an error says in the shape of OpenAI and Anthropic; '' where it has another."""
    try:
        message = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return message if isinstance(message, str) else ""


def probe_of(status: int) -> Probe:
    """What a probe's status means; 0 = no answer at all."""
    match outcome_of(status):
        case Outcome.OK:
            return Probe.GOOD
        case Outcome.BAD_KEY:
            return Probe.BAD_KEY
        case Outcome.BROKEN if status >= 400 or status == 0:
            return Probe.FAILED
        case _:
            return Probe.INCONCLUSIVE


def health_of(failures: int) -> Health:
    """The state after so many failures in a row."""
    if failures >= FAILURES_UNTIL_DOWN:
        return Health.DOWN
    return Health.DEGRADED if failures else Health.HEALTHY


def cooldown_seconds(tuning: Tuning, count: int) -> float:
    """The back-off for the count-th 429 in a row (section 7)."""
    times = min(max(count, 1), _LONGEST_ROW)
    factor = 2 ** (times - 1) if tuning.cooldown_exponential_backoff else times
    return min(tuning.cooldown_base_seconds * factor, tuning.cooldown_max_seconds)


def rest_seconds(tuning: Tuning, count: int, hint: LimitHint, now: float) -> float:
    """How long a backend cools: exactly what `Retry-After` says, else the longest of what is known."""
    if hint.source is Hint.RETRY_AFTER and hint.seconds is not None:
        return hint.seconds
    least = cooldown_seconds(tuning, count)
    match hint.kind:
        case Limit.ACCOUNT:
            least = max(least, ACCOUNT_SECONDS)
        case Limit.QUOTA if hint.seconds is None:
            least = max(least, DAY - now % DAY)
        case _:
            pass
    return max(least, hint.seconds or 0.0)


def emergency_rpm(tuning: Tuning, rpm: int) -> int:
    """Calls per minute of a backend's emergency channel (section 9); 0 = it has none."""
    if tuning.emergency_rpm_fraction <= 0:
        return 0
    return max(1, math.floor(rpm * tuning.emergency_rpm_fraction + 1e-9))  # 100 x 0.29 is 28.999...


def retry_after(headers: Map[str, str], body: bytes, now: float, status: int = 429) -> LimitHint:
    """What a refusal for limits says about its kind and its end.

    `Retry-After` (or `retry-after-ms`, as the OpenAI SDK reads it) beats a date or duration in the text, and
    that beats the headers that tell when a limit resets. Values that make no sense count as not said.
    """
    named = {name.lower(): value for name, value in headers.items()}
    text = body[:_SCANNED].decode("utf-8", "replace")
    kind = Limit.ACCOUNT if status == 402 else _kind(text)
    for source, seconds in (
        (Hint.RETRY_AFTER, _told(named, now)),
        (Hint.TEXT, _in_text(text, now)),
        (Hint.RESET, _reset(named, now)),
    ):
        if seconds is not None and seconds > 0:
            return LimitHint(kind, min(seconds, DAY), source)
    return LimitHint(kind)


def _kind(text: str) -> Limit:
    if _ACCOUNT.search(text):
        return Limit.ACCOUNT
    return Limit.QUOTA if _QUOTA.search(text) else Limit.RATE


def _told(headers: Map[str, str], now: float) -> float | None:
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds) and float(milliseconds) > 0:
        return float(milliseconds) / 1000
    told = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(told):
        return float(told)
    until = _http_date(told)
    if until is None:
        return None
    return until - (_http_date(headers.get("date", "")) or now)  # their clock may differ from ours


def _http_date(text: str) -> float | None:
    try:
        return _aware(parsedate_to_datetime(text)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _in_text(text: str, now: float) -> float | None:
    if found := _DATED.search(text):
        day, time, zone = found.groups()
        offset = "+00:00" if not zone or zone.upper() in ("Z", "UTC") else zone
        return _until(f"{day}T{time or '00:00'}{offset}", now)
    if found := _SOON.search(text):
        return _duration(found[1])
    found = _FIELD.search(text)
    return float(found[1]) if found else None


def _until(iso: str, now: float) -> float | None:
    try:
        return _aware(datetime.fromisoformat(iso)).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _duration(text: str) -> float:
    """`1h2m`, `7.66s`, `12ms`, `5 minutes` in seconds."""
    return sum(float(amount) * _SECONDS[unit.lower()] for amount, unit in _PARTS.findall(text))


def _reset(headers: Map[str, str], now: float) -> float | None:
    """The latest reset of those limits that are used up, or of which nobody says how much is left."""
    waits = [
        wait
        for name, value in headers.items()
        if _RESETS.fullmatch(name)
        and headers.get(name.replace("reset", "remaining"), "0").strip() in ("0", "0.0")
        and (wait := _reset_wait(value.strip(), now)) is not None
    ]
    return max(waits, default=None)


def _reset_wait(value: str, now: float) -> float | None:
    """Providers write seconds, a duration, epoch seconds or milliseconds, or a date."""
    if _NUMBER.fullmatch(value):
        number = float(value)
        if number > 1e11:
            return number / 1000 - now
        return number - now if number > 1e9 else number
    return _duration(value) if _WHOLE_DURATION.fullmatch(value) else _until(value, now)


def summary(body: bytes, key: str = "") -> str:
    """The beginning of an error body for people, without secrets (section 7)."""
    text = body[:_SCANNED].decode("utf-8", "replace").replace("\x00", "")
    return redact(text.replace(key, HIDDEN) if key else text)[:SUMMARY_LENGTH]


def sentence_of(summary: str) -> str:
    """The sentence in such a summary, which may be cut off; all of it where there is none."""
    found = _SENTENCE.search(summary) if summary.lstrip().startswith(("{", "[")) else None
    if found is None:
        return summary
    said, is_whole = found.groups()
    try:
        sentence = str(orjson.loads(f'"{said}"'))
    except orjson.JSONDecodeError:  # cut off within an escape, or redacted there
        return summary
    return sentence if is_whole else f"{sentence}…"


def mask(key: str) -> str:
    """What may be shown of a key (section 13): a short one is nearly told by both its ends."""
    if not key:
        return ""
    return f"{key[:2]}****" if len(key) < 20 else f"{key[:6]}****{key[-4:]}"


def join(base: str, path: str, query: str = "") -> str:
    """The address at a backend (section 4.5): a base that ends in a version has the path's `/v1` already.

    A query of the base itself (`?api-version=...`) is kept.
    """
    address, is_versioned, own = _door(base)
    if is_versioned and (path == "/v1" or path.startswith("/v1/")):
        path = path[3:]
    query = f"{own}&{query}" if own and query else own or query
    return f"{address}{path}?{query}" if query else address + path


@lru_cache(maxsize=1024)
def _door(base: str) -> tuple[str, bool, str]:
    parts = urlsplit(base.strip())
    path = parts.path.rstrip("/")
    is_versioned = _VERSION.fullmatch(path.rpartition("/")[2]) is not None
    return urlunsplit((parts.scheme, parts.netloc, path, "", "")), is_versioned, parts.query


def request_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Those of a client's headers (names in lower case, as in ASGI) that a provider may see (section 4.6)."""
    return {_FORWARDED[name]: value.decode("latin-1") for name, value in headers if name in _FORWARDED}


def response_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Those of a provider's headers that a client may see (section 4.7), names in lower case."""
    pairs = [(name.lower(), value) for name, value in headers]
    kept = tuple([pair for pair in pairs if pair[0] not in _DROPPED])
    if not kept or not (named := _hop_by_hop(pairs)):
        return kept
    return tuple(pair for pair in kept if pair[0] not in named)


def _hop_by_hop(pairs: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """What the sender itself declares to be for one hop only (RFC 9110, section 7.6.1)."""
    told = [value for name, value in pairs if name == b"connection"]
    return {word.strip().lower() for value in told for word in value.split(b",")}
