"""The queries of what all processes share: what was seen where, when the next call may leave, old notes."""

from collections.abc import Collection
from datetime import datetime
from typing import Protocol

from sqlalchemy import tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.heartbeat.sources.model import Note, Sighting, Turn


class Shared(Protocol):
    """This module answers from PostgreSQL; a rehearsal answers from memory."""

    async def locked_turn(self, session: AsyncSession, door: str, now: datetime) -> Turn: ...

    async def locked_sighting(self, session: AsyncSession, place: str) -> Sighting: ...

    async def sighting(self, session: AsyncSession, place: str) -> Sighting | None: ...


async def locked_turn(session: AsyncSession, door: str, now: datetime) -> Turn:
    """The door's turn, made if it is new; nobody else books one until the transaction ends."""
    fresh = insert(Turn).values(door=door, next_at=now)
    await session.exec(fresh.on_conflict_do_nothing())
    return (await session.exec(select(Turn).where(col(Turn.door) == door).with_for_update())).one()


async def locked_sighting(session: AsyncSession, place: str) -> Sighting:
    """What was seen there, made if it is new; nobody else looks until the transaction ends."""
    fresh = insert(Sighting).values(place=place, found=[], trouble="", detail="")
    await session.exec(fresh.on_conflict_do_nothing())
    locked = select(Sighting).where(col(Sighting.place) == place).with_for_update()
    return (await session.exec(locked)).one()


async def sighting(session: AsyncSession, place: str) -> Sighting | None:
    """What was seen there, for looking."""
    return await session.get(Sighting, place)


async def old_notes(session: AsyncSession, before: datetime) -> list[tuple[str, str]]:
    """Source and work of all notes that were written last before then."""
    statement = select(Note.source, Note.work).where(col(Note.updated_at) < before)
    return list((await session.exec(statement)).all())


async def forget_notes(session: AsyncSession, of: Collection[tuple[str, str]], before: datetime) -> int:
    """Drop these, if nobody wrote any since; how many."""
    is_meant = tuple_(col(Note.source), col(Note.work)).in_(list(of))
    return (await session.exec(delete(Note).where(is_meant, col(Note.updated_at) < before))).rowcount
