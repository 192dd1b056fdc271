"""What the local forge keeps beside git itself: pull requests, reviews, CI results."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Column, ForeignKey, Index, UniqueConstraint, Uuid
from sqlmodel import Field, SQLModel

from quarterdeck.forge.protocol import CIState, Verdict
from quarterdeck.kernel.columns import choice, timestamp
from quarterdeck.kernel.ids import new_id


class PullRequest(SQLModel, table=True):
    """A pull request of the local forge, numbered per repository."""

    __tablename__ = "pull_requests"
    __table_args__ = (
        UniqueConstraint("repository", "number"),
        Index("pull_requests_branch", "repository", "branch"),
    )

    id: UUID = Field(default_factory=new_id, sa_column=Column(Uuid, primary_key=True))
    repository: str = Field(max_length=300)
    number: int
    branch: str = Field(max_length=250)
    base: str = Field(max_length=250)
    title: str
    body: str = ""
    author: str = Field(max_length=100)
    is_open: bool = True
    merged_commit: str | None = Field(default=None, max_length=64)
    created_at: datetime = Field(sa_column=timestamp())
    closed_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class Review(SQLModel, table=True):
    """One review of one commit by one reviewer; a later one replaces it."""

    __tablename__ = "reviews"
    __table_args__ = (UniqueConstraint("pull_request_id", "reviewer", "commit"),)

    id: UUID = Field(default_factory=new_id, sa_column=Column(Uuid, primary_key=True))
    pull_request_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("pull_requests.id"), nullable=False, index=True)
    )
    reviewer: str = Field(max_length=100)
    verdict: Verdict = Field(sa_column=choice(Verdict))
    comment: str = ""
    commit: str = Field(max_length=64)
    created_at: datetime = Field(sa_column=timestamp())


class CIRun(SQLModel, table=True):
    """One run of a repository's test command on one commit; leased by whoever executes it."""

    __tablename__ = "ci_runs"
    __table_args__ = (UniqueConstraint("repository", "commit", "context"), Index("ci_runs_waiting", "state"))

    id: UUID = Field(default_factory=new_id, sa_column=Column(Uuid, primary_key=True))
    repository: str = Field(max_length=300)
    commit: str = Field(max_length=64)
    context: str = Field(default="tests", max_length=100)
    command: str = ""
    state: CIState = Field(default=CIState.PENDING, sa_column=choice(CIState))
    summary: str = ""
    log_path: str = ""
    created_at: datetime = Field(sa_column=timestamp())
    started_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    ended_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    leased_by: str = ""
    leased_until: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
