"""The bots, what they heard, how far it was told, and what they have to say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Described
from sqlalchemy import BigInteger, Column, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial, timestamp
from quarterdeck.kernel.errors import Invalid
from quarterdeck.telegram.wire import SendState

DESK = "desk"
"""The agent whose bot the connection `telegram/default` describes: the desk itself."""

API_BASE = "https://api.telegram.org"
"""Telegram's own Bot API server."""

BOTS_TOPIC, SENDS_TOPIC = "telegram_bots", "telegram_sends"


class UnknownAgent(Invalid):
    """An agent without a bot."""

    status = 400
    code = "unknown_agent"


class BotState(StrEnum):
    """Whether a bot is polled."""

    ACTIVE = "active"
    STOPPED = "stopped"  # its token was revoked: a new one must be registered


class Bot(SQLModel, table=True):
    """One agent's bot. Its token is in `sealed`, or in the named connection; nothing is derived from it.

    Every taking raises `fence`; a listener with a lower one may write nothing any more.
    """

    __tablename__ = "telegram_bots"

    agent_id: str = Field(primary_key=True, max_length=100)
    bot_id: str = Field(max_length=40, unique=True)
    username: str = Field(default="", max_length=100)
    name: str = Field(default="", max_length=200)
    sealed: str = ""
    connection: str = Field(default="", max_length=100)
    allowed_chats: list[int] = Field(default_factory=list, sa_column=document())
    state: BotState = Field(default=BotState.ACTIVE, sa_column=choice(BotState))
    trouble: str = ""
    registered_at: datetime = Field(sa_column=timestamp())
    announced: bool = False
    fence: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    leased_until: datetime = Field(sa_column=timestamp())
    last_poll_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    last_routed_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class StoredUpdate(SQLModel, table=True):
    """An update; `id` is the order in which it is told. `published_at` empty = the bus has not got it yet."""

    __tablename__ = "telegram_updates"
    __table_args__ = (
        Index("telegram_updates_of_chat", "agent_id", "chat_id", "id"),
        Index("telegram_updates_to_publish", "agent_id", "id", postgresql_where=text("published_at is null")),
    )

    id: int | None = Field(default=None, sa_column=serial())
    event_id: str = Field(max_length=100, unique=True)
    agent_id: str = Field(max_length=100)
    bot_id: str = Field(max_length=40)
    update_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    kind: str = Field(max_length=50)
    chat_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    user_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    ts: datetime = Field(sa_column=timestamp())
    text: str | None = None
    message_id: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    message_thread_id: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    raw_update: dict[str, Any] = Field(default_factory=dict, sa_column=document())
    received_at: datetime = Field(sa_column=timestamp(index=True))
    published_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class Told(SQLModel, table=True):
    """How far a consumer was told of a chat. The row without an agent says where the consumer began."""

    __tablename__ = "telegram_told"

    consumer: str = Field(primary_key=True, max_length=50)
    agent_id: str = Field(default="", primary_key=True, max_length=100)
    chat_id: int = Field(default=0, sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    update: int = Field(sa_column=Column(BigInteger, nullable=False))


class StoredSend(SQLModel, table=True):
    """A message of the queue. `begun`: a request left, and what became of it is not known."""

    __tablename__ = "telegram_sends"
    __table_args__ = (
        UniqueConstraint("agent_id", "idempotency_key"),
        Index("telegram_sends_waiting", "agent_id", "chat", "id", postgresql_where=text("state = 'queued'")),
    )

    id: int | None = Field(default=None, sa_column=serial())
    agent_id: str = Field(max_length=100)
    chat: str = Field(max_length=200)
    content: dict[str, Any] = Field(default_factory=dict, sa_column=document())
    idempotency_key: str | None = Field(default=None, max_length=200)
    state: SendState = Field(default=SendState.QUEUED, sa_column=choice(SendState))
    begun: bool = False
    possibly_twice: bool = False
    attempts: int = 0
    message_ids: list[int] = Field(default_factory=list, sa_column=document())
    reason: str = ""
    created_at: datetime = Field(sa_column=timestamp())
    not_before: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    finished_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True, index=True))


class MovedChat(SQLModel, table=True):
    """A group that became a supergroup. What is addressed to its old id goes to the new one."""

    __tablename__ = "telegram_moved_chats"

    old_chat: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    new_chat: int = Field(sa_column=Column(BigInteger, nullable=False))
    moved_at: datetime = Field(sa_column=timestamp())


class BotCard(BaseModel):
    """A bot, without its token. `status` is when it last routed an inbound message, not "connected"."""

    model_config = ConfigDict(frozen=True)

    agent_id: str = Described(examples=["analyst"])
    bot_id: str = Described(examples=["bot:7000000001"])
    username: str = Described(examples=["analyst_bot"])
    name: str = ""
    status: str = Described(
        examples=["routed 2026-01-05T12:00:00+00:00"],
        description='"stopped", "never routed", or "routed" and the time of the last inbound message.',
    )
    trouble: str = Described(default="", description="What is wrong with it, and since when it is so.")
    last_poll: datetime | None = None
    last_inbound_routed: datetime | None = None
    queue_length: int = Described(default=0, description="Messages that wait to be sent.")
    allowed_chat_ids: list[int] = []


class Registered(BaseModel):
    """The answer to a registration."""

    model_config = ConfigDict(frozen=True)

    status: str = Described(default="registered", examples=["registered"])
    bot_id: str = Described(examples=["bot:7000000001"])
    username: str = Described(examples=["analyst_bot"])


@dataclass(frozen=True)
class Identity:
    """Who a token belongs to, as Telegram says."""

    bot_id: str
    username: str


@dataclass(frozen=True)
class Lease:
    """A bot that this listener serves, as long as nobody took it with a higher fence.

    `trouble` is what an earlier listener noted, and may be over.
    """

    agent_id: str
    bot_id: str
    fence: int
    registered_at: datetime
    allowed_chats: frozenset[int] = frozenset()
    token: str = field(default="", repr=False)
    api_base: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class Standing:
    """How a served bot fares: the fence that it is held with, its last poll, its last routed message."""

    fence: int
    polled_at: datetime | None = None
    routed_at: datetime | None = None


Fields = Mapping[str, Any]
"""The parameters of a method of the Bot API."""
