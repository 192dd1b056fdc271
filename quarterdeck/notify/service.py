"""What the notify room can do: turn events into messages, deliver them, and show what became of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.kernel.idempotency import once, request
from quarterdeck.kernel.ids import new_id
from quarterdeck.kernel.journal import Delivery, Event, OutboxMessage
from quarterdeck.kernel.paging import Page, bad_cursor, cursor, place
from quarterdeck.kernel.settings import Settings
from quarterdeck.notify import rules, store
from quarterdeck.notify.channels import Channel, Outgoing, Refused, Sent, Waits
from quarterdeck.notify.links import Links
from quarterdeck.notify.markup import plain, shorten
from quarterdeck.notify.model import Letter, Round, Subscription, Trial
from quarterdeck.notify.relay import Relay
from quarterdeck.notify.roster import read_subscriptions
from quarterdeck.notify.texts import TOLD, catalogue, render

OUTBOX = "outbox"
"""The topic that wakes whoever delivers."""

ANSWERS = frozenset({"approval_decided", "item_cancelled", "item_moved"})
"""The kinds after which nobody need answer a question any more."""


class Notify:
    """The room."""

    def __init__(self, database: Database, settings: Settings, channels: Iterable[Channel]) -> None:
        self.channels: dict[str, Channel] = {channel.name: channel for channel in channels}
        self._database = database
        self._language = settings.language
        self._links = Links.of(settings)
        self._relay = Relay(database, self.channels)

    # Into the outbox

    async def react(self, unit: Unit, event: Event) -> None:
        """Add the messages of an event to the transaction that recorded it."""
        await self._rewrite_questions(unit, event)
        addresses = await self._addresses(unit, event)
        if not addresses:
            return
        words = catalogue(self._language)
        text = render(self._language, event.kind, event.item_key, event.run_id, event.data)
        text = self._links.append(words, text, event.item_key, event.data)
        for (channel, chat), silent in addresses.items():
            message = _message(unit, event, channel, chat, text, silent)
            if self._has_buttons(channel):
                message.choices = _choices(words, event)
            unit.session.add(message)
        unit.wake(OUTBOX)

    def _has_buttons(self, channel: str) -> bool:
        known = self.channels.get(channel)
        return known is not None and known.has_buttons

    async def _rewrite_questions(self, unit: Unit, event: Event) -> None:
        """A question that was answered says so in its own place, whichever door the answer came through."""
        if event.item_key is None or event.kind not in ANSWERS:
            return
        answer = render(self._language, event.kind, event.item_key, event.run_id, event.data)
        for question in await store.asking(unit, event.item_key):
            unit.session.add(_rewritten(unit, event, question, answer))
            unit.wake(OUTBOX)

    async def import_subscriptions(self, unit: Unit, entries: Sequence[Any]) -> None:
        """Take the roster's `notifications:`; they replace all earlier ones. Raises `Misconfigured`."""
        await store.replace_subscriptions(unit, read_subscriptions(entries, self.channels))

    async def drift(self, entries: Sequence[Any]) -> list[str]:
        """A sentence if the roster's `notifications:` are not those that count. Raises `Misconfigured`."""
        wanted = read_subscriptions(entries, self.channels)
        async with self._database.read() as session:
            known = await store.subscriptions(session)
        ours, theirs = ([one.model_dump(exclude={"id"}) for one in wishes] for wishes in (known, wanted))
        return [] if ours == theirs else ["The notifications differ."]

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
        """Hand over what is due, and say when to come again. Call it at `next_at` and when `outbox` wakes."""
        return await self._relay.deliver_round()

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

    async def waiting(self, channel: str) -> int:
        """How many messages a channel is still to deliver."""
        async with self._database.read() as session:
            return sum(await store.waiting(session, channel))

    async def resend(self, message_id: int, by: str = "", request_key: str = "") -> Letter:
        """Queue a dead letter again, behind what its channel has already.

        One that was meant for a channel's own chat goes to the chat that is configured now.
        A `request_key` that the same person repeats sends nothing. Raises `NotFound`, and `Conflict` for a
        message that is not dead.
        """
        asked = request(by, request_key, "resend", {"message": message_id})
        async with self._database.command("resend a dead letter") as unit:
            return await once(unit, asked, Letter, lambda: self._resend(unit, message_id))

    async def _resend(self, unit: Unit, message_id: int) -> Letter:
        message = await _undelivered(unit, message_id)
        await self._address_anew(unit, message)
        message.state, message.reason = Delivery.QUEUED, ""
        unit.wake(OUTBOX)
        return Letter.model_validate(message)

    async def dismiss(self, message_id: int, by: str, request_key: str = "") -> Letter:
        """Nobody misses this dead letter: it is trouble no more, and the journal tells who said so.

        It can still be sent again. Dismissed twice changes nothing; raises as `resend` does.
        """
        asked = request(by, request_key, "dismiss", {"message": message_id})
        async with self._database.command("dismiss a dead letter") as unit:
            return await once(unit, asked, Letter, lambda: _dismiss(unit, message_id, by))

    async def _address_anew(self, unit: Unit, message: OutboxMessage) -> None:
        named = {(wish.channel, wish.chat) for wish in await store.subscriptions(unit.session)}
        channel = self.channels.get(message.channel)
        home = await channel.home_chat(unit.session) if channel else None
        if home is not None and (message.channel, message.chat) not in named:
            message.chat, message.lane = home, _lane(message.channel, home)

    async def test(self, channel: str | None = None) -> Trial:
        """Send a test message now, past the outbox, and say how it fared. Raises `NotFound`.

        Without a name through the channel that is connected, else the log.
        It goes the way of all others: through the channel's queue, which somebody must serve.
        """
        channel = channel or await self._connected()
        if channel not in self.channels:
            raise NotFound.among("channel", channel, self.channels)
        port = self.channels[channel]
        chat = await port.home_chat()
        if chat is None:
            return Trial(channel=channel, ok=False, detail=_unconfigured(channel))
        text = render(self._language, "test", None, None, {})
        return _trial(channel, await port.try_out(Outgoing(f"test:{new_id()}", chat, text)))

    async def _connected(self) -> str:
        for name, channel in self.channels.items():
            if name != "log" and await channel.home_chat() is not None:
                return name
        return "log"


async def _undelivered(unit: Unit, message_id: int) -> OutboxMessage:
    """A dead letter, dismissed or not, locked. Raises `NotFound`, and `Conflict` for other messages."""
    message = await store.message(unit, message_id)
    if message is None:
        raise NotFound(
            f"There is no message {message_id}.",
            "`quarterdeck dead-letters list` (`GET /api/v1/dead-letters`) lists them.",
        )
    if message.state not in (Delivery.DEAD, Delivery.DISMISSED):
        raise Conflict(
            f"Message {message_id} is {message.state.value}, not dead.",
            "Only dead letters are sent again or dismissed; the others need nothing.",
            code="not_dead",
        )
    return message


async def _dismiss(unit: Unit, message_id: int, by: str) -> Letter:
    message = await _undelivered(unit, message_id)
    if message.state is Delivery.DEAD:
        message.state = Delivery.DISMISSED
        unit.record(
            "letter_dismissed",
            item=message.item_key,
            message=message.id,
            channel=message.channel,
            reason=message.reason,
            by=by,
        )
    return Letter.model_validate(message)


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


def _choices(words: Mapping[str, str], event: Event) -> list[dict[str, str]]:
    """The buttons of a question."""
    approval = event.data.get("approval")
    if event.kind != "approval_requested" or not approval:
        return []
    return [
        {"text": words[f"choose_{name}"], "data": f"{name}?approval={approval}"}
        for name in ("approve", "reject")
    ]


def _rewritten(unit: Unit, event: Event, question: OutboxMessage, answer: str) -> OutboxMessage:
    """The question with its answer below, and without buttons."""
    message = _message(unit, event, question.channel, question.chat, "", silent=True)
    message.text = shorten(f"{question.text}\n\n{answer}")
    message.replaces = question.id
    return message


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


def _trial(channel: str, outcome: Sent | Refused | Waits) -> Trial:
    if isinstance(outcome, Sent):
        return Trial(channel=channel, ok=True, detail="The test message arrived.")
    return Trial(channel=channel, ok=False, detail=outcome.reason)
