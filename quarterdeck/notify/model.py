"""Who is told what, and what became of it. The messages are in `kernel.journal`."""

from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Column, Time
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial
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
    sent_at: datetime | None
