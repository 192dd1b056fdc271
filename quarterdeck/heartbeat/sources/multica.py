"""Multica, by its command line or over HTTP: two doors to the same issues.

Source: spec contracts.md, section 2. Workspaces have statuses of their own, so what counts is a status's
category. Changes never start an agent there (`--no-start`, `suppress_run`), and comments mention nobody.
Rounds are a comment that only we read, renewed in place of the former one. Each remark ends with a mark of
what it says, by which it is known when what is owed is told again.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from quarterdeck.heartbeat.sources.polling import PERSON, Look, Polling
from quarterdeck.heartbeat.sources.reading import (
    NO_TITLE,
    Times,
    labels,
    latest,
    mapping,
    tame,
    text,
    wants_approval,
    word,
)
from quarterdeck.heartbeat.sources.trouble import not_configured
from quarterdeck.heartbeat.work import Answer, Found, Need, Ref, Status, Trouble, Watched
from quarterdeck.kernel.clock import Clock
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.errors import QuarterdeckError

NAME = KIND = "multica"
STATUSES = {
    "todo": Status.TODO,
    "unstarted": Status.TODO,
    "in_progress": Status.IN_PROGRESS,
    "started": Status.IN_PROGRESS,
    "in_review": Status.IN_REVIEW,
    "blocked": Status.BLOCKED,
    "done": Status.DONE,
    "completed": Status.DONE,
    "cancelled": Status.CANCELLED,
    "canceled": Status.CANCELLED,
}
"""By key and by category; `backlog` is not to be taken yet."""
OPEN = ("todo", "in_progress", "in_review", "blocked")
CLOSED = (Status.DONE, Status.CANCELLED)
MOST_ISSUES = 5000
MOST_PARENTS = 50
PARENTS_FOR = timedelta(seconds=45)
"""How long a look goes on asking for parents: one that takes too long is broken off, and tells nothing."""
_OURS = "<!-- quarterdeck "
_ROUNDS = re.compile(r"<!-- quarterdeck rounds=(\d{1,9}) -->")
_SAID = re.compile(r"<!-- quarterdeck said=([0-9a-f]{32}) -->")


class Door(Protocol):
    """One way to Multica. Raises `Unavailable`, `Conflict` where it says no, `Misconfigured`."""

    async def open_issues(self) -> list[Any]:
        """All that are not closed."""
        ...

    async def issue(self, identity: str) -> Mapping[str, Any] | None: ...

    async def comments(self, identity: str) -> list[Any]: ...

    async def comment(self, identity: str, text: str) -> None: ...

    async def delete_comment(self, comment: str) -> None: ...

    async def set_status(self, identity: str, status: str) -> None: ...

    async def assign(self, identity: str, agent: str) -> None: ...


class Multica:
    """All issues of one workspace. `doors`: by what the connection's `via` may say."""

    name = NAME
    rank = 2
    is_driven = False

    def __init__(
        self, doors: Mapping[str, Door], connections: Connections, polling: Polling, clock: Clock
    ) -> None:
        self._doors = doors
        self._connections = connections
        self._polling = polling
        self._clock = clock
        self._ids: dict[str, str] = {}
        self._asked: dict[str, int] = {}

    async def look(self, agents: Sequence[Watched]) -> Answer:
        self._ids |= {agent.slug: agent.multica_id for agent in agents if agent.multica_id}
        names = {agent.multica_id: agent.slug for agent in agents if agent.multica_id}
        return await self._polling.answer(NAME, agents, self._ask, names)

    async def door(self) -> Door:
        """The way that the connection names. Raises `Misconfigured` when there is none."""
        return self._doors[via(await connection(self._connections))]

    async def _ask(self) -> Look:
        door = await self.door()
        told = await door.open_issues()
        look = look_of(told, Times(self._clock.now()))
        parents = await self._parents(door, look.found)
        return replace(look, found=tuple(_with_parents(found, parents) for found in look.found))

    async def _parents(self, door: Door, found: Sequence[Found]) -> dict[str, Status | None]:
        """Where the parents stand; one that cannot be looked up is unknown, and so not met (H7).

        What was closed and is not among the open is closed still. Of all others so many are looked up in
        one look, for so long, those first whose turn is longest ago.
        """
        known: dict[str, Status | None] = dict(_closed_parents(await self._polling.before()))
        known |= {f.ref.id: f.status for f in found}
        wanted = {need.ref.id: self._asked.get(need.ref.id, 0) for f in found for need in f.needs}
        turns = sorted((i for i in wanted if i not in known), key=wanted.__getitem__)[:MOST_PARENTS]
        number = max(wanted.values(), default=0) + 1
        told: dict[str, Status | None] = {}
        until = self._clock.now() + PARENTS_FOR
        for identity in turns:
            if self._clock.now() < until:
                told[identity] = await _status_of(door, identity)
        self._asked = wanted | dict.fromkeys(told, number)
        return known | told

    async def read(self, ref: Ref) -> Found | None:
        door = await self.door()
        told = await door.issue(ref.id)
        found = issue_of(told, Times(self._clock.now())) if told is not None else None
        if found is None:
            return None
        known = {need.ref.id: await _status_of(door, need.ref.id) for need in found.needs}
        slugs = {identity: slug for slug, identity in self._ids.items()}
        comments = await door.comments(ref.id)
        heard = _heard(comments, Times(self._clock.now()))
        return replace(
            _with_parents(found, known),
            agent=slugs.get(found.agent or ""),
            rounds=max((number for _, number in _markers(comments)), default=None),
            updated_at=latest(found.updated_at, heard),
        )

    async def start(self, ref: Ref, agent: str) -> None:
        door = await self.door()
        told = await door.issue(ref.id)
        if told is not None and not told.get("assignee_id") and agent in self._ids:
            await door.assign(ref.id, self._ids[agent])
        await self._set(ref, "in_progress")

    async def comment(self, ref: Ref, text: str) -> None:
        """The same remark twice in a row is one."""
        door = await self.door()
        said = hashlib.sha256(text.encode()).hexdigest()[:32]
        if _last_said(await door.comments(ref.id)) != said:
            await door.comment(ref.id, f"{harmless(text)}\n\n<!-- quarterdeck said={said} -->")

    async def release(self, ref: Ref, why: str) -> None:
        await self.comment(ref, why)
        await self._set(ref, "todo")

    async def reopen(self, ref: Ref, why: str) -> None:
        await self.release(ref, why)

    async def block(self, ref: Ref, why: str) -> None:
        await self.comment(ref, why)
        await self._set(ref, "blocked")

    async def finish(self, ref: Ref, result: str, *, is_reviewed: bool) -> None:
        await self.comment(ref, result)
        await self._set(ref, "done" if is_reviewed else "in_review")

    async def note_rounds(self, ref: Ref, rounds: int) -> None:
        door = await self.door()
        before = _markers(await door.comments(ref.id))
        if [number for _, number in before] != [rounds]:
            await door.comment(ref.id, f"<!-- quarterdeck rounds={rounds} -->")
            for identity, _ in before:
                await door.delete_comment(identity)

    async def _set(self, ref: Ref, status: str) -> None:
        await (await self.door()).set_status(ref.id, status)
        await self._polling.invalidate()


async def connection(connections: Connections) -> dict[str, Any]:
    """The connection. Raises `Misconfigured` when there is none, or no workspace in it."""
    value = await connections.get(KIND)
    if not value:
        raise not_configured(
            "Multica is not connected.",
            "Fill the block `Quarterdeck Multica` in Prefect, or set MULTICA_WORKSPACE_ID.",
        )
    if not value.get("workspace_id"):
        raise not_configured(
            "Multica's workspace is not known, and no call may leave without it.",
            "Set MULTICA_WORKSPACE_ID, or enter the workspace in the block `Quarterdeck Multica`.",
        )
    return value


def via(value: Mapping[str, Any]) -> str:
    """Which door a connection means: what it says, else HTTP where it has an address and a token."""
    told = str(value.get("via") or "")
    return told if told in ("cli", "rest") else "rest" if value.get("url") and value.get("token") else "cli"


def harmless(text: str) -> str:
    """A comment that mentions nobody and links to no file: either would do something there."""
    quiet = re.sub(r"@(?=\w)", "@\u2060", text).replace("mention://", "mention:\u2060//")
    return re.sub(r"\]\((?=/|file:|\.)", "] (", quiet) or "(nothing was said)"


def look_of(issues: list[Any], times: Times) -> Look:
    """The issues that are not closed."""
    read = [issue_of(mapping(issue), times) for issue in issues]
    found = {f.ref: f for f in read if f and f.status not in CLOSED}  # a page may tell one twice
    if unread := read.count(None):
        return Look(
            tuple(found.values()), Trouble.UNREADABLE, f"{unread} of {len(issues)} issues have no id."
        )
    return Look(tuple(found.values()), detail=times.note)


def issue_of(issue: Mapping[str, Any], times: Times) -> Found | None:
    """One issue; `None` = it has no id."""
    identity = word(issue.get("id"))
    if not identity:
        return None
    named = labels(issue.get("labels"))
    parent = word(issue.get("parent_issue_id"))
    flagged = mapping(issue.get("metadata")).get("requires_approval") in (True, "true")
    return Found(
        ref=Ref(NAME, identity),
        title=tame(issue.get("title")) or NO_TITLE,
        status=status_of(issue),
        shown=word(issue.get("identifier")) or identity[:8],
        agent=_assignee(issue),
        priority=word(issue.get("priority")) or None,
        creator=word(issue.get("creator_id")) or None,
        description=text(issue.get("description")),
        labels=named,
        needs=(Need(Ref(NAME, parent), None),) if parent else (),
        requires_approval=flagged or wants_approval(named),
        created_at=times.read(issue.get("created_at")),
        started_at=times.read(issue.get("started_at") or issue.get("start_date")),
        updated_at=latest(times.read(issue.get("updated_at")), times.read(issue.get("last_activity_at"))),
    )


def _assignee(issue: Mapping[str, Any]) -> str | None:
    """Who has it; a person is told apart from agents."""
    identity = word(issue.get("assignee_id"))
    is_person = word(issue.get("assignee_type")) in ("member", "user")
    return (PERSON + identity if is_person else identity) or None


def status_of(issue: Mapping[str, Any]) -> Status:
    """By its key where that is one of Multica's own, else by its category."""
    own = STATUSES.get(word(issue.get("status")).casefold())
    return own or STATUSES.get(word(issue.get("status_category")).casefold(), Status.OTHER)


async def _status_of(door: Door, identity: str) -> Status | None:
    try:
        issue = await door.issue(identity)
    except QuarterdeckError:
        return None
    return status_of(issue) if issue is not None else None


def _closed_parents(found: Sequence[Found]) -> dict[str, Status]:
    needs = [need for f in found for need in f.needs]
    return {need.ref.id: need.status for need in needs if need.status in CLOSED}


def _with_parents(found: Found, known: Mapping[str, Status | None]) -> Found:
    needs = tuple(Need(need.ref, known.get(need.ref.id)) for need in found.needs)
    return replace(found, needs=needs) if needs else found


def _markers(comments: list[Any]) -> list[tuple[str, int]]:
    """Our comments that hold a number of rounds, each with its id."""
    told = ((word(mapping(c).get("id")), mapping(c).get("content")) for c in comments)
    found = ((i, _ROUNDS.search(said)) for i, said in told if i and isinstance(said, str))
    return [(identity, int(match[1])) for identity, match in found if match]


def _heard(comments: list[Any], times: Times) -> datetime | None:
    """When somebody else said something last: a comment does not change the issue (heartbeat.md 5)."""
    told = [c for c in map(mapping, comments) if _OURS not in str(c.get("content"))]
    return latest(*(times.read(comment.get("created_at")) for comment in told))


def _last_said(comments: list[Any]) -> str:
    """The mark of our newest remark; empty = there is none."""
    told = sorted(map(mapping, comments), key=lambda comment: word(comment.get("created_at")))
    marks = [_SAID.findall(c["content"]) for c in told if isinstance(c.get("content"), str)]
    return next((found[-1] for found in reversed(marks) if found), "")
