"""One look for all: agents and processes share what was seen in a place, and calls through a door keep apart.

Whoever needs a fresh look first does it; all others, in this process and in others, take what it saw
(`Sighting`). When the place cannot be looked into, what was seen before is told with its trouble, marked as
cached: good for reading, never a reason to touch any work. Calls that go out through one door (one program,
one server) keep `apart` seconds between them (`Turn`), over all processes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import TypeAdapter

from quarterdeck.heartbeat.sources import store
from quarterdeck.heartbeat.sources.model import Sighting
from quarterdeck.heartbeat.sources.store import Shared
from quarterdeck.heartbeat.sources.trouble import trouble_of, unavailable
from quarterdeck.heartbeat.work import Answer, Found, Trouble, Watched
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import QuarterdeckError

FRESH = timedelta(seconds=60)
"""How long a look serves everybody."""
KEPT = timedelta(minutes=15)
"""How long what was seen before may stand in for a look that failed."""
LOOKING = timedelta(seconds=120)
"""Who looks for longer than this has died: somebody else may look."""
GLANCE_OFF = timedelta(0)
"""No glance is shared: each one looks."""
LOOKS_APART = 10
"""How many times as long as it took a look is believed, at most as long as one that is shared by all."""
PAUSE = 0.2
"""Seconds between two looks whether somebody else has looked by now."""
MOST_WAIT = 120.0

PERSON = "person:"
"""So begins a source's name of somebody who is no agent."""

Sleep = Callable[[float], Awaitable[None]]

_FOUND: TypeAdapter[tuple[Found, ...]] = TypeAdapter(tuple[Found, ...])


@dataclass(frozen=True)
class Look:
    """What one look saw. `Found.agent` is still the source's own name of its assignee.

    With a `trouble` it may be short of something; `detail` also tells what people should know of a good one.
    """

    found: tuple[Found, ...] = ()
    trouble: Trouble | None = None
    detail: str = ""


@dataclass(frozen=True)
class Seen:
    """A look, and when it was; `is_cached`: an older one that stands in for one that failed."""

    look: Look
    at: datetime
    is_cached: bool = False


class Turns:
    """Keeps calls through a door apart."""

    def __init__(
        self,
        database: Database,
        door: str,
        apart: timedelta,
        shared: Shared = store,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._database = database
        self._sleep = sleep
        self._rows = shared
        self.door = door
        self._apart = apart

    async def take(self) -> None:
        """Wait until the next call may leave. Raises `Unavailable` when that is too far away."""
        if not self._apart:
            return
        async with self._database.command("take a turn") as unit:
            at = await self._booked(unit)
            wait = (at - unit.now).total_seconds()
        await self._sleep(max(wait, 0))

    async def _booked(self, unit: Unit) -> datetime:
        row = await self._rows.locked_turn(unit.session, self.door, unit.now)
        now = self._database.clock.now()
        at = max(row.next_at, now)
        if (at - now).total_seconds() > MOST_WAIT:
            raise unavailable(Trouble.TIMED_OUT, f"Too many calls wait for {self.door}.")
        row.next_at = at + self._apart
        return at


class Polling:
    """The shared look into one place. `place` names it for everybody who sees the same there."""

    def __init__(
        self,
        database: Database,
        place: str,
        *,
        fresh: timedelta = FRESH,
        kept: timedelta = KEPT,
        pause: float = PAUSE,
        shared: Shared = store,
    ) -> None:
        self._database = database
        self._rows = shared
        self.place = place
        self._fresh, self._kept, self._pause = fresh, kept, pause
        self._mine: Seen | None = None
        self._told: tuple[Seen, tuple[Watched, ...], Answer] | None = None
        self._alone = asyncio.Lock()

    async def answer(
        self,
        source: str,
        agents: Sequence[Watched],
        ask: Callable[[], Awaitable[Look]],
        names: dict[str, str],
    ) -> Answer:
        """What the place holds for these agents, for nobody, and for strangers.

        `names`: slugs by the source's own names.

        Never raises for what is wrong outside.
        """
        seen = await self.look(ask)
        watched = tuple(agents)
        if self._told and self._told[0] is seen and self._told[1] == watched:
            return self._told[2]
        found = tuple(replace(f, agent=names.get(f.agent) if f.agent else None)
                      for f in seen.look.found if not f.agent or f.agent in names)  # fmt: skip
        strange = tuple(f for f in seen.look.found if is_strange(f.agent, names))
        look = seen.look
        told = Answer(source, seen.at, found, look.trouble, look.detail, seen.is_cached, strange)
        self._told = (seen, watched, told)
        return told

    async def look(self, ask: Callable[[], Awaitable[Look]]) -> Seen:
        """A look that is fresh, done by whoever is first."""
        if (seen := self._fresh_of_mine()) is not None:
            return seen
        async with self._alone:
            if (seen := self._fresh_of_mine()) is not None:
                return seen
            try:
                self._mine = await self._shared(ask)
            except QuarterdeckError as error:  # our own database: nothing can be shared
                failed = Look((), trouble_of(error), error.detail)
                return Seen(failed, self._database.clock.now())
            return self._mine

    async def before(self) -> tuple[Found, ...]:
        """What the last look that succeeded saw, of whomever and however old."""
        async with self._database.read() as session:
            row = await self._rows.sighting(session, self.place)
        return _FOUND.validate_python(row.found) if row else ()

    def forget(self) -> None:
        """What this process saw is out of date: it has just changed something there."""
        self._mine = None

    async def invalidate(self) -> None:
        """Nobody may go on with what was seen: something was changed there."""
        self.forget()
        async with self._database.command("forget a sighting") as unit:
            (await self._row(unit)).looked_at = None

    async def age(self) -> timedelta | None:
        """How long ago the last look was that succeeded; `None` = there is none."""
        async with self._database.read() as session:
            row = await self._rows.sighting(session, self.place)
        return self._database.clock.now() - row.seen_at if row and row.seen_at else None

    def _fresh_of_mine(self) -> Seen | None:
        now, seen = self._database.clock.now(), self._mine
        return seen if seen and timedelta(0) <= now - seen.at < self._fresh and not seen.is_cached else None

    async def _shared(self, ask: Callable[[], Awaitable[Look]]) -> Seen:
        """Wait for the look of another, or do it."""
        while True:
            async with self._database.command("share a sighting") as unit:
                row = await self._row(unit)
                if (seen := self._usable(row)) is not None:
                    return seen
                if row.looking_until is None or row.looking_until <= unit.now:
                    row.looking_until = unit.now + LOOKING
                    break
            await asyncio.sleep(self._pause)
        return await self._look(ask)

    async def _look(self, ask: Callable[[], Awaitable[Look]]) -> Seen:
        try:
            look = await ask()
        except QuarterdeckError as error:
            look = Look((), trouble_of(error), str(error))
        except BaseException:
            await asyncio.shield(self._stop_looking())
            raise
        return await self._keep(look)

    async def _stop_looking(self) -> None:
        async with self._database.command("stop looking") as unit:
            (await self._row(unit)).looking_until = None

    async def _keep(self, look: Look) -> Seen:
        async with self._database.command("keep a sighting") as unit:
            row = await self._row(unit)
            row.looking_until, row.looked_at = None, unit.now
            row.trouble = look.trouble.value if look.trouble else ""
            row.detail = look.detail
            if look.trouble is None or look.found:
                row.found = _FOUND.dump_python(look.found, mode="json")
                row.seen_at = unit.now
            return self._usable(row) or Seen(look, unit.now)

    def _usable(self, row: Sighting) -> Seen | None:
        """What a row tells while it is fresh: the look itself, or an older one in its place."""
        now = self._database.clock.now()
        if row.looked_at is None or not timedelta(0) <= now - row.looked_at < self._fresh:
            return None
        trouble = Trouble(row.trouble) if row.trouble else None
        if row.seen_at == row.looked_at:
            return Seen(Look(_FOUND.validate_python(row.found), trouble, row.detail), row.looked_at)
        if row.seen_at is not None and now - row.seen_at < self._kept:
            return Seen(Look(_FOUND.validate_python(row.found), trouble, row.detail), row.seen_at, True)
        return Seen(Look((), trouble, row.detail), row.looked_at)

    async def _row(self, unit: Unit) -> Sighting:
        return await self._rows.locked_sighting(unit.session, self.place)


def is_strange(agent: str | None, names: Collection[str]) -> bool:
    """Whether nobody sweeps whoever has it. What people have is their own."""
    return bool(agent) and agent not in names and not str(agent).startswith(PERSON)


class Glance:
    """A look that costs nothing to others, shared within this process for a few seconds only.

    Where a look takes long it is believed for longer, so that looking never takes most of the time.
    """

    def __init__(self, database: Database, fresh: timedelta) -> None:
        self._clock = database.clock
        self._fresh = fresh
        self._last: tuple[tuple[Watched, ...], Answer, datetime] | None = None
        self._alone = asyncio.Lock()
        self._forgotten = 0

    async def answer(
        self, agents: Sequence[Watched], look: Callable[[Sequence[Watched]], Awaitable[Answer]]
    ) -> Answer:
        watched = tuple(agents)
        if (kept := self._kept(watched)) is not None:
            return kept
        async with self._alone:  # who comes meanwhile takes what the first one sees
            if (kept := self._kept(watched)) is not None:
                return kept
            forgotten = self._forgotten
            answer = await look(agents)
            if forgotten == self._forgotten:
                self._last = (watched, answer, self._until(answer))
            return answer

    def _kept(self, watched: tuple[Watched, ...]) -> Answer | None:
        if self._last is None or self._last[0] != watched:
            return None
        _, answer, until = self._last
        return answer if answer.at <= self._clock.now() < until else None

    def _until(self, answer: Answer) -> datetime:
        took = self._clock.now() - answer.at
        return answer.at + max(self._fresh, min(LOOKS_APART * took, FRESH))

    def forget(self) -> None:
        """Something was changed there."""
        self._last = None
        self._forgotten += 1
