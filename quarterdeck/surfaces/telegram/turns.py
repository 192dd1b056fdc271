"""Turns: what was taken in and is answered outside of its delivery, so that no slow agent holds up a bot.

A turn is a row before its delivery is acknowledged, and done in the transaction that queues its answer: a
process that dies in between takes it up again, and what it said already is not said twice.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select, update

from quarterdeck.kernel.database import Database, Unit
from quarterdeck.surfaces.model import SurfaceTurn, TurnState

KEPT = timedelta(days=3)
"""How long a turn that is done is known: longer than any messenger tells an event again."""


class Turns:
    """The turns of one surface."""

    def __init__(self, database: Database, surface: str) -> None:
        self._database = database
        self._surface = surface

    async def take(self, event_id: str, payload: Mapping[str, Any]) -> bool:
        """Note an event; False when it was answered before. One that is open may be taken again."""
        async with self._database.command("take a turn") as unit:
            row = {
                "surface": self._surface,
                "event_id": event_id,
                "state": TurnState.OPEN,
                "payload": dict(payload),
                "created_at": unit.now,
            }
            await unit.session.exec(insert(SurfaceTurn).values(row).on_conflict_do_nothing())
            wanted = select(SurfaceTurn.state).where(col(SurfaceTurn.event_id) == event_id)
            return (await unit.session.exec(wanted)).one() is TurnState.OPEN

    async def finish(self, unit: Unit, event_ids: list[str]) -> bool:
        """The events are answered by this command; False when somebody else did it already."""
        done = (
            update(SurfaceTurn)
            .where(col(SurfaceTurn.event_id).in_(event_ids), col(SurfaceTurn.state) == TurnState.OPEN)
            .values(state=TurnState.DONE, payload={}, done_at=unit.now)
            .returning(col(SurfaceTurn.id))
        )
        return bool((await unit.session.exec(done)).all())

    async def open(self, agent_id: str) -> list[dict[str, Any]]:
        """What an agent's bot is still to answer, in the order in which it came."""
        wanted = (
            select(SurfaceTurn)
            .where(col(SurfaceTurn.surface) == self._surface, col(SurfaceTurn.state) == TurnState.OPEN)
            .where(col(SurfaceTurn.payload)["agent_id"].as_string() == agent_id)
            .order_by(col(SurfaceTurn.id))
        )
        async with self._database.read() as session:
            return [dict(row.payload) for row in (await session.exec(wanted)).all()]

    async def are_open(self, event_ids: list[str]) -> bool:
        """Whether one of these events is still to be answered."""
        named = col(SurfaceTurn.event_id).in_(event_ids), col(SurfaceTurn.state) == TurnState.OPEN
        async with self._database.read() as session:
            return (await session.exec(select(SurfaceTurn.id).where(*named).limit(1))).first() is not None

    async def forget_old(self) -> None:
        """Drop what was done long ago."""
        async with self._database.command("forget old turns") as unit:
            old = col(SurfaceTurn.done_at) < unit.now - KEPT
            await unit.session.exec(delete(SurfaceTurn).where(old))
