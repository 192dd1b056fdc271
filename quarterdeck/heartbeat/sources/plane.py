"""Plane: open issues that no project of ours follows into its board.

An issue belongs to the agent that its label `agent:<slug>` names: Plane's users are people. Its client keeps
the limit of 60 requests a minute (`forge.plane_budget`); a look leaves some of them to others.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from quarterdeck.forge.tracker import CLOSED, SOURCE, Changed, Comment, Group, Issue, TrackerProject
from quarterdeck.heartbeat.sources.notes import Notes
from quarterdeck.heartbeat.sources.polling import Look, Polling
from quarterdeck.heartbeat.sources.reading import (
    NO_TITLE,
    Times,
    labels,
    latest,
    tame,
    text,
    wants_approval,
)
from quarterdeck.heartbeat.sources.trouble import not_configured
from quarterdeck.heartbeat.work import Answer, Found, Ref, Status, Trouble, Watched
from quarterdeck.kernel.clock import Clock
from quarterdeck.kernel.errors import NotFound, QuarterdeckError, Unavailable

NAME = "plane"
OWNER_LABEL = "agent:"
MOST_PAGES = 20
"""Pages of one project that a look reads, of up to 1,000 issues; what is older is told as missing."""
SPARE = 20
"""Requests of a minute that are left to others."""
STATUSES = {
    Group.UNSTARTED: Status.TODO,
    Group.STARTED: Status.IN_PROGRESS,
    Group.COMPLETED: Status.DONE,
    Group.CANCELLED: Status.CANCELLED,
}
"""What lies in the backlog or in triage is not to be taken yet."""


class Tracker(Protocol):
    """What is asked of Plane's client."""

    async def is_connected(self) -> bool: ...

    async def projects(self) -> tuple[TrackerProject, ...]: ...

    async def changed(
        self, project: str, page: str = "", *, spare: int = 0, is_brief: bool = False
    ) -> Changed: ...

    async def issue(self, project: str, identity: str) -> Issue: ...

    async def comments(self, project: str, issue: str) -> Sequence[Comment]: ...

    async def comment(self, project: str, issue: str, text: str, our_id: str) -> str: ...

    async def set_state(self, project: str, issue: str, group: Group) -> None: ...


class Followed(Protocol):
    """Which of Plane's projects our board follows."""

    async def followed(self) -> Collection[str]:
        """Their ids."""
        ...


class PlaneIssues:
    """The open issues of one workspace. An id is `project/issue`."""

    name = NAME
    rank = 4
    is_driven = False

    def __init__(
        self, tracker: Tracker, followed: Followed, polling: Polling, notes: Notes, clock: Clock
    ) -> None:
        self._tracker = tracker
        self._followed = followed
        self._polling = polling
        self._notes = notes
        self._clock = clock
        self._behind: frozenset[str] = frozenset()

    async def look(self, agents: Sequence[Watched]) -> Answer:
        return await self._polling.answer(NAME, agents, self._ask, {a.slug: a.slug for a in agents})

    async def _ask(self) -> Look:
        if not await self._tracker.is_connected():
            raise not_configured(
                "Plane is not connected.",
                "Fill the block `Quarterdeck Plane`, or set PLANE_URL, PLANE_WORKSPACE and PLANE_API_KEY.",
            )
        times, rounds = Times(self._clock.now()), await self._notes.rounds()
        found: list[Found] = []
        short: list[TrackerProject] = []
        for project in await self._projects():
            issues, is_whole = await self._open(project)
            found += [found_of(issue, project.identifier, times, rounds) for issue in issues]
            short += [] if is_whole else [project]
        self._behind = frozenset(project.id for project in short)
        if short:
            detail = f"Only the newest issues were looked at of: {', '.join(p.identifier for p in short)}."
            return Look(tuple(found), Trouble.TOO_LARGE, detail)
        return Look(tuple(found), detail=times.note)

    async def _projects(self) -> Sequence[TrackerProject]:
        """Those that nobody follows; first those for which there was no time at the last look."""
        followed = await self._followed.followed()
        projects = [p for p in await self._tracker.projects() if p.id not in followed]
        return sorted(projects, key=lambda project: project.id not in self._behind)

    async def _open(self, project: TrackerProject) -> tuple[list[Issue], bool]:
        """Without descriptions: whoever begins an issue reads it again. False: there is more of it."""
        found: dict[str, Issue] = {}
        page = ""
        for _ in range(MOST_PAGES):
            try:
                told = await self._tracker.changed(project.id, page, spare=SPARE, is_brief=True)
            except Unavailable as error:
                if error.code != "too_many_requests":
                    raise
                break
            found |= {i.id: i for i in told.issues if i.group not in CLOSED and not i.is_draft}
            if not (page := told.next_page):
                return list(found.values()), True
        return list(found.values()), False

    async def read(self, ref: Ref) -> Found | None:
        project, issue = _parts(ref)
        try:
            told = await self._tracker.issue(project, issue)
        except QuarterdeckError as error:
            if error.data.get("status") == 404:
                return None
            raise
        found = found_of(told, "", Times(self._clock.now()), await self._notes.rounds())
        if found.status is not Status.IN_PROGRESS:
            return found
        return replace(found, updated_at=latest(found.updated_at, await self._heard(project, issue)))

    async def _heard(self, project: str, issue: str) -> datetime | None:
        """When somebody else said something last: a comment does not change the issue (heartbeat.md 5)."""
        said, now = await self._tracker.comments(project, issue), self._clock.now()
        return latest(*(c.changed_at for c in said if c.external_source != SOURCE and c.changed_at <= now))

    async def start(self, ref: Ref, agent: str) -> None:
        await self._put(ref, Group.STARTED)

    async def comment(self, ref: Ref, text: str) -> None:
        """The same remark twice is one in Plane."""
        project, issue = _parts(ref)
        ours = "heartbeat-" + hashlib.sha256(f"{ref}\n{text}".encode()).hexdigest()[:32]
        await self._tracker.comment(project, issue, text or "(nothing was said)", ours)

    async def release(self, ref: Ref, why: str) -> None:
        await self.comment(ref, why)
        await self._put(ref, Group.UNSTARTED)

    async def reopen(self, ref: Ref, why: str) -> None:
        await self.release(ref, why)

    async def block(self, ref: Ref, why: str) -> None:
        """Into the backlog: whoever wants it done moves it out again."""
        await self.comment(ref, why)
        await self._put(ref, Group.BACKLOG)

    async def finish(self, ref: Ref, result: str, *, is_reviewed: bool) -> None:
        """Plane knows no review: what somebody still looks at is in progress until he closes it."""
        await self.comment(ref, result)
        if is_reviewed:
            await self._put(ref, Group.COMPLETED)
        elif (await self._tracker.issue(*_parts(ref))).group not in (Group.STARTED, *CLOSED):
            await self._put(ref, Group.STARTED)

    async def note_rounds(self, ref: Ref, rounds: int) -> None:
        await self._notes.set_rounds(ref, rounds)

    async def _put(self, ref: Ref, group: Group) -> None:
        await self._tracker.set_state(*_parts(ref), group)
        await self._polling.invalidate()


def found_of(issue: Issue, identifier: str, times: Times, rounds: Mapping[str, int]) -> Found:
    """One issue."""
    named = labels(list(issue.labels or ()))
    owners = [name.removeprefix(OWNER_LABEL).strip() for name in named if name.startswith(OWNER_LABEL)]
    ref = Ref(NAME, f"{issue.project}/{issue.id}")
    status = STATUSES.get(issue.group, Status.OTHER) if issue.group else Status.OTHER
    return Found(
        ref=ref,
        title=tame(issue.title) or NO_TITLE,
        status=status,
        shown=f"{identifier}-{issue.number}" if identifier else issue.id[:8],
        agent=owners[0] if owners else None,
        priority=issue.priority,
        creator=issue.author or None,
        description=text(issue.description),
        labels=named,
        requires_approval=wants_approval(named),
        rounds=rounds.get(ref.id),
        created_at=_seen(times, issue.created_at),
        updated_at=_seen(times, issue.changed_at),
    )


def _seen(times: Times, moment: datetime) -> datetime | None:
    return times.read(moment.isoformat())


def _parts(ref: Ref) -> tuple[str, str]:
    project, _, issue = ref.id.partition("/")
    if not project or not issue:
        raise NotFound(f"There is no issue {tame(ref.id, 80)!r}.", "Look again.", code="unknown_issue")
    return project, issue
