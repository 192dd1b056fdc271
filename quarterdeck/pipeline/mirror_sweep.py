"""Looking for what no webhook told: a tracker may lose deliveries, and never repeats a refused one.

Issues are read by the time of their last change, newest first, back to where the last sweep ended; then
the comments of items that wait for approval. It leaves part of each minute to those in a hurry, and goes on
the next time where the limit stopped it.
"""

from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime

import structlog

from quarterdeck.board.model import State
from quarterdeck.forge import tracker_store as store
from quarterdeck.forge.tracker import Comment
from quarterdeck.forge.tracker_model import TrackedItem, TrackerLink
from quarterdeck.kernel.errors import Conflict, QuarterdeckError, Unavailable
from quarterdeck.kernel.inbox_model import Ignored
from quarterdeck.kernel.words import counted
from quarterdeck.pipeline.mirror import Mirror
from quarterdeck.pipeline.mirror_rules import OVERLAP
from quarterdeck.pipeline.store import keys_in

log = structlog.get_logger(__name__)

SPARE = 25
"""Requests of each minute that are left to deliveries, posts and people."""
MOST_ITEMS = 20
"""Items whose comments are read in one sweep."""


@dataclass(frozen=True)
class Swept:
    """What a sweep found; `is_whole` = the limit did not stop it."""

    issues: int
    comments: int
    is_whole: bool

    def __str__(self) -> str:
        changes, decisions = counted(self.issues, "change"), counted(self.comments, "decision")
        found = f"What had not arrived: {changes}, {decisions}"
        return found if self.is_whole else f"{found}; the rest next time, this minute is used up"


async def sweep(mirror: Mirror) -> Swept:
    """Repair what lost deliveries left behind. Raises `Unavailable` while the tracker is down."""
    found: Counter[str] = Counter()
    try:
        async with mirror.database.read() as session:
            links = await store.links(session)
        for link in links:
            await _issues(mirror, link, found)
        await _comments(mirror, found)
    except Unavailable as error:
        if error.code != "too_many_requests":
            raise
        return Swept(found["issues"], found["comments"], is_whole=False)
    return Swept(found["issues"], found["comments"], is_whole=True)


async def _issues(mirror: Mirror, link: TrackerLink, found: Counter[str]) -> None:
    page, top = link.sweep_page, link.sweep_top
    until = link.synced_to - OVERLAP
    while True:
        changed = await mirror.tracker.changed(link.tracker_project, page, spare=SPARE)
        fresh = [issue for issue in changed.issues if issue.changed_at > until]
        for issue in sorted(fresh, key=lambda issue: issue.changed_at):
            found["issues"] += await _is_news(mirror.take_issue(issue))
        top = top or max((issue.changed_at for issue in changed.issues), default=link.synced_to)
        is_last = not changed.next_page or len(fresh) < len(changed.issues)
        page = "" if is_last else changed.next_page
        await _keep_place(mirror, link.project_key, page, top)
        if is_last:
            return


async def _keep_place(mirror: Mirror, project: str, page: str, top: datetime) -> None:
    """Where to go on; without a page the sweep of this project is over."""
    async with mirror.database.command("keep sweep") as unit:
        link = await store.link_for_update(unit.session, project)
        if link is None:
            return
        link.sweep_page, link.sweep_top = page, top if page else None
        if not page:
            link.synced_to, link.swept_at = max(link.synced_to, top), unit.now


async def _comments(mirror: Mirror, found: Counter[str]) -> None:
    async with mirror.database.read() as session:
        waiting = await keys_in(session, State.WAITING_APPROVAL)
        items = await store.tracked_among(session, waiting, MOST_ITEMS)
    for item in items:
        for comment in await _comments_of(mirror, item):
            found["comments"] += await _is_news(mirror.comments.take(comment))
        async with mirror.database.command("keep sweep of comments") as unit:
            if row := await store.tracked(unit.session, item.issue_id):
                row.comments_at = unit.now


async def _comments_of(mirror: Mirror, item: TrackedItem) -> list[Comment]:
    try:
        comments = await mirror.tracker.comments(item.tracker_project, item.issue_id, spare=SPARE)
    except Conflict as error:
        log.warning("tracker_issue_unreadable", item=item.item_key, reason=str(error))
        return []
    return sorted(comments, key=lambda comment: comment.changed_at)


async def _is_news(taking: Awaitable[str]) -> bool:
    """One thing that cannot be taken must not hold up the others."""
    try:
        return not isinstance(await taking, Ignored)
    except Unavailable:
        raise
    except QuarterdeckError as error:
        log.warning("tracker_sweep_passed_over", reason=str(error))
        return False
