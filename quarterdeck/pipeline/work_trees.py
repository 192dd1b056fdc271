"""Work trees of finished items go after a while: each is a whole checkout, and made anew when needed."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from sqlmodel import col, select

from quarterdeck.board.model import FINAL, WorkItem
from quarterdeck.forge.folders import remove_tree
from quarterdeck.kernel.database import Database

KEPT = timedelta(days=14)
"""How long people can still look at what an agent left there."""

_ASIDE = ".gone"


async def clear(database: Database, folder: Path) -> int:
    """Remove those in this folder whose items were finished `KEPT` ago; how many. Safe at any moment.

    What cannot be removed waits for the next time.
    """
    removed = 0
    for name in await asyncio.to_thread(_names, folder):
        aside = folder / f".{name}{_ASIDE}"
        with suppress(OSError):
            await asyncio.to_thread(remove_tree, aside)  # of a process that died in the middle
            if await _set_aside(database, folder / name, aside):
                await asyncio.to_thread(remove_tree, aside)
                removed += 1
    return removed


def _names(folder: Path) -> list[str]:
    """Of the items that have a work tree here, or whose tree was set aside."""
    found = {path.name.removeprefix(".").removesuffix(_ASIDE) for path in folder.glob("*") if path.is_dir()}
    return sorted(found)


async def _set_aside(database: Database, tree: Path, aside: Path) -> bool:
    """Under the item's lock: without it nobody can take the item up again, and so nobody its tree."""
    async with database.read() as session:
        before = database.clock.now() - KEPT
        long_finished = (
            select(WorkItem.id)
            .where(col(WorkItem.key) == tree.name, col(WorkItem.state).in_(FINAL))
            .where(col(WorkItem.finished_at) < before)
            .with_for_update()
        )
        if (await session.exec(long_finished)).first() is None:
            return False
        await asyncio.to_thread(tree.rename, aside)
        return True
