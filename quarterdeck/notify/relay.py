"""The relay: takes messages from the outbox to their channels, each lane in order, with any number of desks.

A lane (one chat) is leased by a row with a fence, not by an advisory lock: a lock would hold one database
connection per chat while a request hangs, and would vanish silently with that connection, whereas a fence
refuses the writes of a desk that slept through its lease. Sending is recorded before the request leaves;
whoever finds a message in that state after its sender died sends it again, marked `possibly_twice`.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from quarterdeck.kernel import crash
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.kernel.journal import Delivery, OutboxMessage
from quarterdeck.notify import rules, store
from quarterdeck.notify.channels import Channel, Failed, Limited, Outcome, Outgoing, Refused, Sent, Window
from quarterdeck.notify.model import Lane, Lease, Round, Sender

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=15)
"""Longer than any `send` (ten seconds) and the recording after it; renewed for every message."""

LANES = 64
"""Chats that one desk sends to at the same time."""

BATCH = 50
"""Messages begun at once where no limit holds them apart."""

LOOK_AGAIN = 0.25
"""Seconds between looks for other chats while a request is under way."""


@dataclass(frozen=True)
class _Turn:
    """One message that may go now."""

    message_id: int
    outgoing: Outgoing
    started: datetime


@dataclass(frozen=True)
class _Answer:
    """What became of a turn, and when that was known."""

    turn: _Turn
    outcome: Outcome
    at: datetime


_Limits = list[tuple[Lane | Sender, tuple[Window, ...]]]


class Relay:
    """Delivers what the outbox holds. `jitter` gives chance as numbers in [0, 1)."""

    def __init__(
        self, database: Database, channels: Mapping[str, Channel], jitter: Callable[[], float]
    ) -> None:
        self._database = database
        self._channels = channels
        self._jitter = jitter
        self._ending = 0

    async def deliver_round(self) -> Round:
        """Send everything that may go now, all chats side by side.

        Returns when no request is under way any more; a chat that hangs holds up no other meanwhile.
        Raises `Unavailable` when the database is down. Cancelled, it begins nothing more and ends when the
        requests that have left are answered and recorded (ten seconds at most); cancelled again, at once.
        """
        under_way: set[asyncio.Task[list[Delivery]]] = set()
        ended: list[Delivery] = []
        try:
            while under_way := under_way | await self._start_lanes(LANES - len(under_way)):
                done, under_way = await asyncio.wait(
                    under_way, timeout=LOOK_AGAIN, return_when=asyncio.FIRST_COMPLETED
                )
                for states in await asyncio.gather(*done):
                    ended += states
        finally:
            self._ending += 1
            try:
                await asyncio.gather(*under_way, return_exceptions=True)
            finally:
                self._ending -= 1
        return await self._summary(ended)

    async def _start_lanes(self, places: int) -> set[asyncio.Task[list[Delivery]]]:
        async with self._database.command("take lanes") as unit:
            await store.open_lanes(unit)
            leases = await store.take_lanes(unit, unit.now + LEASE, places)
        return {asyncio.create_task(self._deliver_lane(lease)) for lease in leases}

    async def _summary(self, ended: list[Delivery]) -> Round:
        async with self._database.read() as session:
            return Round(
                sent=ended.count(Delivery.SENT),
                waiting=await store.waiting(session),
                dead=ended.count(Delivery.DEAD),
                next_at=await store.next_due(session),
            )

    async def _deliver_lane(self, lease: Lease) -> list[Delivery]:
        """Send message after message until the lane is empty or must wait; tells how each ended."""
        ended: list[Delivery] = []
        while turns := await self._begin(lease):
            answers = await self._send(lease, turns)
            ended += await self._record(lease, turns, answers)
        return ended

    async def _send(self, lease: Lease, turns: list[_Turn]) -> list[_Answer]:
        """In order, up to the first that must be tried again."""
        answers: list[_Answer] = []
        for turn in turns:
            crash.point("before sending a message")
            outcome = await self._outcome(lease.channel, turn.outgoing)
            crash.point("after sending a message")
            answers.append(_Answer(turn, outcome, self._database.clock.now()))
            if isinstance(outcome, Limited | Failed):
                break
        return answers

    async def _outcome(self, name: str, outgoing: Outgoing) -> Outcome:
        channel = self._channels.get(name)
        return await channel.send(outgoing) if channel else Refused(f"There is no channel {name!r} here.")

    async def _begin(self, lease: Lease) -> list[_Turn]:
        """Record that the next messages are about to leave; none: the lane is free again."""
        async with self._database.command("begin sending a message") as unit:
            lane = await store.held_lane(unit, lease)
            if lane is None:
                return []
            limited = await self._limited(unit, lane)
            messages = await store.first_waiting(unit, lane.lane, 1 if limited else BATCH)
            for message in messages:
                _mark_if_abandoned(message)
            now = self._database.clock.now()  # not the command's: the locks may have taken their time
            if self._ending or not messages or not _reserve(lane, messages[0], limited, now):
                lane.leased_until = unit.now
                return []
            lane.leased_until = now + LEASE
            return [_begun(message, now) for message in messages]

    async def _limited(self, unit: Unit, lane: Lane) -> _Limits:
        """What has limits: the chat, and the bot that all chats share."""
        channel = self._channels.get(lane.channel)
        if channel is None or not channel.sender_limits:
            return []
        sender = await store.sender(unit, lane.channel)
        return [(lane, channel.chat_limits(lane.chat)), (sender, channel.sender_limits)]

    async def _record(self, lease: Lease, turns: list[_Turn], answers: list[_Answer]) -> list[Delivery]:
        """Keep the outcomes; a database that is away for a moment must not make us send twice."""
        patient = AsyncRetrying(
            retry=retry_if_exception_type(Unavailable),
            stop=stop_after_delay(LEASE),
            wait=wait_fixed(0.2),
            reraise=True,
        )
        states: list[Delivery] = await patient(self._record_once, lease, turns, answers)
        return states

    async def _record_once(self, lease: Lease, turns: list[_Turn], answers: list[_Answer]) -> list[Delivery]:
        states: list[Delivery] = []
        async with self._database.command("record a sent message") as unit:
            lane = await store.held_lane(unit, lease)
            if lane is None:
                return []  # our lease was over, and somebody took the lane
            messages = await store.sending(unit, [turn.message_id for turn in turns])
            for queue, _ in await self._limited(unit, lane):
                queue.sends = _moved(queue.sends, answers[-1])
            for answer in answers:
                if message := messages.pop(answer.turn.message_id, None):
                    _settle(lane, message, answer, self._jitter)
                    states.append(message.state)
            for unsent in messages.values():
                unsent.state, unsent.attempts = Delivery.QUEUED, unsent.attempts - 1
        return states


def _mark_if_abandoned(message: OutboxMessage) -> None:
    """Whoever began to send it died before the outcome was known."""
    if message.state is Delivery.SENDING:
        message.possibly_twice = True
        message.state = Delivery.QUEUED
        log.warning("message_possibly_sent_twice", message=message.id, item=message.item_key)


def _reserve(lane: Lane, message: OutboxMessage, limited: _Limits, now: datetime) -> bool:
    """Take a place within the limits; or note when there will be one."""
    slot = max([lane.resume_at, *(rules.next_slot(windows, queue.sends, now) for queue, windows in limited)])
    if slot > now:
        lane.resume_at = message.not_before = slot
        return False
    for queue, windows in limited:
        queue.sends = [*rules.remembered(windows, queue.sends, now), now]
    return True


def _begun(message: OutboxMessage, now: datetime) -> _Turn:
    message.attempts += 1
    message.state = Delivery.SENDING
    assert message.id is not None
    return _Turn(message.id, Outgoing(message.chat, message.text, message.silent), now)


def _moved(sends: list[datetime], answer: _Answer) -> list[datetime]:
    """A request may arrive as late as its answer: limits count from there, to hold at the far side."""
    kept = list(sends)
    if answer.turn.started in kept:
        kept.remove(answer.turn.started)
    return [*kept, answer.at]


def _settle(lane: Lane, message: OutboxMessage, answer: _Answer, jitter: Callable[[], float]) -> None:
    """Write down what became of a message, and when its lane goes on."""
    message.not_before = None
    lane.failures = lane.failures + 1 if isinstance(answer.outcome, Failed) else 0
    match answer.outcome:
        case Sent(external_id):
            message.state, message.sent_at, message.external_id = Delivery.SENT, answer.at, external_id
            message.reason = ""
        case Refused(reason):
            message.state, message.reason = Delivery.DEAD, reason
            log.warning("message_dead", message=message.id, item=message.item_key, reason=reason)
        case Limited(seconds):
            _postpone(lane, message, answer.at + rules.obeyed(seconds), f"Asked to wait {seconds:g} s.")
        case Failed(reason, maybe_sent):
            message.possibly_twice |= maybe_sent
            _postpone(lane, message, answer.at + rules.pause(lane.failures, jitter()), reason)


def _postpone(lane: Lane, message: OutboxMessage, until: datetime, reason: str) -> None:
    message.state, message.reason, message.not_before = Delivery.QUEUED, reason, until
    lane.resume_at = until
    log.info("message_waits", message=message.id, reason=reason, until=until.isoformat())
