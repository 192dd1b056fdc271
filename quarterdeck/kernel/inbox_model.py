"""The inbox's table, and what its users see of a row."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Index, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial, timestamp


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
    """

    id: int
    source: str
    delivery_id: str
    event: str
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime
    attempts: int = 1

    def payload(self) -> dict[str, Any]:
        """The body, which the door found to be a JSON object."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Ignored(str):
    """A handler's outcome when there was nothing to do: why."""


Handler = Callable[[Delivery], Awaitable[str]]
"""Works on a delivery and says in a sentence what was done, or `Ignored` why nothing was.

It may be called again for the same delivery. `Unavailable` = try again later; any other
`QuarterdeckError` = failed for that reason. Texts are shown to people: no secrets.
"""


@dataclass(frozen=True)
class Lease:
    """The right to settle a delivery, as long as nobody else took it."""

    delivery: Delivery
    fence: int
