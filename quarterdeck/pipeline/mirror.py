"""The mirror between a tracker's issues and our items: what arrives, by webhook or by looking.

A new issue of a linked project becomes an item, once. Its text, priority and labels follow; where the item
stands is ours alone. Everything may arrive twice, late, out of order, or never (then a sweep finds it).
"""

from dataclasses import replace
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from quarterdeck.board.cards import Changes, Draft
from quarterdeck.board.model import Priority
from quarterdeck.board.service import Board
from quarterdeck.crew.service import Crew
from quarterdeck.forge import plane_shapes
from quarterdeck.forge import tracker_store as store
from quarterdeck.forge.tracker import Issue, Tracker
from quarterdeck.forge.tracker_model import TrackedItem, TrackerLink
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.inbox_model import Delivery, Ignored
from quarterdeck.pipeline import mirror_rules as rules
from quarterdeck.pipeline.comments import Comments
from quarterdeck.pipeline.service import Engine

DOOR = "plane"
GONE = 404
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class LinkCard(BaseModel):
    """Which project follows which."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    project_key: str
    tracker_project: str
    identifier: str
    name: str
    takes_from: datetime
    synced_to: datetime
    swept_at: datetime | None


class Mirror:
    """Takes in what the tracker tells. Every method may be called again for the same thing."""

    def __init__(
        self,
        database: Database,
        tracker: Tracker,
        board: Board,
        engine: Engine,
        crew: Crew,
        comments: Comments,
    ) -> None:
        self.database = database
        self.tracker = tracker
        self.comments = comments
        self._board = board
        self._engine = engine
        self._crew = crew

    # Links

    async def link(
        self, caller: Caller, project: str, tracker_project: str, *, everything: bool = False
    ) -> LinkCard:
        """Let a project follow one of the tracker's: issues made from now on, or `everything` open there.

        Raises `NotFound`, or `Conflict` when one of the two is linked already, or nothing is filed into ours.
        """
        caller.must_write()
        ours = await self._board.project(project)
        await self._board.surroundings.first_stage(ours.pipeline)
        theirs = await self.tracker.project(tracker_project)
        async with self.database.command("link project") as unit:
            for known in await store.links(unit.session):
                if ours.key == known.project_key or theirs.id == known.tracker_project:
                    raise Conflict(
                        f"{known.project_key} follows {known.identifier} already.",
                        "A project follows one other, and nobody else follows that.",
                        code="already_linked",
                    )
            begin = LONG_AGO if everything else unit.now
            row = TrackerLink(
                project_key=ours.key,
                tracker_project=theirs.id,
                identifier=theirs.identifier[:20],
                name=theirs.name[:300],
                takes_from=begin,
                synced_to=begin,
                linked_at=unit.now,
            )
            unit.session.add(row)
        return LinkCard.model_validate(row)

    async def links(self) -> list[LinkCard]:
        """All of them."""
        async with self.database.read() as session:
            return [LinkCard.model_validate(row) for row in await store.links(session)]

    # Deliveries

    async def handle(self, delivery: Delivery) -> str:
        """Work on a webhook of Plane; see `kernel.inbox.Handler`."""
        news = plane_shapes.news(delivery.payload())
        if news.look_at:
            return await self._look(*news.look_at)
        if news.issue:
            return await self.take_issue(news.issue)
        if news.comment:
            said_at = min(news.comment.changed_at, delivery.received_at)
            return await self.comments.take(replace(news.comment, changed_at=said_at))
        return Ignored(f"Nothing here depends on {news.about or 'this'}.")

    async def _look(self, project: str, issue: str, comment: str) -> str:
        """The delivery says too little: ask for the thing itself."""
        async with self.database.read() as session:
            tracked = await store.tracked(session, issue)
            project = project or (tracked.tracker_project if tracked else "")
            if not project or await store.link_to(session, project) is None:
                return Ignored("No project here follows that one.")
        try:
            if comment:
                return await self.comments.take(await self.tracker.comment_of(project, issue, comment))
            return await self.take_issue(await self.tracker.issue(project, issue))
        except Conflict as error:
            if error.data.get("status") == GONE:
                return Ignored("It is not there any more.")
            raise

    # Issues

    async def take_issue(self, issue: Issue) -> str:
        """File it, or follow what changed in it. Says what was done."""
        async with self.database.read() as session:
            link = await store.link_to(session, issue.project)
            tracked = await store.tracked(session, issue.id)
        if link is None:
            return Ignored("No project here follows that one.")
        if tracked is not None:
            return await self._follow(issue, tracked)
        why_not = rules.why_not_taken(issue, link.takes_from, await self.tracker.myself())
        return Ignored(f"Not taken: {why_not}.") if why_not else await self._file(issue, link.project_key)

    async def _file(self, issue: Issue, project: str) -> str:
        pipeline = (await self._board.project(project)).pipeline
        stage = await self._board.surroundings.first_stage(pipeline)
        author = await self._crew.by_handle(DOOR, issue.author)
        draft = Draft(
            project=project,
            title=issue.title,
            description=issue.description,
            priority=Priority(issue.priority),
            labels=issue.labels or (),
        )
        async with self.database.command("file issue") as unit:
            await store.lock_issue(unit.session, issue.id)
            if tracked := await store.tracked(unit.session, issue.id):
                return Ignored(f"{tracked.item_key} is this issue already.")
            card = await self._board.file_within(unit, draft, author.name if author else DOOR, stage)
            unit.session.add(_tracked(issue, card.key))
        return f"Filed {card.key}."

    async def _follow(self, issue: Issue, known: TrackedItem) -> str:
        if _is_old(issue, known):
            return Ignored(f"{known.item_key} knows this already.")
        cancelled = await self._cancel(issue, known)
        by = await self._crew.by_handle(DOOR, issue.editor)
        async with self.database.command("follow issue") as unit:
            await store.lock_issue(unit.session, issue.id)
            tracked = await store.tracked(unit.session, issue.id)
            if tracked is None or _is_old(issue, tracked):
                return Ignored(f"{known.item_key} knows this already.")
            changed = await self._change(unit, issue, tracked, by.name if by else DOOR)
        if changed or cancelled:
            return f"{known.item_key}: {', '.join(sorted(changed) + cancelled)}."
        return Ignored(f"Nothing of {known.item_key} depends on it.")

    async def _change(self, unit: Unit, issue: Issue, tracked: TrackedItem, by: str) -> list[str]:
        after = rules.content(issue, tracked.seen)
        changes = rules.changes(issue, tracked.seen, after)
        tracked.seen, tracked.seen_at, tracked.number = after, issue.changed_at, issue.number
        tracked.group = issue.group.value if issue.group else tracked.group
        if changes:
            await self._board.edit_within(unit, by, tracked.item_key, Changes.model_validate(changes))
        return list(changes)

    async def _cancel(self, issue: Issue, known: TrackedItem) -> list[str]:
        """Whoever may work here cancels an item by putting its issue among the cancelled."""
        if not rules.was_cancelled(issue, known.seen) or issue.editor == await self.tracker.myself():
            return []
        by = await self._crew.by_handle(DOOR, issue.editor)
        if by is None or not by.may_write:
            return []
        try:
            await self._engine.cancel(known.item_key, by, "cancelled in the tracker")
        except Conflict:
            return []
        return ["cancelled"]


def _is_old(issue: Issue, known: TrackedItem) -> bool:
    return known.seen_at is not None and issue.changed_at <= known.seen_at


def _tracked(issue: Issue, key: str) -> TrackedItem:
    return TrackedItem(
        issue_id=issue.id,
        item_key=key,
        tracker_project=issue.project,
        number=issue.number,
        seen=rules.content(issue, {}),
        seen_at=issue.changed_at,
        group=issue.group.value if issue.group else "",
    )
