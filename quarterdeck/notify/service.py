"""What the notify room can do: turn events into messages, deliver them, and show what became of them."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.kernel.journal import Delivery, Event, OutboxMessage
from quarterdeck.kernel.paging import Page, bad_cursor, cursor, place
from quarterdeck.kernel.settings import Settings
from quarterdeck.notify import rules, store
from quarterdeck.notify.channels import Channel, Connections, Outcome, Outgoing, Refused, Sent
from quarterdeck.notify.channels.log import LogChannel
from quarterdeck.notify.channels.telegram import TelegramChannel
from quarterdeck.notify.links import Links
from quarterdeck.notify.markup import plain
from quarterdeck.notify.model import Letter, Round, Subscription, Trial
from quarterdeck.notify.relay import Relay
from quarterdeck.notify.roster import read_subscriptions
from quarterdeck.notify.texts import TOLD, catalogue, render

OUTBOX = "outbox"
"""The topic that wakes whoever delivers."""


class Notify:
    """The room. `connections` is where channels find their address and secrets."""

    def __init__(
        self,
        database: Database,
        connections: Connections,
        settings: Settings,
        *,
        channels: Iterable[Channel] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        known = channels if channels is not None else (LogChannel(), TelegramChannel(connections))
        self.channels: dict[str, Channel] = {channel.name: channel for channel in known}
        self._database = database
        self._language = settings.language
        self._links = Links.of(settings)
        self._relay = Relay(database, self.channels, jitter)

    # Into the outbox

    async def react(self, unit: Unit, event: Event) -> None:
        """Add the messages of an event to the transaction that recorded it."""
        addresses = await self._addresses(unit, event)
        if not addresses:
            return
        words = catalogue(self._language)
        text = render(self._language, event.kind, event.item_key, event.run_id, event.data)
        text = self._links.append(words, text, event.item_key, event.data)
        for (channel, chat), silent in addresses.items():
            unit.session.add(_message(unit, event, channel, chat, text, silent))
        unit.wake(OUTBOX)

    async def import_subscriptions(self, unit: Unit, entries: Sequence[Any]) -> None:
        """Take the roster's `notifications:`; they replace all earlier ones. Raises `Misconfigured`."""
        await store.replace_subscriptions(unit, read_subscriptions(entries, self.channels))

    async def _addresses(self, unit: Unit, event: Event) -> dict[tuple[str, str], bool]:
        """Channel and chat of everybody to be told, and whether silently: only if all wishes say so."""
        wishes = await store.subscriptions(unit.session)
        if not wishes:
            by_default = Subscription(channel="telegram")
            return {await self._address(unit, by_default): False} if event.kind in TOLD else {}
        project = rules.project_of(event.item_key)
        addresses: dict[tuple[str, str], bool] = {}
        for wish in wishes:
            if rules.wants(wish, event.kind, project):
                address = await self._address(unit, wish)
                addresses[address] = rules.is_quiet(wish, unit.now) and addresses.get(address, True)
        return addresses

    async def _address(self, unit: Unit, wish: Subscription) -> tuple[str, str]:
        """Where a wish leads; the log while its channel is not configured."""
        channel = self.channels.get(wish.channel)
        home = await channel.home_chat(unit.session) if channel else None
        if home is None:
            return "log", "log"
        return wish.channel, wish.chat or home

    # Out of the outbox

    async def deliver_round(self) -> Round:
        """Send what is due, and say when to come again. Call it at `next_at` and whenever `outbox` wakes.

        Cancelled, it ends cleanly: what has left is recorded first.
        """
        return await self._relay.deliver_round()

    async def close(self) -> None:
        """Give the channels' connections back."""
        for channel in self.channels.values():
            await channel.close()

    # For people

    def text(self, event: Event) -> str:
        """What an event says in the configured language, as plain text."""
        return plain(render(self._language, event.kind, event.item_key, event.run_id, event.data))

    async def messages(
        self, item_key: str | None = None, after: str | None = None, limit: int = 50
    ) -> Page[Letter]:
        """Messages (of one item) and where they stand, newest first. `after` is a page's `next_cursor`."""
        async with self._database.read() as session:
            return _page(await store.messages_of(session, item_key, _before(after), limit + 1), limit)

    async def dead_letters(self, after: str | None = None, limit: int = 50) -> Page[Letter]:
        """Messages that can never be delivered as they are, each with its reason, newest first."""
        async with self._database.read() as session:
            return _page(await store.dead_letters(session, _before(after), limit + 1), limit)

    async def resend(self, message_id: int) -> Letter:
        """Queue a dead letter again, in its old place of its lane.

        One that was meant for a channel's own chat goes to the chat that is configured now.
        Raises `NotFound`, and `Conflict` for a message that is not dead.
        """
        async with self._database.command("resend a dead letter") as unit:
            message = await store.message(unit, message_id)
            if message is None:
                raise NotFound(f"There is no message {message_id}.", "See GET /api/v1/dead-letters.")
            if message.state is not Delivery.DEAD:
                raise Conflict(
                    f"Message {message_id} is {message.state.value}, not dead.",
                    "Only dead letters are sent again; the others need nothing.",
                    code="not_dead",
                )
            await self._address_anew(unit, message)
            message.state, message.reason = Delivery.QUEUED, ""
            unit.wake(OUTBOX)
        return Letter.model_validate(message)

    async def _address_anew(self, unit: Unit, message: OutboxMessage) -> None:
        named = {(wish.channel, wish.chat) for wish in await store.subscriptions(unit.session)}
        channel = self.channels.get(message.channel)
        home = await channel.home_chat(unit.session) if channel else None
        if home is not None and (message.channel, message.chat) not in named:
            message.chat, message.lane = home, _lane(message.channel, home)

    async def test(self, channel: str) -> Trial:
        """Send a test message now, past the outbox, and say how it fared. Raises `NotFound`."""
        if channel not in self.channels:
            raise NotFound.among("channel", channel, self.channels)
        port = self.channels[channel]
        chat = await port.home_chat()
        if chat is None:
            return Trial(channel=channel, ok=False, detail=_unconfigured(channel))
        text = render(self._language, "test", None, None, {})
        return _trial(channel, await port.send(Outgoing(chat, text)))


def _unconfigured(channel: str) -> str:
    return f"The connection `{channel}` is not filled in: use its block in the Prefect UI, or its variables."


def _message(unit: Unit, event: Event, channel: str, chat: str, text: str, silent: bool) -> OutboxMessage:
    return OutboxMessage(
        event_id=event.id,
        kind=event.kind,
        item_key=event.item_key,
        channel=channel,
        chat=chat,
        lane=_lane(channel, chat),
        text=text,
        silent=silent,
        created_at=unit.now,
    )


def _lane(channel: str, chat: str) -> str:
    return f"{channel}:{chat}"


def _before(after: str | None) -> int:
    if after is None:
        return 2**63 - 1
    number = place(after, 1)[0]
    if not number.isascii() or not number.isdigit() or len(number) > 18:
        raise bad_cursor()
    return int(number)


def _page(found: list[OutboxMessage], limit: int) -> Page[Letter]:
    letters = [Letter.model_validate(message) for message in found[:limit]]
    return Page(items=letters, next_cursor=cursor(str(letters[-1].id)) if len(found) > limit else None)


def _trial(channel: str, outcome: Outcome) -> Trial:
    match outcome:
        case Sent():
            return Trial(channel=channel, ok=True, detail="The test message arrived.")
        case Refused(reason):
            return Trial(channel=channel, ok=False, detail=reason)
        case _:
            reason = getattr(outcome, "reason", "") or "It asks us to wait before the next message."
            return Trial(channel=channel, ok=False, detail=reason)
