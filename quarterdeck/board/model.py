"""Projects and work items, as they are stored."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ForeignKey, Index, UniqueConstraint, Uuid
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, timestamp
from quarterdeck.kernel.ids import new_id


class State(StrEnum):
    """Where an item stands beside its stage."""

    QUEUED = "queued"  # the desk will take it up
    RUNNING = "running"  # an agent or the engine is at work
    WAITING_GATE = "waiting_gate"  # something outside must report: a CI, a reviewer
    WAITING_APPROVAL = "waiting_approval"  # a person decides
    BLOCKED = "blocked"  # needs a person; `move` says whose move, why and what to do
    DONE = "done"
    CANCELLED = "cancelled"


FINAL = frozenset({State.DONE, State.CANCELLED})
"""States that no item leaves by itself."""


OUTSIDE = "@outside"
"""The pipeline of items whose work came from elsewhere: no engine moves them, and no file can define it."""


class Priority(StrEnum):
    """How soon; `queued` items are taken up in this order, oldest first."""

    URGENT = "urgent"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    NONE = "none"


class Project(SQLModel, table=True):
    """A line of work: its items are numbered, it chooses a pipeline and a repository."""

    __tablename__ = "projects"

    id: UUID = Field(default_factory=new_id, sa_column=Column(Uuid, primary_key=True))
    key: str = Field(unique=True, max_length=10)
    name: str = Field(max_length=200)
    description: str = ""
    pipeline: str = Field(default="default", max_length=50)
    repository: str = Field(default="", max_length=300)
    default_branch: str = Field(default="main", max_length=200)
    next_number: int = 1
    archived: bool = False
    created_at: datetime = Field(sa_column=timestamp())
    version: int = 1


class WorkItem(SQLModel, table=True):
    """One piece of work on the board. `version` grows with every change; writers compare and set it."""

    __tablename__ = "items"
    __table_args__ = (
        UniqueConstraint("project_id", "number"),
        Index("items_to_take_up", "state", "wake_at"),
        Index("items_by_age", "created_at", "id"),
    )

    id: UUID = Field(default_factory=new_id, sa_column=Column(Uuid, primary_key=True))
    project_id: UUID = Field(sa_column=Column(Uuid, ForeignKey("projects.id"), nullable=False, index=True))
    number: int
    key: str = Field(unique=True, max_length=20)
    title: str = Field(max_length=300)
    description: str = ""
    priority: Priority = Field(default=Priority.NONE, sa_column=choice(Priority))
    labels: list[str] = Field(default_factory=list, sa_column=document())
    assignee: str | None = Field(default=None, max_length=50)
    reporter: str | None = Field(default=None, max_length=50)
    parent_id: UUID | None = Field(
        default=None, sa_column=Column(Uuid, ForeignKey("items.id"), nullable=True, index=True)
    )
    created_at: datetime = Field(sa_column=timestamp())
    updated_at: datetime = Field(sa_column=timestamp())
    version: int = 1

    # Written by the engine alone.
    pipeline: str = Field(max_length=50)
    stage: str = Field(max_length=50)
    state: State = Field(default=State.QUEUED, sa_column=choice(State))
    round: int = 1
    spent: dict[str, int] = Field(default_factory=dict, sa_column=document())
    note: str = ""
    move: dict[str, Any] | None = Field(default=None, sa_column=document(nullable=True))
    wake_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    finished_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class ItemDependency(SQLModel, table=True):
    """`item_id` may not start before `needs_id` is done."""

    __tablename__ = "item_dependencies"

    item_id: UUID = Field(sa_column=Column(Uuid, ForeignKey("items.id"), primary_key=True))
    needs_id: UUID = Field(sa_column=Column(Uuid, ForeignKey("items.id"), primary_key=True, index=True))
