"""Sweeps, how each agent's heartbeat stands, and what is remembered of every piece of work."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Column, Index, String, text
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial, timestamp


class Result(StrEnum):
    """How a sweep ended."""

    RUNNING = "running"
    QUIET = "quiet"  # every source was looked into, and there was nothing to do
    WORKED = "worked"
    DEGRADED = "degraded"  # a source could not be looked into: never "nothing to do"
    DEFERRED = "deferred"  # the agent was in a conversation; the next one does it
    FAILED = "failed"
    LOST = "lost"  # its process died; its lease was taken over


class Sweep(SQLModel, table=True):
    """One sweep. `sources`: name -> {state, found, todo, in_progress, own, first, detail, cached, at}."""

    __tablename__ = "sweeps"
    __table_args__ = (Index("sweeps_of_agent", "agent", "id"),)

    id: int | None = Field(default=None, sa_column=serial())
    agent: str = Field(max_length=50)
    cause: str = Field(default="schedule", max_length=30)
    started_at: datetime = Field(sa_column=timestamp(index=True))
    finished_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    result: Result = Field(default=Result.RUNNING, sa_column=choice(Result))
    sources: dict[str, Any] = Field(default_factory=dict, sa_column=document())
    found: int = 0
    started: int = 0
    suspected: list[str] = Field(default_factory=list, sa_column=document())
    confirmed: list[str] = Field(default_factory=list, sa_column=document())
    warnings: list[str] = Field(default_factory=list, sa_column=document())
    detail: str = ""


class Pulse(SQLModel, table=True):
    """How an agent's heartbeat stands: who sweeps it now, what was last told, how many ticks were skipped.

    `swept`: how a sweep ended -> how many did, also those whose rows are gone.
    `told`: what -> what was said about it last (an outage's sources, a backlog's count, a day's budget).
    """

    __tablename__ = "heartbeats"

    agent: str = Field(sa_column=Column(String(50), primary_key=True))
    fence: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    holder: str = ""
    leased_until: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    sweep_id: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    since: datetime = Field(sa_column=timestamp())
    last_finished: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    swept: dict[str, int] = Field(default_factory=dict, sa_column=document())
    skipped: int = 0
    is_deferred: bool = False
    stale_since: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    told: dict[str, Any] = Field(default_factory=dict, sa_column=document())


class Work(SQLModel, table=True):
    """What is remembered of one piece of work of a source; rows exist where there is something to remember.

    `held` are places in which somebody else was at it when they were last seen: it is not begun where else it
    stands while they cannot be seen. `sign` is the last sign of life that counted, `own_sign` one that we
    caused ourselves. `timed_out_at` is the sign at which the last timeout was counted, `acted` whether its
    platform action was taken. `progress` are the steps that its runs reported (`heartbeat.progress`). `told`
    are the things said once; its `creator` and the `names` that people were shown stand there too. What is
    spent counts against the budget from `budget_since` on. `owed` are actions on sources that were decided
    and not done yet, in their order.
    """

    __tablename__ = "heartbeat_work"
    __table_args__ = (
        Index("heartbeat_work_owing", "agent", postgresql_where=text("jsonb_array_length(owed) > 0")),
        Index("heartbeat_work_running", "run_id", postgresql_where=text("run_id is not null")),
        Index("heartbeat_work_of_agent", "agent"),
    )

    source: str = Field(sa_column=Column(String(50), primary_key=True))
    ref: str = Field(sa_column=Column(String, primary_key=True))
    agent: str = Field(max_length=50)
    title: str = ""
    item_key: str | None = Field(default=None, max_length=20)
    places: list[list[str]] = Field(default_factory=list, sa_column=document())
    held: list[list[str]] = Field(default_factory=list, sa_column=document())

    sign: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    own_sign: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    suspected_since: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    timeouts: int = 0
    timed_out_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    acted: bool = False
    silent_rounds: int = 0

    progress: dict[str, Any] = Field(default_factory=dict, sa_column=document())
    rounds: int = 0
    round_limit: int | None = None
    waits_since: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    told: dict[str, Any] = Field(default_factory=dict, sa_column=document())
    is_allowed: bool = False

    run_id: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    reason: str = Field(default="", max_length=30)
    attempts: int = 0
    fingerprint: str = Field(default="", max_length=64)
    repeats: int = 0
    breaker: str = ""
    broken_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    finished_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    budget_since: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    owed: list[dict[str, Any]] = Field(default_factory=list, sa_column=document())
    updated_at: datetime = Field(sa_column=timestamp())
