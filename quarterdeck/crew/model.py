"""Agents, people and agent runs, as they are stored."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ForeignKey, Index, Uuid, false, text
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial, timestamp
from quarterdeck.kernel.ids import new_id


class Agent(SQLModel, table=True):
    """One entry of the crew. `parameters` belong to its runtime (`command`: program, args, env)."""

    __tablename__ = "agents"

    id: UUID = Field(default_factory=new_id, sa_column=Column(Uuid, primary_key=True))
    slug: str = Field(unique=True, max_length=50)
    name: str = Field(max_length=100)
    model: str = Field(default="", max_length=100)
    system_prompt: str = ""
    runtime: str = Field(default="command", max_length=30)
    parameters: dict[str, Any] = Field(default_factory=dict, sa_column=document())
    max_concurrent: int = 1
    is_enabled: bool = True
    heartbeat: dict[str, Any] | None = Field(default=None, sa_column=document(nullable=True))
    created_at: datetime = Field(sa_column=timestamp())
    updated_at: datetime = Field(sa_column=timestamp())


class Role(StrEnum):
    """What a person may do: everything; work and what `may_approve` adds; look."""

    OWNER = "owner"
    MEMBER = "member"
    VIEWER = "viewer"


class Person(SQLModel, table=True):
    """A human in the roster. `handles` are the names that doors know: telegram, plane, gitea, matrix.

    `agent` is who answers this person in messengers; empty = the default agent.
    """

    __tablename__ = "people"

    id: UUID = Field(default_factory=new_id, sa_column=Column(Uuid, primary_key=True))
    slug: str = Field(unique=True, max_length=50)
    name: str = Field(max_length=100)
    role: Role = Field(default=Role.MEMBER, sa_column=choice(Role))
    may_approve: bool = False
    handles: dict[str, str] = Field(default_factory=dict, sa_column=document())
    agent: str = Field(default="", max_length=50, sa_column_kwargs={"server_default": ""})
    token_hash: str | None = Field(default=None, unique=True, max_length=64)
    created_at: datetime = Field(sa_column=timestamp())
    updated_at: datetime = Field(sa_column=timestamp())


ASSIGNED = "@assigned"
"""The stage of a run that was asked for by hand; no pipeline can have one of this name."""


class RunState(StrEnum):
    """Where an agent run stands. `ended` is final; the rest of the row says how it ended."""

    STARTING = "starting"  # committed before the program starts: found again after a crash
    RUNNING = "running"
    ENDED = "ended"


class AgentRun(SQLModel, table=True):
    """One execution of one agent on one work item. `id` is the `run_id` of the messages.

    Exit code 0 = finished, -9 = killed at the limit (`timed_out`), `None` with `error` = never launched.
    `given_up`: its host was declared gone, and has not been back to see that its program ended.
    """

    __tablename__ = "agent_runs"
    __table_args__ = (
        Index("agent_runs_open", "agent", "state"),
        Index("agent_runs_given_up", "host", postgresql_where=text("given_up")),
    )

    id: int | None = Field(default=None, sa_column=serial())
    item_id: UUID = Field(sa_column=Column(Uuid, ForeignKey("items.id"), nullable=False, index=True))
    item_key: str = Field(max_length=20)
    stage: str = Field(max_length=50)
    round: int
    agent: str = Field(max_length=50, index=True)
    runtime: str = Field(max_length=30)
    idempotency_key: str = Field(unique=True, max_length=200)
    state: RunState = Field(default=RunState.STARTING, sa_column=choice(RunState, index=True))
    limit_seconds: float
    host: str = ""
    folder: str = ""
    prompt: str = Field(default="", sa_column_kwargs={"server_default": ""})
    created_at: datetime = Field(sa_column=timestamp())
    started_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    ended_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    exit_code: int | None = None
    timed_out: bool = False
    cancelled: bool = False
    error: str = ""
    given_up: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    result: dict[str, Any] | None = Field(default=None, sa_column=document(nullable=True))
    tokens: int | None = None
    cost_micro_usd: int | None = None
