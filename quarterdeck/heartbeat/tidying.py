"""What is remembered of work that vanished: deleted or closed in its source, or of an agent that left.

Rows of work grow with all that was ever found. One is dropped when no source lists any of its places, and
nobody touched it for `store.WORK_KEPT`; what it says of a place that cannot be looked into now is kept.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence

import structlog

from quarterdeck.heartbeat import store
from quarterdeck.heartbeat.roster import Heartbeat
from quarterdeck.heartbeat.sources import store as notebook
from quarterdeck.heartbeat.work import Answer, Source, Watched
from quarterdeck.kernel.database import Database

log = structlog.get_logger(__name__)

AT_ONCE = 1_000
LOOKING = 60.0
"""Seconds that one source has to answer; a slow one is looked into at the next time."""


async def forget_vanished(database: Database, sources: Sequence[Source], beats: Iterable[Heartbeat]) -> int:
    """Drop such rows, and the notes that are kept for sources; how much work was forgotten."""
    before = database.clock.now() - store.WORK_KEPT
    async with database.read() as session:
        rows = await store.work_at_rest(session, before)
        notes = await notebook.old_notes(session, before)
    if not rows and not notes:
        return 0
    watched = [beat.watched for beat in beats]
    answers = await asyncio.gather(*(_looked(source, watched) for source in sources))
    seen = [answer for answer in answers if answer is not None]
    dropped = 0
    for some in _apart(vanished(rows, seen, sources)):
        async with database.command("forget vanished work") as unit:
            dropped += await store.forget_work(unit.session, some, before)
    for some in _apart(vanished([(note, frozenset([note])) for note in notes], seen, sources)):
        async with database.command("forget notes of vanished work") as unit:
            await notebook.forget_notes(unit.session, some, before)
    return dropped


def _apart(names: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    return (names[first : first + AT_ONCE] for first in range(0, len(names), AT_ONCE))


async def _looked(source: Source, watched: Sequence[Watched]) -> Answer | None:
    try:
        return await asyncio.wait_for(source.look(watched), LOOKING)
    except Exception as error:  # it cannot be looked into now
        log.warning("source_not_seen", source=source.name, reason=type(error).__name__)
        return None


def vanished(
    rows: Iterable[store.Places], answers: Sequence[Answer], sources: Sequence[Source]
) -> list[tuple[str, str]]:
    """The rows of which every place could be looked for, and none was there."""
    seen = {answer.source: answer for answer in answers if answer.trouble is None and not answer.is_cached}
    hidden = {source.name for source in sources} - set(seen)
    listed = {(f.ref.source, f.ref.id) for a in seen.values() for f in (*a.found, *a.strange)}
    return [
        name
        for name, places in rows
        if listed.isdisjoint(places) and hidden.isdisjoint(source for source, _ in places)
    ]
