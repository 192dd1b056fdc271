"""What the tracker is told of our items: written down with the decision, done afterwards, in order.

A post is repeatable: an issue or a comment made twice under one id is one, a state set twice is set. So a
crash between doing it and writing that down costs a request and nothing else.
"""

from collections.abc import Callable
from datetime import timedelta

import structlog
from pydantic import BaseModel, ConfigDict

from quarterdeck.board.model import State
from quarterdeck.board.service import Board
from quarterdeck.forge import tracker_store as store
from quarterdeck.forge.tracker import Group, Tracker
from quarterdeck.forge.tracker_model import PostKind, PostState, TrackedItem, TrackerPost
from quarterdeck.kernel import crash
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, Misconfigured, NotFound, QuarterdeckError, Unavailable
from quarterdeck.kernel.journal import Event
from quarterdeck.pipeline import mirror_rules as rules

log = structlog.get_logger(__name__)

TOPIC = "tracker"
LEASE = timedelta(minutes=1)
"""Longer than the slowest post: two requests."""
LONGEST_PAUSE = timedelta(minutes=5)
TRIES_OF_BROKEN = 5
"""Tries of what fails in a way that nobody foresaw."""

COMMENTED = frozenset({"approval_requested", "item_blocked", "approval_decided"})
"""What people must read; everything else shows in the issue's state."""
MOVING = COMMENTED | {"item_filed", "stage_changed", "agent_started", "item_done", "item_cancelled"}
MOVING |= {"item_retried", "item_moved"}
"""Events after which an issue may belong into another state."""


class PostCard(BaseModel):
    """A post, as it is shown."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: int
    item_key: str
    kind: PostKind
    state: PostState
    attempts: int
    reason: str
    text: str


def pause(attempts: int) -> timedelta:
    """How long to wait after so many tries: 1 s, 2 s, 4 s, ... 5 min."""
    return min(timedelta(seconds=2 ** min(attempts - 1, 20)), LONGEST_PAUSE)


class Posts:
    """The tracker's outbox. `text` says an event in words for people."""

    def __init__(
        self, database: Database, tracker: Tracker, board: Board, text: Callable[[Event], str]
    ) -> None:
        self._database = database
        self._tracker = tracker
        self._board = board
        self._text = text

    # Into it

    async def react(self, unit: Unit, event: Event) -> None:
        """Add what the tracker must be told of an event to the transaction that recorded it."""
        key = event.item_key
        if key is None or event.kind not in MOVING:
            return
        if await store.link(unit.session, key.rpartition("-")[0]) is None:
            return
        if event.kind == "item_filed":
            await self._filed(unit, key)
        elif not await self._is_there(unit, key):
            return  # older than the link
        if event.kind in COMMENTED and event.data.get("door") != "plane":
            _add(unit, key, PostKind.COMMENT, f"{key}#{event.id}", self._text(event))
        if not await store.state_waits_to_be_told(unit.session, key):
            _add(unit, key, PostKind.STATE, key)
            await unit.session.flush()

    async def _filed(self, unit: Unit, key: str) -> None:
        if await store.tracked_item(unit.session, key) is None:
            _add(unit, key, PostKind.CREATE, key)

    @staticmethod
    async def _is_there(unit: Unit, key: str) -> bool:
        tracked = await store.tracked_item(unit.session, key)
        return tracked is not None or await store.waits_to_be_created(unit.session, key)

    # Out of it

    async def work_off(self) -> float | None:
        """Do everything that is due; seconds until there is something again, None = nothing waits.

        Any number of desks may call it: a post is done by one of them. Raises `Unavailable` when the
        database is down.
        """
        while (post := await self._taken()) is not None:
            await self._do(post)
        async with self._database.read() as session:
            due = await store.next_due(session)
        return None if due is None else max(0.0, (due - self._database.clock.now()).total_seconds())

    async def _taken(self) -> TrackerPost | None:
        async with self._database.command("take tracker post") as unit:
            post = await store.next_post(unit.session, unit.now)
            if post is not None:
                post.fence += 1
                post.attempts += 1
                post.leased_until = unit.now + LEASE
            return post

    async def _do(self, post: TrackerPost) -> None:
        try:
            done = await self._done(post)
        except (Unavailable, Misconfigured) as error:
            await self._again(post, str(error), error.data.get("retry_after"))
        except QuarterdeckError as error:
            if error.data.get("status") in (401, 403):  # the key is wrong, not what is told
                await self._again(post, str(error), LONGEST_PAUSE.total_seconds())
            else:
                await self._settle(post, PostState.DEAD, str(error))
        except Exception as error:
            log.exception("tracker_post_broke", post=post.id, item=post.item_key)
            reason = f"Something unexpected: {type(error).__name__}."
            if post.attempts >= TRIES_OF_BROKEN:
                await self._settle(post, PostState.DEAD, reason)
            else:
                await self._again(post, reason, None)
        else:
            crash.point("after telling the tracker")
            await self._settle(post, PostState.SENT, "", done)

    async def _done(self, post: TrackerPost) -> TrackedItem | Group | None:
        """Do it in the tracker; what is known of the issue now."""
        async with self._database.read() as session:
            tracked = await store.tracked_item(session, post.item_key)
        if post.kind is PostKind.CREATE:
            return tracked or await self._create(post)
        if tracked is None:
            raise Conflict(
                f"{post.item_key} has no issue.", "Look why it was not made; send that again first."
            )
        if post.kind is PostKind.STATE:
            return await self._set_state(tracked)
        await self._tracker.comment(tracked.tracker_project, tracked.issue_id, post.text, post.our_id)
        return None

    async def _create(self, post: TrackerPost) -> TrackedItem:
        item = await self._board.item(post.item_key)
        async with self._database.read() as session:
            link = await store.link(session, item.project)
        if link is None:
            raise NotFound(f"{item.project} follows no project of the tracker any more.", "Link it again.")
        project = link.tracker_project
        issue = await self._tracker.create(
            project, item.title, item.description, item.priority.value, post.our_id
        )
        return TrackedItem(issue_id=issue, item_key=item.key, tracker_project=project)

    async def _set_state(self, tracked: TrackedItem) -> Group | None:
        """By the item as it is now, not as it was when the post was written; unless it is so already."""
        item = await self._board.item(tracked.item_key)
        first = await self._board.surroundings.first_stage(item.pipeline)
        begun = item.round > 1 or item.stage != first or item.state is not State.QUEUED
        wanted = rules.group_of(item.state, has_begun=begun)
        if tracked.group == wanted.value:
            return None
        await self._tracker.set_state(tracked.tracker_project, tracked.issue_id, wanted)
        return wanted

    async def _settle(
        self, post: TrackerPost, state: PostState, reason: str, done: TrackedItem | Group | None = None
    ) -> None:
        assert post.id is not None
        async with self._database.command("settle tracker post") as unit:
            held = await store.held_post(unit.session, post.id, post.fence)
            if held is None:
                return  # our lease was over, and somebody did it again
            held.state, held.reason, held.leased_until = state, reason, None
            held.sent_at = unit.now if state is PostState.SENT else None
            if isinstance(done, TrackedItem):
                await store.track(unit.session, done)
            elif done is not None and (tracked := await store.tracked_item(unit.session, post.item_key)):
                tracked.group = done.value
        if state is PostState.DEAD:
            log.warning("tracker_post_dead", post=post.id, item=post.item_key, reason=reason)

    async def _again(self, post: TrackerPost, reason: str, seconds: float | None) -> None:
        assert post.id is not None
        async with self._database.command("postpone tracker post") as unit:
            held = await store.held_post(unit.session, post.id, post.fence)
            if held is not None:
                wait = pause(held.attempts) if seconds is None else timedelta(seconds=seconds)
                held.not_before, held.leased_until, held.reason = unit.now + wait, None, reason
        log.info("tracker_post_waits", post=post.id, reason=reason)

    # For people

    async def page(self, state: PostState | None = None, limit: int = 50) -> list[PostCard]:
        """The newest posts."""
        async with self._database.read() as session:
            found = await store.posts(session, state, 2**63 - 1, limit)
        return [PostCard.model_validate(post) for post in found]

    async def resend(self, number: int) -> PostCard:
        """Do a dead post again, dismissed or not. Raises `NotFound`, `Conflict` when it is not dead."""
        async with self._database.command("resend tracker post") as unit:
            post = await _refused(unit, number)
            post.state, post.reason, post.attempts, post.not_before = PostState.QUEUED, "", 0, None
            unit.wake(TOPIC)
            return PostCard.model_validate(post)

    async def dismiss(self, number: int, by: str) -> PostCard:
        """Nobody misses this dead post: it is trouble no more, and the journal tells who said so.

        It can still be sent again. Raises as `resend` does.
        """
        async with self._database.command("dismiss tracker post") as unit:
            post = await _refused(unit, number)
            if post.state is PostState.DEAD:
                post.state = PostState.DISMISSED
                unit.record(
                    "letter_dismissed",
                    item=post.item_key,
                    message=post.id,
                    channel="plane",
                    reason=post.reason,
                    by=by,
                )
            return PostCard.model_validate(post)


async def _refused(unit: Unit, number: int) -> TrackerPost:
    """A dead post, dismissed or not, locked. Raises `NotFound`, and `Conflict` for others."""
    post = await store.post_for_update(unit.session, number)
    if post is None:
        raise NotFound(f"There is no post {number}.", "`quarterdeck plane posts` shows them.")
    if post.state not in (PostState.DEAD, PostState.DISMISSED):
        raise Conflict(
            f"Post {number} is {post.state.value}.", "Only dead ones can be sent again or dismissed."
        )
    return post


def _add(unit: Unit, key: str, kind: PostKind, our_id: str, text: str = "") -> None:
    post = TrackerPost(item_key=key, kind=kind, our_id=our_id, text=text, created_at=unit.now)
    unit.session.add(post)
    unit.wake(TOPIC)


def answer(unit: Unit, key: str, comment: str, text: str) -> None:
    """Answer a comment by another, under an id of its own."""
    _add(unit, key, PostKind.COMMENT, f"answer:{comment}", text)
