"""What finished items leave behind goes after a while: delivered messages, folders and prompts of runs.

Events are the journal and stay. So does the row of each run: how it ended, and what it reported.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import ColumnElement, and_, delete, exists, or_, update
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from quarterdeck.board.model import FINAL, WorkItem
from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.forge.folders import remove_tree
from quarterdeck.forge.tracker_model import PostState, TrackerPost
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.journal import Delivery, OutboxMessage

BATCH = 1_000
"""Rows, or names of folders, that are dealt with in one transaction."""


async def forget_messages(database: Database, kept: timedelta, limit: int = BATCH) -> int:
    """Drop messages that arrived, and dismissed ones, `kept` after their item was finished; how many.

    What waits, what is dead, and what a message that waits or is dead shall replace, is kept.
    """

    async def some(unit: Unit) -> int:
        before = unit.now - kept
        old = select(OutboxMessage.id).where(_arrived(before), ~_is_needed(before)).limit(limit)
        return (await unit.session.exec(delete(OutboxMessage).where(col(OutboxMessage.id).in_(old)))).rowcount

    return await _in_batches(database, "forget messages", limit, some)


async def _in_batches(
    database: Database, name: str, limit: int, some: Callable[[Unit], Awaitable[int]]
) -> int:
    """Do it again, each time in a command of its own, until less than `limit` is found; how much was."""
    done = 0
    while True:
        async with database.command(name) as unit:
            count = await some(unit)
        done += count
        if count < limit:
            return done


def _arrived(before: datetime) -> ColumnElement[bool]:
    return or_(
        and_(col(OutboxMessage.state) == Delivery.SENT, col(OutboxMessage.sent_at) < before),
        and_(col(OutboxMessage.state) == Delivery.DISMISSED, col(OutboxMessage.created_at) < before),
    )


def _is_needed(before: datetime) -> ColumnElement[bool]:
    """Its item is open or was finished lately, or another message shall stand in its place."""
    of_item = col(WorkItem.key) == col(OutboxMessage.item_key)
    rewrite = aliased(OutboxMessage)
    awaited = and_(
        col(rewrite.replaces) == col(OutboxMessage.id),
        col(rewrite.state).not_in([Delivery.SENT, Delivery.DISMISSED]),
    )
    lately = select(1).where(of_item, ~_long_finished(before)).correlate(OutboxMessage)
    return or_(exists(lately), exists(select(1).where(awaited).correlate(OutboxMessage)))


def _long_finished(before: datetime) -> ColumnElement[bool]:
    return and_(col(WorkItem.state).in_(FINAL), col(WorkItem.finished_at) < before)


async def forget_posts(database: Database, kept: timedelta, limit: int = BATCH) -> int:
    """Drop what the tracker was told of items that were finished so long ago; how many.

    What waits, and what it refused, is kept; what was dismissed is not.
    """

    async def some(unit: Unit) -> int:
        settled = col(TrackerPost.state).in_([PostState.SENT, PostState.DISMISSED])
        old = select(TrackerPost.id).join(WorkItem, col(WorkItem.key) == col(TrackerPost.item_key))
        old = old.where(settled, _long_finished(unit.now - kept)).limit(limit)
        return (await unit.session.exec(delete(TrackerPost).where(col(TrackerPost.id).in_(old)))).rowcount

    return await _in_batches(database, "forget tracker posts", limit, some)


async def forget_prompts(database: Database, kept: timedelta, limit: int = BATCH) -> int:
    """Empty the prompts of runs whose item was finished so long ago; how many."""

    async def some(unit: Unit) -> int:
        old = select(AgentRun.id).join(WorkItem, col(WorkItem.id) == col(AgentRun.item_id))
        old = old.where(_long_over(unit.now - kept), col(AgentRun.prompt) != "").limit(limit)
        emptied = update(AgentRun).where(col(AgentRun.id).in_(old)).values(prompt="")
        return (await unit.session.exec(emptied)).rowcount

    return await _in_batches(database, "forget prompts", limit, some)


def _long_over(before: datetime) -> ColumnElement[bool]:
    """A run that ended for certain, of an item that was finished so long ago."""
    ended = and_(col(AgentRun.state) == RunState.ENDED, ~col(AgentRun.given_up))
    return and_(ended, _long_finished(before))


async def clear_runs(database: Database, folder: Path, host: str, kept: timedelta) -> int:
    """Remove the folders of this host's runs whose item was finished so long ago; how many.

    What cannot be removed waits for the next time.
    """
    removed, names = 0, await asyncio.to_thread(_names, folder)
    for first in range(0, len(names), BATCH):
        for name in await _not_needed(database, names[first : first + BATCH], host, kept):
            with suppress(OSError):
                await asyncio.to_thread(remove_tree, folder / name)
                removed += 1
    return removed


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.is_dir())


async def _not_needed(database: Database, names: Sequence[str], host: str, kept: timedelta) -> Sequence[str]:
    """A run that has ended is never begun again, and another one has a folder of its own."""
    of_items = select(AgentRun.folder).join(WorkItem, col(WorkItem.id) == col(AgentRun.item_id))
    wanted = of_items.where(col(AgentRun.folder).in_(names), col(AgentRun.host) == host)
    async with database.read() as session:
        return (await session.exec(wanted.where(_long_over(database.clock.now() - kept)))).all()
