"""Plane's limit of 60 requests a minute, kept by all our processes together."""

from datetime import datetime, timedelta

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from quarterdeck.forge.tracker_model import TrackerBudget
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Unavailable

PER_MINUTE = 60
"""Plane's own default (`API_KEY_RATE_LIMIT`)."""
WINDOW = timedelta(seconds=61)
"""A second more than Plane's: requests do not take equally long to arrive."""
LONGEST_REST = timedelta(hours=24)


def room_at(calls: list[datetime], now: datetime, spare: int) -> datetime:
    """When one more request may leave so that `spare` others still could: `now`, or later."""
    recent = sorted(call for call in calls if call > now - WINDOW)
    allowed = PER_MINUTE - spare
    return recent[-allowed] + WINDOW if len(recent) >= allowed else now


class Budget:
    """Gives out requests. One row is the truth, so that desks, runners and commands share it."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    async def take(self, spare: int = 0) -> None:
        """One request. Raises `Unavailable` with `retry_after` (seconds) when there is none now."""
        async with self._database.command("take a tracker request") as unit:
            row = await self._row(unit)
            now = self._database.clock.now()
            free = max(room_at(row.calls, now, spare), row.closed_until or now)
            if free <= now:
                row.calls = [*(call for call in row.calls if call > now - WINDOW), now]
                return
        raise too_many((free - now).total_seconds())

    async def close(self, seconds: float) -> None:
        """The far side wants to be left alone."""
        async with self._database.command("rest a tracker") as unit:
            row = await self._row(unit)
            rest = min(timedelta(seconds=max(seconds, 1)), LONGEST_REST)
            row.closed_until = max(row.closed_until or unit.now, unit.now + rest)

    async def _row(self, unit: Unit) -> TrackerBudget:
        fresh = insert(TrackerBudget).values(name=self._name, calls=[])
        await unit.session.exec(fresh.on_conflict_do_nothing())
        found = select(TrackerBudget).where(col(TrackerBudget.name) == self._name).with_for_update()
        return (await unit.session.exec(found)).one()


def too_many(seconds: float) -> Unavailable:
    """What is raised when a minute is used up."""
    return Unavailable(
        f"Plane's {PER_MINUTE} requests of this minute are used up.",
        "It goes on by itself.",
        code="too_many_requests",
        retry_after=seconds,
        maybe_arrived=False,
    )
