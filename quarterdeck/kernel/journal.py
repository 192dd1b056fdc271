"""The journal: what happened (events), and what must be told because of it (outbox).

Both are written in the transaction of the command that caused them, and never changed by it again.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, Index, text
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial, timestamp


class Event(SQLModel, table=True):
    """An append-only fact. `id` orders the facts of one item as they were committed."""

    __tablename__ = "events"

    id: int | None = Field(default=None, sa_column=serial())
    at: datetime = Field(sa_column=timestamp(index=True))
    kind: str = Field(index=True)
    item_key: str | None = Field(default=None, index=True)
    run_id: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    data: dict[str, Any] = Field(default_factory=dict, sa_column=document())


class Delivery(StrEnum):
    """Where an outbox message stands."""

    QUEUED = "queued"
    SENDING = "sending"  # its channel's queue has it; `external_id` is its name there
    SENT = "sent"
    DEAD = "dead"  # can never be delivered; kept with its reason until a person resends or dismisses it
    DISMISSED = "dismissed"  # was dead, and a person said that nobody misses it


class OutboxMessage(SQLModel, table=True):
    """A message committed together with the event that caused it, delivered afterwards.

    `lane` is what must keep its order: one chat of one channel. `choices` are buttons (`text`, `data`);
    `replaces` is the message in whose place this one is to stand.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("outbox_waiting", "lane", "id", postgresql_where=text("state in ('queued', 'sending')")),
    )

    id: int | None = Field(default=None, sa_column=serial())
    event_id: int | None = Field(
        default=None, sa_column=Column(BigInteger, ForeignKey("events.id"), nullable=True, index=True)
    )
    kind: str
    item_key: str | None = Field(default=None, index=True)
    channel: str
    chat: str
    lane: str
    text: str
    silent: bool = False
    state: Delivery = Field(default=Delivery.QUEUED, sa_column=choice(Delivery, index=True))
    created_at: datetime = Field(sa_column=timestamp())
    attempts: int = 0
    sent_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True, index=True))
    reason: str = ""
    possibly_twice: bool = False
    external_id: str = ""
    choices: list[dict[str, str]] = Field(default_factory=list, sa_column=document())
    replaces: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True, index=True))
