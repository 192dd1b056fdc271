"""What the listener writes, many at once: updates, begun and ended sendings, how far was told."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from quarterdeck.kernel.bell import rung
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.telegram import store
from quarterdeck.telegram.batches import Batches
from quarterdeck.telegram.model import Lease, StoredSend
from quarterdeck.telegram.rules import (
    Answer,
    Done,
    Failed,
    GivenUp,
    Limited,
    Refused,
    obeyed,
    storable,
)
from quarterdeck.telegram.wire import UPDATE, SendState, Update

log = structlog.get_logger(__name__)

Arrival = tuple[Lease, Sequence[Update]]
Beginning = tuple[Lease, int, str]
"""A message of this number is said in this chat."""
Kept = Callable[[Lease, int, Update], None]
Told = tuple[str, str, int]
"""Consumer, agent and chat."""

UPDATES_AT_ONCE = 100
"""Updates in one transaction: as many as one poll brings at most."""

PACE = 0.01
"""Seconds from one transaction to the next of the same kind: at 200 updates a second they share them."""

TOLD_PACE = 0.2
"""The same for the places of consumers, for which nobody waits."""


@dataclass(frozen=True)
class Outcome:
    """What became of one request of a message; `is_last`: it was its last part."""

    number: int
    answer: Answer
    is_last: bool
    wait: timedelta = timedelta()


class Writer:
    """`kept` is called for every new update once it is stored; without `nats` that publishes it."""

    def __init__(self, database: Database, kept: Kept, *, nats: bool) -> None:
        self._database = database
        self._kept = kept
        self._nats = nats
        self._updates = Batches[Arrival, bool](self._keep, most=UPDATES_AT_ONCE, pace=PACE)
        self._begun = Batches[Beginning, bool](self._begin, pace=PACE)
        self._ended = Batches[Outcome, StoredSend | None](self._end, pace=PACE)
        self._told: dict[Told, int] = {}
        self._moving: dict[Told, int] = {}
        self._telling: asyncio.Task[None] | None = None
        self._is_closing = asyncio.Event()

    async def keep(self, lease: Lease, updates: Sequence[Update]) -> bool:
        """Store updates; False: somebody else has the bot."""
        return await self._updates.add(lease.agent_id, (lease, updates), len(updates))

    async def begin(self, lease: Lease, number: int, chat: str) -> bool:
        """A request of a message is about to leave; False: it is not ours any more, or in another chat."""
        return await self._begun.add(lease.agent_id, (lease, number, chat))

    async def end(self, lease: Lease, outcome: Outcome) -> StoredSend | None:
        """Record what became of it; the message as it stands now."""
        return await self._ended.add(lease.agent_id, outcome)

    def tell(self, place: Told, number: int) -> None:
        """A consumer was told: written soon, and nobody waits for it. After a crash it is told again."""
        self._told[place] = number
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._move_told())

    def told(self, place: Told) -> int:
        """The last update that a consumer was told of and that is not written yet; 0 = none."""
        return self._told.get(place) or self._moving.get(place, 0)

    async def close(self) -> None:
        """Wait until everything is written."""
        for batches in (self._updates, self._begun, self._ended):
            await batches.close()
        if self._telling is not None:
            self._is_closing.set()
            await self._telling

    async def _keep(self, arrivals: Sequence[Arrival]) -> list[bool]:
        fences = {lease.agent_id: lease.fence for lease, _ in arrivals}
        flat = [(lease, update) for lease, updates in arrivals for update in updates]
        async with self._database.command("store updates") as unit:
            ours, kept = await store.keep_updates(
                unit, fences, [update for _, update in flat], None if self._nats else unit.now
            )
            if not self._nats:
                for event_id in kept:
                    unit.wake(UPDATE, event_id)
        for lease, update in flat:
            if update.event_id in kept:
                self._kept(lease, kept[update.event_id], update)
        return [lease.agent_id in ours for lease, _ in arrivals]

    async def _begin(self, sends: Sequence[Beginning]) -> list[bool]:
        async with self._database.command("begin sends") as unit:
            ours = await store.begin_sends(unit, sends)
        return [number in ours for _, number, _ in sends]

    async def _end(self, outcomes: Sequence[Outcome]) -> list[StoredSend | None]:
        async with self._database.command("record sends") as unit:
            rows = await store.recorded(unit, [outcome.number for outcome in outcomes])
            for outcome in outcomes:
                if row := rows.get(outcome.number):
                    _settle(row, outcome, unit.now)
                    _tell(unit, row, outcome)
        return [rows.get(outcome.number) for outcome in outcomes]

    async def _move_told(self) -> None:
        """Until there is nothing to write; while the database is away it stays in memory."""
        while self._told:
            await rung(self._is_closing, TOLD_PACE)
            self._moving, self._told = self._told, {}
            try:
                async with self._database.command("move cursors") as unit:
                    await store.move_told(unit, self._moving)
            except Unavailable as error:
                log.warning("cursors_wait", reason=error.detail)
                self._told = self._moving | self._told
                if self._is_closing.is_set():
                    return
            self._moving = {}


def _settle(row: StoredSend, outcome: Outcome, now: datetime) -> None:
    """Write down what became of a request."""
    row.begun, row.not_before = False, None
    match outcome.answer:
        case Done(result):
            number = result.get("message_id") if isinstance(result, dict) else None
            row.message_ids = [*row.message_ids, int(number or 0)]
            row.reason = ""
            if outcome.is_last:
                row.state = SendState.MAYBE_SENT if row.possibly_twice else SendState.SENT
                row.finished_at = now
        case Refused(_, description):
            row.state, row.reason, row.finished_at = SendState.REFUSED, storable(description), now
        case Limited(seconds):
            row.not_before = now + obeyed(seconds)
            row.reason = f"Telegram asked to wait {seconds:g} s."
        case Failed(reason, maybe_arrived):
            row.possibly_twice |= maybe_arrived
            row.reason, row.not_before = storable(reason), now + outcome.wait


def _tell(unit: Unit, row: StoredSend, outcome: Outcome) -> None:
    """Tell people of what was given up, unless whoever queued it does: that would be told for ever."""
    if isinstance(outcome.answer, GivenUp) and not row.content.get("is_followed"):
        said = f"What {row.agent_id} says in Telegram (chat {row.chat}) was given up: {row.reason}"
        unit.record("error", reason=said, agent=row.agent_id)
