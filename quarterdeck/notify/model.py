"""Who is told what, and how far each chat's queue has come. The messages are in `kernel.journal`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ARRAY, BigInteger, Column, DateTime, Time
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial, timestamp
from quarterdeck.kernel.journal import Delivery


class Severity(StrEnum):
    """How much an event matters, least first."""

    INFO = "info"
    WARNING = "warning"  # somebody should look, or is asked for something
    ERROR = "error"


class Subscription(SQLModel, table=True):
    """One wish to be told. `chat` empty = the chat of the channel's connection; `events` empty = all ten.

    Between `quiet_from` and `quiet_to` (local time of `zone`; may pass midnight) messages arrive silently.
    """

    __tablename__ = "subscriptions"

    id: int | None = Field(default=None, sa_column=serial())
    channel: str = Field(max_length=30)
    chat: str = Field(default="", max_length=200)
    events: list[str] = Field(default_factory=list, sa_column=document())
    project: str | None = Field(default=None, max_length=10)
    severity: Severity = Field(default=Severity.INFO, sa_column=choice(Severity))
    quiet_from: time | None = Field(default=None, sa_column=Column(Time, nullable=True))
    quiet_to: time | None = Field(default=None, sa_column=Column(Time, nullable=True))
    zone: str = Field(default="UTC", max_length=50)
    enabled: bool = True


def _moments() -> Column[Sequence[datetime]]:
    return Column(ARRAY(DateTime(timezone=True)), nullable=False)


class Lane(SQLModel, table=True):
    """One chat of one channel: who may send to it now, when it may go on, when it was last sent to.

    Every taking raises `fence`; whoever holds a lower one may not write any more.
    """

    __tablename__ = "outbox_lanes"

    lane: str = Field(primary_key=True, max_length=240)
    channel: str = Field(max_length=30)
    chat: str = Field(max_length=200)
    fence: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    leased_until: datetime = Field(sa_column=timestamp())
    resume_at: datetime = Field(sa_column=timestamp())
    failures: int = 0
    sends: list[datetime] = Field(default_factory=list, sa_column=_moments())


class Sender(SQLModel, table=True):
    """What all chats of one channel share: the bot, and when it last sent."""

    __tablename__ = "outbox_senders"

    channel: str = Field(primary_key=True, max_length=30)
    sends: list[datetime] = Field(default_factory=list, sa_column=_moments())


@dataclass(frozen=True)
class Lease:
    """The right to send to a lane, as long as nobody took it with a higher fence."""

    lane: str
    channel: str
    fence: int


@dataclass(frozen=True)
class Round:
    """What one delivery round did. `next_at` says when to come again; None = nothing waits."""

    sent: int
    waiting: int
    dead: int
    next_at: datetime | None


class Trial(BaseModel):
    """How a test message fared."""

    model_config = ConfigDict(frozen=True)

    channel: str
    ok: bool
    detail: str


class Letter(BaseModel):
    """A message, as it is shown. `possibly_twice`: an attempt before the last may have arrived."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: int
    kind: str
    item_key: str | None
    channel: str
    chat: str
    text: str
    silent: bool
    state: Delivery
    possibly_twice: bool
    reason: str
    attempts: int
    created_at: datetime
    not_before: datetime | None
    sent_at: datetime | None
