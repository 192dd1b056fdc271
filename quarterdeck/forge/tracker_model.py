"""What ties our board to a tracker, and what waits to be told there."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Column, DateTime, Index, text
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial, timestamp


class TrackerLink(SQLModel, table=True):
    """A project of ours that follows a project of the tracker.

    Issues made before `takes_from` are left alone. Everything changed before `synced_to` was seen; a sweep
    under way began at `sweep_top` and goes on at `sweep_page`.
    """

    __tablename__ = "tracker_links"

    project_key: str = Field(primary_key=True, max_length=10)
    tracker_project: str = Field(unique=True, max_length=64)
    identifier: str = Field(max_length=20)
    name: str = Field(max_length=300)
    takes_from: datetime = Field(sa_column=timestamp())
    synced_to: datetime = Field(sa_column=timestamp())
    sweep_top: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    sweep_page: str = Field(default="", max_length=200)
    swept_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    linked_at: datetime = Field(sa_column=timestamp())


class TrackedItem(SQLModel, table=True):
    """An item of ours and its issue.

    `seen` is what the issue said when it was last looked at, as of `seen_at` (the tracker's clock); only
    what differs from it is a change. `group` is the state group that the issue is in, as far as we know.
    """

    __tablename__ = "tracked_items"

    issue_id: str = Field(primary_key=True, max_length=64)
    item_key: str = Field(unique=True, max_length=20)
    tracker_project: str = Field(max_length=64, index=True)
    number: int = 0
    seen: dict[str, Any] = Field(default_factory=dict, sa_column=document())
    seen_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    group: str = Field(default="", max_length=20)
    comments_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class HeardComment(SQLModel, table=True):
    """What one person said in one comment, taken once; `outcome` is what became of it."""

    __tablename__ = "tracker_comments"

    comment_id: str = Field(primary_key=True, max_length=64)
    said: str = Field(primary_key=True, max_length=20)
    editor: str = Field(primary_key=True, max_length=64)
    item_key: str = Field(max_length=20)
    outcome: str = ""
    at: datetime = Field(sa_column=timestamp())


class PostKind(StrEnum):
    """What is to be done in the tracker."""

    CREATE = "create"
    COMMENT = "comment"
    STATE = "state"


class PostState(StrEnum):
    """Where a post stands."""

    QUEUED = "queued"
    SENT = "sent"
    DEAD = "dead"  # refused; kept with its reason until a person resends or dismisses it
    DISMISSED = "dismissed"  # was dead, and a person said that nobody misses it


class TrackerPost(SQLModel, table=True):
    """One thing to do in the tracker, committed with the decision it tells of, done afterwards.

    The posts of an item keep their order. `our_id` makes them repeatable. `fence` grows with every try;
    whoever holds a lower one may not write any more.
    """

    __tablename__ = "tracker_posts"
    __table_args__ = (
        Index("tracker_posts_waiting", "item_key", "id", postgresql_where=text("state = 'queued'")),
    )

    id: int | None = Field(default=None, sa_column=serial())
    item_key: str = Field(max_length=20)
    kind: PostKind = Field(sa_column=choice(PostKind))
    text: str = ""
    our_id: str = Field(max_length=100)
    state: PostState = Field(default=PostState.QUEUED, sa_column=choice(PostState))
    attempts: int = 0
    fence: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    leased_until: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    not_before: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    reason: str = ""
    created_at: datetime = Field(sa_column=timestamp())
    sent_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class TrackerBudget(SQLModel, table=True):
    """The requests of the last minute of all our processes, which share one limit of the far side."""

    __tablename__ = "tracker_budgets"

    name: str = Field(primary_key=True, max_length=50)
    calls: list[datetime] = Field(
        default_factory=list, sa_column=Column(ARRAY(DateTime(timezone=True)), nullable=False)
    )
    closed_until: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
