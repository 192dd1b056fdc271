"""The relay: hands what the outbox holds to its channels, in order, with any number of desks.

Handing over and recording it are one transaction: a message is in the channel's queue exactly once,
whenever a desk dies. What becomes of it there is asked for and written down. One desk at a time hands over
(a lock of a few milliseconds), so that two desks cannot change the order of a chat.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta

import structlog

from quarterdeck.kernel import crash
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.journal import Delivery, OutboxMessage
from quarterdeck.notify import store
from quarterdeck.notify.channels import Channel, Choice, Outgoing, Refused, Sent, Taken, Waits
from quarterdeck.notify.model import Round

log = structlog.get_logger(__name__)

BATCH = 500
"""Messages that are handed over, or asked after, in one transaction."""

ASK_AGAIN = timedelta(seconds=1)
"""How long after a round that left something under way the next one is due."""

TRY_AGAIN = timedelta(seconds=5)
"""The same, where a channel takes nothing for now."""


class Relay:
    """Delivers what the outbox holds."""

    def __init__(self, database: Database, channels: Mapping[str, Channel]) -> None:
        self._database = database
        self._channels = channels

    async def deliver_round(self) -> Round:
        """Write down what became of messages that channels have, and hand over all others.

        Raises `Unavailable` when the database is down. Cancelled, nothing is left half done.
        """
        ended = Counter[Delivery]()
        for name, channel in self._channels.items():
            ended += await self._collect(name, channel)
        after, held = 0, set[str]()
        while (batch := await self._hand_over(after, held)) is not None:
            after, states = batch
            ended += states
        return await self._summary(ended)

    async def _collect(self, name: str, channel: Channel) -> Counter[Delivery]:
        """Ask a channel what became of its messages."""
        ended, after = Counter[Delivery](), 0
        while True:
            async with self._database.read() as session:
                receipts = await store.under_way(session, name, after, BATCH)
            if not receipts:
                return ended
            after = max(receipts)
            if known := await channel.outcomes(list(receipts.values())):
                ended += await self._record([n for n, receipt in receipts.items() if receipt in known], known)

    async def _record(
        self, numbers: Sequence[int], known: Mapping[str, Sent | Refused | Waits]
    ) -> Counter[Delivery]:
        async with self._database.command("record sent messages") as unit:
            messages = await store.sending(unit, numbers)
            for message in messages:
                if outcome := known.get(message.external_id):  # else it was sent again meanwhile
                    _settle(unit, message, outcome)
        return Counter(message.state for message in messages)

    async def _hand_over(self, after: int, held: set[str]) -> tuple[int, Counter[Delivery]] | None:
        """Hand over the next messages; the last of them, and how they ended. None: there are none.

        Lanes in which one cannot be taken now are added to `held`: what comes after it must wait, too.
        """
        async with self._database.command("hand over messages") as unit:
            await store.only_one_relay(unit)
            messages = await store.queued(unit, after, BATCH)
            if not messages:
                return None
            originals = await store.originals(unit.session, messages)
            for message in messages:
                if message.lane not in held and await self._pass_on(unit, message, originals):
                    held.add(message.lane)
            crash.point("before handing over messages")
        crash.point("after handing over messages")
        return _last(messages), Counter(message.state for message in messages)

    async def _pass_on(
        self, unit: Unit, message: OutboxMessage, originals: Mapping[int, OutboxMessage]
    ) -> bool:
        """Hand one over; True: its channel cannot take it now."""
        channel = self._channels.get(message.channel)
        replaces = _name_of(message, originals)
        if replaces is None:
            return False
        outcome: Taken | Sent | Refused | Waits
        if channel is None:
            outcome = Refused(f"There is no channel {message.channel!r} here.")
        elif message.replaces and not replaces:
            outcome = Refused("What it should replace was never delivered.")
        else:
            outcome = await channel.take(unit, _outgoing(message, replaces))
        _settle(unit, message, outcome)
        return isinstance(outcome, Waits)

    async def _summary(self, ended: Counter[Delivery]) -> Round:
        async with self._database.read() as session:
            queued, under_way = await store.waiting(session)
        wait = ASK_AGAIN if under_way else TRY_AGAIN
        return Round(
            sent=ended[Delivery.SENT],
            waiting=queued + under_way,
            dead=ended[Delivery.DEAD],
            next_at=self._database.clock.now() + wait if queued + under_way else None,
        )


def _last(messages: Sequence[OutboxMessage]) -> int:
    number = messages[-1].id
    assert number is not None
    return number


def _name_of(message: OutboxMessage, originals: Mapping[int, OutboxMessage]) -> str | None:
    """The far side's name of the message to be replaced, empty = there is none; None: not known yet."""
    if message.replaces is None:
        return ""
    original = originals.get(message.replaces)
    if original is None or original.state in (Delivery.DEAD, Delivery.DISMISSED):
        return ""
    return original.external_id if original.state is Delivery.SENT else None


def _outgoing(message: OutboxMessage, replaces: str) -> Outgoing:
    choices = tuple(Choice(one["text"], one["data"]) for one in message.choices)
    key = f"outbox:{message.id}:{message.attempts}"
    return Outgoing(key, message.chat, message.text, message.silent, choices, replaces)


def _settle(unit: Unit, message: OutboxMessage, outcome: Taken | Sent | Refused | Waits) -> None:
    """Write down where a message stands now."""
    match outcome:
        case Taken(receipt):
            message.state, message.external_id, message.reason = Delivery.SENDING, receipt, ""
            message.attempts += 1
        case Sent(external_id, twice):
            message.state, message.sent_at, message.external_id = Delivery.SENT, unit.now, external_id
            message.possibly_twice |= twice and message.replaces is None  # rewritten twice is rewritten
            message.reason = ""
        case Refused(reason):
            message.state, message.reason = Delivery.DEAD, reason
            log.warning("message_dead", message=message.id, item=message.item_key, reason=reason)
        case Waits(reason) if reason != message.reason:
            message.reason = reason
            log.info("message_waits", message=message.id, reason=reason)
