"""The inbox: what other programs sent us, kept before it is answered, and worked on afterwards.

A delivery is one row. Whoever sends it twice finds it there already, by its id or by what was signed, and
nothing happens again. Deliveries of one source are worked on in the order in which they came, but one
that takes longer than `HURRY` holds up nobody: the next begins beside it. So the order is likely and not
certain, and a crash repeats what was under way: handlers must bear both.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog

from quarterdeck.kernel import inbox_store as store
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, NotFound, QuarterdeckError, Unavailable
from quarterdeck.kernel.idempotency import Request, earlier_answer, remember
from quarterdeck.kernel.inbox_model import (
    Arrival,
    Delivery,
    Handler,
    Ignored,
    InboxEntry,
    Lease,
    Standing,
)

__all__ = ["Delivery", "Handler", "Ignored", "Inbox", "InboxEntry", "Standing"]

log = structlog.get_logger(__name__)

TOPIC = "inbox"
LEASE = timedelta(seconds=10)
"""How long a delivery waits for one who died over it; renewed while somebody works on it."""
HURRY = timedelta(seconds=2)
"""After this long the next delivery of a source does not wait for the one before."""
PATIENCE = 60.0
"""Seconds that a handler may take for one delivery."""
PLACES = 16
"""Deliveries that one desk works on at the same time."""
LOOK_AGAIN = 0.25
"""Seconds between looks for other deliveries while some are at work."""

LONGEST_PAUSE = timedelta(minutes=5)
TRIES = 300
"""Tries while a part is down: about a day."""
TRIES_OF_BROKEN = 5
"""Tries of what fails in a way that nobody foresaw."""
DEATHS = 3
"""How many may die over a delivery before nobody touches it again."""

BATCH = 100
"""Deliveries kept in one transaction."""
MOST_ARRIVALS = 2_000
"""Deliveries that may wait in memory to be kept; more are asked to come again."""
HOLD = 3.0
"""Seconds for which arrivals are held while the database is away: some senders never try again."""

KEPT = timedelta(days=30)
KNOWN = timedelta(days=400)
"""How long a delivery can be read, and how long it is known by its id."""


def pause(attempts: int) -> timedelta:
    """How long to wait after the given number of tries that failed: 1 s, 2 s, 4 s, ... 5 min."""
    return min(timedelta(seconds=2 ** min(attempts - 1, 20)), LONGEST_PAUSE)


@dataclass(frozen=True)
class _Kept:
    """An arrival that somebody waits for: was it new?"""

    arrival: Arrival
    is_new: asyncio.Future[bool]


class Inbox:
    """Keeps deliveries, hands them out, shows them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._arrivals: deque[_Kept] = deque()
        self._keeping: asyncio.Task[None] | None = None

    # Keeping

    async def accept(
        self,
        source: str,
        delivery_id: str,
        event: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        fingerprint: str = "",
    ) -> bool:
        """Keep a delivery whose sender was checked; False: it is here already, nothing was done.

        `fingerprint` names what was signed; unset = the body itself. When this returns the delivery is on
        disk. Raises `Unavailable` when it could not be kept.
        """
        if len(self._arrivals) >= MOST_ARRIVALS:
            raise Unavailable(
                "Too many deliveries arrive at once.", "Send it again in a moment.", code="busy"
            )
        signed = fingerprint or hashlib.sha256(body).hexdigest()
        arrival = Arrival(source, delivery_id, signed, event, headers, body)
        waiting = _Kept(arrival, asyncio.get_running_loop().create_future())
        self._arrivals.append(waiting)
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep_arrivals())
        return await waiting.is_new

    async def _keep_arrivals(self) -> None:
        """Whatever arrived while the transaction before was written goes into the next, all at once."""
        while self._arrivals:
            batch = [self._arrivals.popleft() for _ in range(min(BATCH, len(self._arrivals)))]
            try:
                fresh = await self._keep([waiting.arrival for waiting in batch])
            except Exception as error:
                for waiting in batch:
                    if not waiting.is_new.done():
                        waiting.is_new.set_exception(error)
                continue
            for waiting in batch:
                if not waiting.is_new.done():
                    waiting.is_new.set_result(waiting.arrival.key in fresh)
                fresh.discard(waiting.arrival.key)

    async def _keep(self, arrivals: list[Arrival]) -> set[tuple[str, str]]:
        """Keep them; when the database is away for a moment, hold them that long."""
        loop = asyncio.get_running_loop()
        end = loop.time() + HOLD
        while True:
            try:
                async with self._database.command("accept deliveries") as unit:
                    fresh = await store.keep(unit, arrivals)
                    if fresh:
                        unit.wake(TOPIC)
                    return fresh
            except Unavailable:
                if loop.time() > end:
                    raise
                await asyncio.sleep(0.2)

    # Working

    async def work_off(self, handlers: Mapping[str, Handler]) -> float | None:
        """Work on everything that is due; seconds until there is something to do again, None = nothing waits.

        Returns when nothing is at work any more. A delivery that hangs holds up no other meanwhile. Raises
        `Unavailable` when the database is down.
        """
        at_work: set[asyncio.Task[None]] = set()
        try:
            while at_work := at_work | await self._begin(handlers, PLACES - len(at_work)):
                done, at_work = await asyncio.wait(
                    at_work, timeout=LOOK_AGAIN, return_when=asyncio.FIRST_COMPLETED
                )
                await asyncio.gather(*done)
        finally:
            for task in at_work:
                task.cancel()
            await asyncio.gather(*at_work, return_exceptions=True)
        async with self._database.read() as session:
            due = await store.next_due(session)
        return None if due is None else (due - self._database.clock.now()).total_seconds()

    async def _begin(self, handlers: Mapping[str, Handler], places: int) -> set[asyncio.Task[None]]:
        async with self._database.read() as session:
            sources = await store.sources_due(session, self._database.clock.now())
        begun = set()
        for source in list(sources)[: max(0, places)]:
            async with self._database.command("take delivery") as unit:
                lease = await _taken(unit, source)
            if lease is not None:
                begun.add(asyncio.create_task(self._work_on(lease, handlers)))
        return begun

    async def _work_on(self, lease: Lease, handlers: Mapping[str, Handler]) -> None:
        """One delivery after the other of one source, as long as it is our turn."""
        going_on: Lease | None = lease
        while going_on is not None:
            async with self._held(going_on):
                settled = await _handled(going_on.delivery, handlers)
            async with self._database.command("settle delivery") as unit:
                entry = await store.held(unit, going_on)
                if entry is not None:
                    _settle(unit, entry, settled)
                    await unit.session.flush()
                going_on = await _taken(unit, lease.delivery.source)

    @asynccontextmanager
    async def _held(self, lease: Lease) -> AsyncIterator[None]:
        """Renew the lease while it is needed; give it back when we are told to stop."""
        renewing = asyncio.create_task(self._renew(lease))
        try:
            yield
        except asyncio.CancelledError:
            await self._give_back(lease)
            raise
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _give_back(self, lease: Lease) -> None:
        with suppress(Unavailable):
            async with self._database.command("give delivery back") as unit:
                if entry := await store.held(unit, lease):
                    entry.leased_at = entry.leased_until = None
                    entry.attempts -= 1

    async def _renew(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 3)
            with suppress(Unavailable):
                async with self._database.command("renew lease") as unit:
                    entry = await store.held(unit, lease)
                    if entry is None:
                        return
                    entry.leased_until = unit.now + LEASE

    # Looking

    async def show(self, number: int) -> InboxEntry:
        """One delivery. Raises `NotFound`."""
        async with self._database.read() as session:
            return _found(await store.entry(session, number), number)

    async def entries(
        self, source: str | None, state: Standing | None, before: int, limit: int
    ) -> list[InboxEntry]:
        """Newest first, with numbers below `before`."""
        async with self._database.read() as session:
            return list(await store.entries(session, source, state, before, limit))

    async def replay(self, number: int, asked: Request | None = None) -> InboxEntry:
        """Have a settled delivery worked on again, once for each request.

        Raises `NotFound`; `Conflict` when it cannot be.
        """
        async with self._database.command("replay delivery") as unit:
            entry = _found(await store.entry(unit.session, number, for_update=True), number)
            if asked and await earlier_answer(unit, asked) is not None:
                return entry
            if entry.body is None:
                raise Conflict(
                    f"The content of delivery {number} is forgotten: it is older than {KEPT.days} days.",
                    "Send the same again from the system that it came from.",
                    code="delivery_forgotten",
                )
            if entry.state is not Standing.WAITING:
                entry.state, entry.outcome, entry.finished_at = Standing.WAITING, "", None
                entry.attempts = entry.deaths = 0
                entry.replays += 1
            entry.not_before = unit.now
            unit.wake(TOPIC)
            if asked:
                await remember(unit, asked, {"delivery": number})
            return entry

    async def forget_old(self, limit: int = 1_000) -> int:
        """Drop the content of old deliveries, and the oldest altogether; how many were touched."""
        touched = 0
        while True:
            async with self._database.command("forget deliveries") as unit:
                count = await store.forget(unit, unit.now - KNOWN, limit)
                count += await store.forget_bodies(unit, unit.now - KEPT, limit)
            touched += count
            if count < limit:
                return touched


async def _taken(unit: Unit, source: str) -> Lease | None:
    """The next delivery of a source, unless somebody is at it; those that killed too many are given up."""
    while entry := await store.take(unit, source, LEASE, HURRY):
        if entry.deaths < DEATHS:
            return Lease(store.delivery_of(entry), entry.fence)
        _end(unit, entry, Standing.FAILED, f"{entry.deaths} processes died while they worked on it.")
        await unit.session.flush()
    return None


@dataclass(frozen=True)
class _Settled:
    """How a try ended. `tries` more than 0: it may be tried again, that often in all."""

    state: Standing
    outcome: str
    tries: int = 0


async def _handled(delivery: Delivery, handlers: Mapping[str, Handler]) -> _Settled:
    handler = handlers.get(delivery.source)
    if handler is None:
        return _Settled(Standing.IGNORED, f"Nothing here works on deliveries of {delivery.source}.")
    try:
        async with asyncio.timeout(PATIENCE):
            outcome = await handler(delivery)
    except (Unavailable, TimeoutError) as error:
        said = str(error) or f"It took longer than {PATIENCE:g} s."
        return _Settled(Standing.FAILED, said, TRIES)
    except QuarterdeckError as error:
        return _Settled(Standing.FAILED, str(error))
    except Exception as error:
        log.exception("delivery_broke", delivery=delivery.id, source=delivery.source, sent=delivery.event)
        return _Settled(Standing.FAILED, f"Something unexpected: {type(error).__name__}.", TRIES_OF_BROKEN)
    return _Settled(Standing.IGNORED if isinstance(outcome, Ignored) else Standing.DONE, str(outcome))


def _settle(unit: Unit, entry: InboxEntry, settled: _Settled) -> None:
    """Write down how a try ended, and when there will be another."""
    if entry.attempts < settled.tries:
        entry.leased_at = entry.leased_until = None
        entry.outcome, entry.not_before = settled.outcome, unit.now + pause(entry.attempts)
        log.info("delivery_waits", delivery=entry.id, source=entry.source, reason=settled.outcome)
    else:
        _end(unit, entry, settled.state, settled.outcome)


def _end(unit: Unit, entry: InboxEntry, state: Standing, outcome: str) -> None:
    entry.leased_at = entry.leased_until = None
    entry.state, entry.outcome, entry.finished_at = state, outcome, unit.now
    if state is Standing.FAILED:
        log.warning("delivery_failed", delivery=entry.id, source=entry.source, reason=outcome)


def _found(entry: InboxEntry | None, number: int) -> InboxEntry:
    if entry is None:
        what = "`quarterdeck webhook list` shows them."
        raise NotFound(f"There is no delivery {number}.", what, code="unknown_delivery")
    return entry
