"""Values from outside, read so that nothing in them can hurt: texts, times, lists. Pure.

Times are ISO 8601 with offset, ISO 8601 without (UTC, spec heartbeat.md H1), or numbers since 1970 in
seconds or milliseconds. A time that lies ahead of us counts as now, and is noted.
"""

import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from quarterdeck.kernel.words import counted

LONGEST_TITLE, LONGEST_TEXT, LONGEST_WORD, MOST_LABELS = 300, 20_000, 200, 50
NO_TITLE = "(no title)"
TOLERATED = timedelta(seconds=90)
"""Clocks differ; only what is further ahead is noted."""
APPROVAL_LABELS = frozenset({"requires_approval", "requires-approval", "needs-approval", "approval"})

_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_MILLISECONDS_FROM = 100_000_000_000


def tame(value: Any, longest: int = LONGEST_TITLE) -> str:
    """A text in one line, without control and direction characters, cut where it is too long."""
    if not isinstance(value, str):
        return ""
    seen = "".join(_visible(c) for c in value[: longest * 4])
    line = " ".join(seen.split())
    return line if len(line) <= longest and len(value) <= longest * 4 else line[: longest - 1].rstrip() + "…"


def _visible(character: str) -> str:
    return " " if unicodedata.category(character) in _INVISIBLE else character


def text(value: Any, longest: int = LONGEST_TEXT) -> str:
    """A text of several lines, otherwise like `tame`."""
    if not isinstance(value, str):
        return ""
    lines = value[:longest].splitlines()
    return "\n".join("".join(_visible(c) for c in line).rstrip() for line in lines).strip()


def word(value: Any) -> str:
    """A short name or id: a text or a number, else empty."""
    if isinstance(value, bool):
        return ""
    return tame(str(value) if isinstance(value, int) else value, LONGEST_WORD)


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def labels(value: Any) -> tuple[str, ...]:
    """Names of labels, told as texts or as objects with a `name`."""
    told = (word(mapping(row).get("name")) if isinstance(row, dict) else word(row) for row in rows(value))
    return tuple(dict.fromkeys(filter(None, told)))[:MOST_LABELS]


def wants_approval(names: tuple[str, ...]) -> bool:
    """Does a label say that a person must agree first?"""
    return any(name.casefold() in APPROVAL_LABELS for name in names)


def latest(*moments: datetime | None) -> datetime | None:
    """The last of those that are known."""
    return max((moment for moment in moments if moment is not None), default=None)


class Times:
    """Reads times as seen at `now`, and counts those that cannot be."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self.ahead = 0

    def read(self, value: Any) -> datetime | None:
        """The time in UTC, never later than now; `None` for what is none."""
        found = _moment(value)
        if found is None or found <= self._now:
            return found
        self.ahead += found > self._now + TOLERATED
        return self._now

    @property
    def note(self) -> str:
        """What people should know of it."""
        lie = counted(self.ahead, "time stamp lies", "time stamps lie")
        return f"{lie} in the future, and this counts as now." if self.ahead else ""


def _moment(value: Any) -> datetime | None:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value / 1000 if abs(value) >= _MILLISECONDS_FROM else value
            return datetime.fromtimestamp(seconds, UTC)
        if not isinstance(value, str):
            return None
        found = datetime.fromisoformat(value.strip()[:64])
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
