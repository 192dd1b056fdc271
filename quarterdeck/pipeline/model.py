"""Pipelines, claims, gate checks and approvals, as they are stored."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, ForeignKey, Index, UniqueConstraint, Uuid
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial, timestamp
from quarterdeck.kernel.ids import new_id


class StoredPipeline(SQLModel, table=True):
    """A pipeline definition as it was loaded; the table is the truth, the file its source."""

    __tablename__ = "pipelines"

    name: str = Field(primary_key=True, max_length=50)
    definition: dict[str, Any] = Field(sa_column=document())
    updated_at: datetime = Field(sa_column=timestamp())


class Claim(SQLModel, table=True):
    """The right to work on (item, stage, round). Every taking raises `fence`; a lower one may not write.

    `base` is the commit that its agent was given, `head` the one that it published.
    """

    __tablename__ = "claims"
    __table_args__ = (
        UniqueConstraint("item_id", "stage", "round"),
        Index("claims_open", "ended_at", "leased_until"),
    )

    id: int | None = Field(default=None, sa_column=serial())
    item_id: UUID = Field(sa_column=Column(Uuid, ForeignKey("items.id"), nullable=False, index=True))
    stage: str = Field(max_length=50)
    round: int
    fence: int = Field(default=1, sa_column=Column(BigInteger, nullable=False))
    holder: str = Field(max_length=200)
    leased_until: datetime = Field(sa_column=timestamp())
    flow_run: str = Field(default="", max_length=64)
    base: str = Field(default="", max_length=64)
    head: str = Field(default="", max_length=64)
    publish_error: str = ""
    interrupted: str = ""
    started_at: datetime = Field(sa_column=timestamp())
    taken_at: datetime = Field(sa_column=timestamp())
    ended_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class GateVerdict(StrEnum):
    """What a gate said."""

    PASSED = "passed"
    FAILED = "failed"  # the stage's owner can repair it
    PENDING = "pending"  # not known yet; something outside will say
    STUCK = "stuck"  # cannot be repaired from there: a person must act


class GateCheck(SQLModel, table=True):
    """One answer of one gate in one round; a pending one is replaced by the next answer.

    `first_at` is when it first said anything about this commit, `snapshot` what the database had seen when
    the gate was asked (see `CommitNews`).
    """

    __tablename__ = "gate_checks"
    __table_args__ = (UniqueConstraint("item_id", "stage", "round", "gate"),)

    id: int | None = Field(default=None, sa_column=serial())
    item_id: UUID = Field(sa_column=Column(Uuid, ForeignKey("items.id"), nullable=False, index=True))
    stage: str = Field(max_length=50)
    round: int
    gate: str = Field(max_length=50)
    verdict: GateVerdict = Field(sa_column=choice(GateVerdict))
    reason: str = ""
    commit: str = Field(default="", max_length=64)
    first_at: datetime = Field(sa_column=timestamp())
    at: datetime = Field(sa_column=timestamp())
    expires_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    snapshot: str = ""


class CommitNews(SQLModel, table=True):
    """Which transaction last said anything about a commit.

    Its row is the lock between "the item waits from now on" and "CI has just finished", so that neither
    misses the other.
    """

    __tablename__ = "commit_news"

    commit: str = Field(primary_key=True, max_length=64)
    tx: int = Field(sa_column=Column(BigInteger, nullable=False))


class Approval(SQLModel, table=True):
    """A request for a person's decision, and the decision. The first door to decide wins."""

    __tablename__ = "approvals"
    __table_args__ = (UniqueConstraint("item_id", "stage", "round"),)

    id: UUID = Field(default_factory=new_id, sa_column=Column(Uuid, primary_key=True))
    item_id: UUID = Field(sa_column=Column(Uuid, ForeignKey("items.id"), nullable=False, index=True))
    item_key: str = Field(max_length=20)
    stage: str = Field(max_length=50)
    round: int
    requested_by: str = Field(max_length=50)
    requested_at: datetime = Field(sa_column=timestamp())
    approved: bool | None = None
    decided_by: str | None = Field(default=None, max_length=50)
    decided_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    door: str = Field(default="", max_length=30)
    comment: str = ""
    flow_run: str = Field(default="", max_length=64)
    form_closed: bool = False
