"""What is kept for sources that have no place for it: rounds, and what was said about a piece of work."""

from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from quarterdeck.heartbeat.sources.model import Note
from quarterdeck.heartbeat.work import Found, Ref
from quarterdeck.kernel.database import Database, Unit

MOST_SAID = 50
"""The newest remarks that are kept of one piece of work."""


class Notes:
    """The notes of one source."""

    def __init__(self, database: Database, source: str) -> None:
        self._database = database
        self._source = source

    async def say(self, ref: Ref, text: str) -> None:
        """Keep a remark; the same one twice in a row is one."""
        async with self._database.command("note a remark") as unit:
            row = await self._row(unit, ref)
            if not row.said or row.said[-1]["text"] != text:
                row.said = [*row.said, {"at": unit.now.isoformat(), "text": text}][-MOST_SAID:]
                row.updated_at = unit.now

    async def set_rounds(self, ref: Ref, rounds: int) -> None:
        """Keep the number of rounds in place of the former one."""
        async with self._database.command("note rounds") as unit:
            row = await self._row(unit, ref)
            row.rounds, row.updated_at = rounds, unit.now

    async def said(self, ref: Ref) -> list[str]:
        """The remarks about a piece of work, oldest first."""
        async with self._database.read() as session:
            row = await session.get(Note, (self._source, ref.id))
        return [str(remark["text"]) for remark in row.said] if row else []

    async def rounds(self) -> Mapping[str, int]:
        """The rounds of every piece of work that has some, by its id."""
        async with self._database.read() as session:
            wanted = select(Note).where(col(Note.source) == self._source, col(Note.rounds).is_not(None))
            return {row.work: row.rounds or 0 for row in (await session.exec(wanted)).all()}

    async def added_to(self, found: Found) -> Found:
        """The work with the rounds that are kept for it."""
        async with self._database.read() as session:
            row = await session.get(Note, (self._source, found.ref.id))
        return replace(found, rounds=row.rounds) if row and row.rounds is not None else found

    async def _row(self, unit: Unit, ref: Ref) -> Note:
        fresh = insert(Note).values(source=self._source, work=ref.id, said=[], updated_at=unit.now)
        await unit.session.exec(fresh.on_conflict_do_nothing())
        wanted = select(Note).where(col(Note.source) == self._source, col(Note.work) == ref.id)
        return (await unit.session.exec(wanted.with_for_update())).one()
