"""What every source tells and takes: work as values, and the port through which it is asked.

A source is asked once for all agents; whose work it is, is decided afterwards. It never raises for what is
wrong outside: an answer then carries its trouble, so that "nothing to do" and "could not look" stay apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable


class Status(StrEnum):
    """Where a piece of work stands, in one set of words for all sources."""

    TODO = "todo"
    IN_PROGRESS = "in_progress"
    IN_REVIEW = "in_review"
    BLOCKED = "blocked"
    DONE = "done"
    CANCELLED = "cancelled"
    OTHER = "other"


@dataclass(frozen=True, order=True)
class Ref:
    """One piece of work in one source: `id` is the source's own name for it."""

    source: str
    id: str

    def __str__(self) -> str:
        return f"{self.source}:{self.id}"


@dataclass(frozen=True)
class Need:
    """What some work waits for; a status of `None` is unknown, and counts as not met."""

    ref: Ref
    status: Status | None


@dataclass(frozen=True)
class Found:
    """One piece of work that a source tells of. Times are aware; `None` = the source does not say.

    `shown` is the short id for people. `agent` is the roster's slug, `None` = nobody's. `creator` is whom the
    source names as its author. `rounds` is the number that a marker in the source holds.
    """

    ref: Ref
    title: str
    status: Status
    shown: str = ""
    agent: str | None = None
    priority: str | None = None
    creator: str | None = None
    description: str = ""
    labels: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    requires_approval: bool = False
    rounds: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None


class Trouble(StrEnum):
    """Why a source could not be looked into."""

    NOT_CONFIGURED = "not configured"
    MISSING = "missing"
    FAILED = "failed"
    REFUSED = "refused"
    TIMED_OUT = "timed out"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too large"


@dataclass(frozen=True)
class Answer:
    """What a source told. With a `trouble` the list may be short of something, and `detail` says why.

    `strange` is work of those whom nobody sweeps; its `agent` is the source's own name of them.
    `concerns`: the agents whose work alone the trouble hides, each with what is wrong; `None` = all.
    `at`: when the source itself was asked. `is_cached`: good for reading, never a reason to touch any work.
    """

    source: str
    at: datetime
    found: tuple[Found, ...] = ()
    trouble: Trouble | None = None
    detail: str = ""
    is_cached: bool = False
    strange: tuple[Found, ...] = ()
    concerns: Mapping[str, tuple[Trouble, str]] | None = None

    def seen_by(self, agent: str) -> "Answer":
        """The answer as it is for one agent: what is wrong with another's work is no trouble of its own."""
        if self.trouble is None or self.concerns is None:
            return self
        trouble, detail = self.concerns.get(agent, (None, ""))
        return replace(self, trouble=trouble, detail=detail)


@dataclass(frozen=True)
class Watched:
    """An agent as sources must know it: its slug, its id in Multica, the folder of its documents."""

    slug: str
    multica_id: str = ""
    workspace: str = ""


class Source(Protocol):
    """One place where work waits. Every action may be repeated, and says whether it worked.

    Actions raise `Unavailable` while the source is down, and another `QuarterdeckError` where it refuses.
    """

    @property
    def name(self) -> str: ...

    @property
    def rank(self) -> int:
        """Which source comes first among work of the same priority; 1 is first."""
        ...

    @property
    def is_driven(self) -> bool:
        """Its work is taken up by an engine of ours: a sweep wakes it (`start`), and starts no run for it."""
        ...

    async def look(self, agents: Sequence[Watched]) -> Answer:
        """All work that is not finished, of all these agents and of nobody, in one answer."""
        ...

    async def read(self, ref: Ref) -> Found | None:
        """One piece of work as it is now, past every cache; `None` = there is none."""
        ...

    async def start(self, ref: Ref, agent: str) -> None:
        """Take it for the agent: it is in progress from now on."""
        ...

    async def comment(self, ref: Ref, text: str) -> None: ...

    async def release(self, ref: Ref, why: str) -> None:
        """Give it back, with the reason, so that somebody else can take it."""
        ...

    async def reopen(self, ref: Ref, why: str) -> None:
        """A person lets it go on: it is to do again, whatever held it there."""
        ...

    async def block(self, ref: Ref, why: str) -> None:
        """Nobody may take it until a person has acted; the reason stands with it."""
        ...

    async def finish(self, ref: Ref, result: str, *, is_reviewed: bool) -> None:
        """It is done; `is_reviewed` False = somebody still looks at it. The result stands with it."""
        ...

    async def note_rounds(self, ref: Ref, rounds: int) -> None:
        """Write down how many rounds it has taken, in place of the former number."""
        ...


@runtime_checkable
class Filing(Protocol):
    """A source that tells at once what came to it: our own board, whose engine takes it up at once."""

    async def filed_since(self, moment: datetime) -> Sequence[str]:
        """The titles of unfinished work that was filed there since."""
        ...
