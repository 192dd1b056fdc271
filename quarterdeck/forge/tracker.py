"""What the desk asks of an issue tracker. Plane answers it today.

Texts are plain Markdown on our side; a tracker turns them into whatever it speaks, and back.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

SOURCE = "quarterdeck"
"""What we write as the source of everything that we make in a tracker; our id of it stands beside."""


class Group(StrEnum):
    """The kinds of states that every project has, whatever it calls them."""

    BACKLOG = "backlog"
    UNSTARTED = "unstarted"
    STARTED = "started"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    TRIAGE = "triage"


CLOSED = frozenset({Group.COMPLETED, Group.CANCELLED})


@dataclass(frozen=True)
class TrackerProject:
    """A project as the tracker knows it; `identifier` is the beginning of its issues' keys."""

    id: str
    identifier: str
    name: str


@dataclass(frozen=True)
class TrackerState:
    """One state of one project."""

    id: str
    name: str
    group: Group


@dataclass(frozen=True)
class Issue:
    """An issue as it was at `changed_at`.

    `labels` and `group` are None where the tracker told only identities. `author` and `editor` are people's
    ids in the tracker; `editor` is who made the change that this is about, empty when nobody says.
    """

    id: str
    project: str
    number: int
    title: str
    description: str
    priority: str
    labels: tuple[str, ...] | None
    group: Group | None
    state: str
    author: str
    editor: str
    external_source: str
    external_id: str
    created_at: datetime
    changed_at: datetime
    is_draft: bool = False


@dataclass(frozen=True)
class Comment:
    """A comment without its tags, quotes and code: what its writer says. `editor` = who wrote this text.

    Empty `editor`: it was changed, and nobody says by whom.
    """

    id: str
    issue: str
    project: str
    text: str
    author: str
    editor: str
    external_source: str
    changed_at: datetime


@dataclass(frozen=True)
class Changed:
    """A page of issues, newest change first; `next_page` is empty on the last one."""

    issues: tuple[Issue, ...]
    next_page: str


class Tracker(Protocol):
    """An issue tracker.

    Every method may raise `Unavailable` (down, or asked too much: `retry_after` in seconds), `Conflict`
    (refused), `NotFound` or `Misconfigured` (not connected). `spare` is how many requests of this minute a
    caller that is in no hurry must leave to the others.
    """

    async def myself(self) -> str:
        """The id of the user that we are there."""
        ...

    async def project(self, name: str) -> TrackerProject:
        """By id or identifier. Raises `NotFound` naming those there are."""
        ...

    async def states(self, project: str) -> tuple[TrackerState, ...]:
        """The states of a project, in its order."""
        ...

    async def issue(self, project: str, identity: str) -> Issue:
        """One issue."""
        ...

    async def by_key(self, key: str) -> Issue:
        """One issue by what people call it, such as `ORC-1`."""
        ...

    async def changed(self, project: str, page: str = "", *, spare: int = 0) -> Changed:
        """Issues by the time of their last change, newest first."""
        ...

    async def comments(self, project: str, issue: str, *, spare: int = 0) -> tuple[Comment, ...]:
        """The comments of an issue (the newest hundred)."""
        ...

    async def comment_of(self, project: str, issue: str, comment: str) -> Comment:
        """One comment."""
        ...

    async def create(self, project: str, title: str, description: str, priority: str, our_id: str) -> str:
        """Make an issue; made before under `our_id` = that one. Returns its id."""
        ...

    async def comment(self, project: str, issue: str, text: str, our_id: str) -> str:
        """Write a comment; written before under `our_id` = that one. Returns its id."""
        ...

    async def set_state(self, project: str, issue: str, group: Group) -> None:
        """Put the issue into the first state of a group. Raises `Conflict` when the project has none."""
        ...
