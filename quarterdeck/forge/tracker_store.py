"""All queries of the tables that tie the board to a tracker."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import exists, func, or_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.forge.tracker_model import (
    HeardComment,
    PostKind,
    PostState,
    TrackedItem,
    TrackerLink,
    TrackerPost,
)


async def lock_issue(session: AsyncSession, issue: str) -> None:
    """Be alone with what we know of an issue until the command ends."""
    await session.exec(select(func.pg_advisory_xact_lock(func.hashtextextended(f"tracker:{issue}", 0))))


# Links


async def links(session: AsyncSession) -> Sequence[TrackerLink]:
    """In the order of their keys."""
    return (await session.exec(select(TrackerLink).order_by(col(TrackerLink.project_key)))).all()


async def link(session: AsyncSession, project_key: str) -> TrackerLink | None:
    return await session.get(TrackerLink, project_key)


async def link_to(session: AsyncSession, tracker_project: str) -> TrackerLink | None:
    """The project of ours that follows one of the tracker's."""
    wanted = select(TrackerLink).where(col(TrackerLink.tracker_project) == tracker_project)
    return (await session.exec(wanted)).one_or_none()


async def link_for_update(session: AsyncSession, project_key: str) -> TrackerLink | None:
    wanted = select(TrackerLink).where(col(TrackerLink.project_key) == project_key).with_for_update()
    return (await session.exec(wanted)).one_or_none()


# Items


async def tracked(session: AsyncSession, issue: str) -> TrackedItem | None:
    return await session.get(TrackedItem, issue, populate_existing=True)


async def tracked_item(session: AsyncSession, item_key: str) -> TrackedItem | None:
    wanted = select(TrackedItem).where(col(TrackedItem.item_key) == item_key)
    return (await session.exec(wanted)).one_or_none()


async def tracked_among(session: AsyncSession, item_keys: Sequence[str], limit: int) -> Sequence[TrackedItem]:
    """Those whose comments were looked at longest ago."""
    wanted = select(TrackedItem).where(col(TrackedItem.item_key).in_(item_keys))
    wanted = wanted.order_by(col(TrackedItem.comments_at).asc().nulls_first(), col(TrackedItem.item_key))
    return (await session.exec(wanted.limit(limit))).all()


async def track(session: AsyncSession, row: TrackedItem) -> None:
    """Tie an item to its issue, unless it is tied already."""
    await session.exec(insert(TrackedItem).values(row.model_dump()).on_conflict_do_nothing())


# Comments


async def take_comment(session: AsyncSession, row: HeardComment) -> bool:
    """Whether this was not said before."""
    taken = insert(HeardComment).values(row.model_dump()).on_conflict_do_nothing()
    return (await session.exec(taken.returning(col(HeardComment.comment_id)))).first() is not None


# Posts


async def waits_to_be_created(session: AsyncSession, item_key: str) -> bool:
    """Will there be an issue for this item?"""
    found = select(TrackerPost.id).where(
        col(TrackerPost.item_key) == item_key,
        col(TrackerPost.kind) == PostKind.CREATE,
        col(TrackerPost.state) == PostState.QUEUED,
    )
    return (await session.exec(found.limit(1))).first() is not None


async def state_waits_to_be_told(session: AsyncSession, item_key: str) -> bool:
    """Is there a post that will look at the state and has not begun to?"""
    found = select(TrackerPost.id).where(
        col(TrackerPost.item_key) == item_key,
        col(TrackerPost.kind) == PostKind.STATE,
        col(TrackerPost.state) == PostState.QUEUED,
        col(TrackerPost.fence) == 0,
    )
    return (await session.exec(found.limit(1))).first() is not None


async def next_post(session: AsyncSession, now: datetime) -> TrackerPost | None:
    """The oldest that may go now, locked. One that waits holds up those of its item, and no others."""
    earlier = aliased(TrackerPost)
    before_it = exists().where(
        col(earlier.item_key) == col(TrackerPost.item_key),
        col(earlier.state) == PostState.QUEUED,
        col(earlier.id) < col(TrackerPost.id),
    )
    wanted = (
        select(TrackerPost)
        .where(col(TrackerPost.state) == PostState.QUEUED, ~before_it)
        .where(or_(col(TrackerPost.leased_until).is_(None), col(TrackerPost.leased_until) <= now))
        .where(or_(col(TrackerPost.not_before).is_(None), col(TrackerPost.not_before) <= now))
        .order_by(col(TrackerPost.id))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return (await session.exec(wanted)).first()


async def held_post(session: AsyncSession, number: int, fence: int) -> TrackerPost | None:
    """The post, locked, if nobody took it since."""
    wanted = select(TrackerPost).where(
        col(TrackerPost.id) == number,
        col(TrackerPost.fence) == fence,
        col(TrackerPost.state) == PostState.QUEUED,
    )
    return (await session.exec(wanted.with_for_update())).one_or_none()


async def next_due(session: AsyncSession) -> datetime | None:
    """When there is something to do again; None = nothing waits."""
    at = func.min(
        func.greatest(col(TrackerPost.created_at), col(TrackerPost.not_before), col(TrackerPost.leased_until))
    )
    found: datetime | None = (
        await session.exec(select(at).where(col(TrackerPost.state) == PostState.QUEUED))
    ).one()
    return found


async def posts(
    session: AsyncSession, state: PostState | None, before: int, limit: int
) -> Sequence[TrackerPost]:
    """Newest first, with numbers below `before`."""
    wanted = select(TrackerPost).where(col(TrackerPost.id) < before)
    if state:
        wanted = wanted.where(col(TrackerPost.state) == state)
    return (await session.exec(wanted.order_by(col(TrackerPost.id).desc()).limit(limit))).all()


async def post_for_update(session: AsyncSession, number: int) -> TrackerPost | None:
    wanted = select(TrackerPost).where(col(TrackerPost.id) == number).with_for_update()
    return (await session.exec(wanted)).one_or_none()
