"""The inbox's table, and what its users see of a row."""

import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Index, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial, timestamp
from quarterdeck.kernel.errors import Invalid

DEEPEST = 64
"""Levels that a payload may have."""

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Standing(StrEnum):
    """Where a delivery stands."""

    WAITING = "waiting"
    DONE = "done"
    IGNORED = "ignored"  # there was nothing to do; the outcome says why
    FAILED = "failed"  # given up; the outcome says why, and it can be replayed


class InboxEntry(SQLModel, table=True):
    """A delivery. `fingerprint` names what was signed, so that a new id makes no new delivery of it.

    `leased_until` is set while somebody works on it; `deaths` counts those who did not come back.
    `body` and `headers` are forgotten after a while, the rest stays to know a replay by.
    """

    __tablename__ = "inbox"
    __table_args__ = (
        UniqueConstraint("source", "delivery_id"),
        UniqueConstraint("source", "fingerprint"),
        Index("inbox_waiting", "source", "id", postgresql_where=text("state = 'waiting'")),
    )

    id: int | None = Field(default=None, sa_column=serial())
    source: str = Field(max_length=30)
    delivery_id: str = Field(max_length=200)
    fingerprint: str = Field(max_length=200)
    event: str = Field(max_length=200)
    headers: dict[str, str] = Field(default_factory=dict, sa_column=document())
    body: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    received_at: datetime = Field(sa_column=timestamp(index=True))
    state: Standing = Field(default=Standing.WAITING, sa_column=choice(Standing))
    outcome: str = ""
    attempts: int = 0
    deaths: int = 0
    replays: int = 0
    fence: int = 0
    not_before: datetime = Field(sa_column=timestamp())
    leased_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    leased_until: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    finished_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


@dataclass(frozen=True)
class Delivery:
    """One delivery as its handler gets it. Its signature was checked; its content is still a stranger's.

    `event` is the sender's own name for it (`issue_comment`, `pull_request_approved`); names of `headers`
    are in small letters, and those that carry secrets or signatures are not among them. `body` is JSON.
    `replays` is how often somebody asked for it again.
    """

    id: int
    source: str
    delivery_id: str
    event: str
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime
    attempts: int = 1
    replays: int = 0

    def payload(self) -> dict[str, Any]:
        """The body, which the door found to be a JSON object; every text in it can be stored."""
        return json_object(self.body)


class Ignored(str):
    """A handler's outcome when there was nothing to do: why."""


Handler = Callable[[Delivery], Awaitable[str]]
"""Works on a delivery and says in a sentence what was done, or `Ignored` why nothing was.

It may be called again for the same delivery. `Unavailable` = try again later; any other
`QuarterdeckError` = failed for that reason. Texts are shown to people: no secrets.
"""


@dataclass(frozen=True)
class Arrival:
    """What is to be kept of a new delivery; the names are those of the table."""

    source: str
    delivery_id: str
    fingerprint: str
    event: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.delivery_id


@dataclass(frozen=True)
class Lease:
    """The right to settle a delivery, as long as nobody else took it."""

    delivery: Delivery
    fence: int


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object from outside. What PostgreSQL cannot store in a text becomes U+FFFD or `?`.

    Raises `Invalid` for everything else, also for numbers without end and for depths without reason.
    """
    try:
        written = body.decode("utf-8")
        if "\\u0000" in written:  # looked for first: it is much faster than the pattern
            written = _NUL.sub(r"\1\\ufffd", written)
        found = json.loads(written, parse_float=_finite, parse_constant=_finite)
        if _SURROGATE.search(written):
            found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise _unreadable("The body is not JSON, or it is cut off.") from None
    if not isinstance(found, dict):
        raise _unreadable("The body is JSON, but not an object.")
    if written.count("{") + written.count("[") > DEEPEST and _is_deep(found):
        raise _unreadable(f"The body has more than {DEEPEST} levels.")
    return found


def _unreadable(detail: str) -> Invalid:
    return Invalid(detail, "Send one JSON object in UTF-8.", code="payload_unreadable", field="body")


def _finite(number: str) -> float:
    found = float(number)
    if not math.isfinite(found):
        raise ValueError(number)
    return found


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
