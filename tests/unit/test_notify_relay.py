"""Delivery: in order, within limits, again when it failed, never in silence."""

import asyncio
from datetime import timedelta

import pytest

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.kernel.journal import Delivery
from quarterdeck.kernel.settings import Settings
from quarterdeck.notify.channels import Failed, Refused, Sent
from quarterdeck.notify.service import Notify
from tests.fakes.notifying import FixedConnections, NotifyRoom, telegram_connection
from tests.fakes.telegram import CHAT, GROUP, FakeTelegram


def said(*reasons: object) -> list[str]:
    return [f"🔴 ET-007: ERROR — {reason}" for reason in reasons]


@pytest.fixture
def telegram():
    with FakeTelegram() as server:
        yield server


@pytest.fixture
async def room(database, telegram):
    made = NotifyRoom(database, FixedConnections(telegram=telegram_connection(telegram)))
    yield made
    await made.notify.close()


async def test_a_message_is_sent_as_the_bot_api_wants_it(room, telegram):
    await room.tell("a < b")
    assert (await room.deliver()).sent == 1
    assert telegram.sent()[0].body == {
        "chat_id": str(CHAT),
        "text": "🔴 ET-007: ERROR — a &lt; b",
        "parse_mode": "HTML",
        "disable_notification": False,
        "link_preview_options": {"is_disabled": True},
    }
    [message] = await room.outbox()
    assert (message.state, message.attempts, message.possibly_twice) == (Delivery.SENT, 1, False)
    assert message.external_id and message.sent_at == room.clock.now()


async def test_a_chat_gets_one_message_a_second(room, telegram):
    await room.tell(1, 2, 3)
    first = await room.deliver()
    assert (first.sent, first.waiting, first.next_at) == (1, 2, room.clock.now() + timedelta(seconds=1))
    assert (await room.deliver()).sent == 0
    rounds = await room.deliver_all()
    assert sum(done.sent for done in rounds) == 2
    assert telegram.texts() == said(1, 2, 3)


async def test_a_slow_answer_postpones_the_next_message(room, telegram, monkeypatch):
    """The request may have arrived as late as its answer left."""
    channel = room.notify.channels["telegram"]
    send = channel.send

    async def slow(message):
        outcome = await send(message)
        room.clock.go(0.7)
        return outcome

    monkeypatch.setattr(channel, "send", slow)
    await room.tell("a", "b")
    done = await room.deliver()
    assert (done.sent, done.next_at) == (1, room.clock.now() + timedelta(seconds=1))


async def test_a_group_gets_twenty_messages_a_minute(room, telegram):
    room.connections.values["telegram"] = telegram_connection(telegram, GROUP)
    await room.tell(*range(41))
    await room.deliver_all()
    assert telegram.texts() == said(*range(41))
    times = [message.sent_at for message in await room.outbox()]
    assert all(
        later - earlier >= timedelta(minutes=1) for earlier, later in zip(times, times[20:], strict=False)
    )
    assert times[40] - times[0] == timedelta(minutes=2)


async def test_a_bot_sends_thirty_messages_a_second_to_all_chats_together(room, telegram):
    await room.subscribe(*({"channel": "telegram", "chat": str(chat)} for chat in range(1, 36)))
    await room.tell("to everybody")
    assert (await room.deliver()).sent == 30
    room.clock.go(1)
    assert (await room.deliver()).sent == 5


async def test_a_wait_that_telegram_asks_for_is_obeyed_exactly(room, telegram):
    telegram.fail("sendMessage", 429, "Too Many Requests: retry after 17", retry_after=17)
    await room.tell("first", "second")
    done = await room.deliver()
    assert (done.sent, done.waiting) == (0, 2)
    assert done.next_at == room.clock.now() + timedelta(seconds=17)
    room.clock.go(16.999)
    assert (await room.deliver()).sent == 0
    assert len(telegram.calls) == 1
    room.clock.go(0.001)
    assert (await room.deliver()).sent == 1
    await room.deliver_all()
    assert telegram.texts() == said("first", "second")


async def test_an_absurd_wait_is_a_day_and_is_shown(room, telegram):
    telegram.fail("sendMessage", 429, "Too Many Requests", retry_after=10**9)
    await room.tell("first")
    done = await room.deliver()
    assert done.next_at == room.clock.now() + timedelta(hours=24)
    [message] = await room.outbox()
    assert "1e+09 s" in message.reason
    assert message.not_before == done.next_at


async def test_telegram_down_delays_messages_and_keeps_their_order(room, telegram):
    telegram.down()
    await room.tell("a", "b", "c")
    pauses = []
    for _ in range(4):
        done = await room.deliver()
        pauses.append((done.next_at - room.clock.now()).total_seconds())
        room.clock.go_to(done.next_at)
    assert pauses == [1, 2, 4, 8]
    assert not any(message.possibly_twice for message in await room.outbox())
    telegram.up()
    await room.tell("d")
    await room.deliver_all()
    assert telegram.texts() == said("a", "b", "c", "d")


async def test_trouble_at_the_far_side_is_tried_again_in_order(room, telegram):
    telegram.fail("sendMessage", 500, "Internal Server Error")
    telegram.babble("sendMessage", 502, b"<html>Bad Gateway</html>")
    await room.tell("a", "b")
    await room.deliver_all()
    assert telegram.texts() == said("a", "b")
    assert [message.attempts for message in await room.outbox()] == [3, 1]


async def test_an_answer_that_is_lost_is_marked_possibly_twice(room, telegram):
    telegram.drop(worked=True)
    await room.tell("a")
    await room.deliver_all()
    assert telegram.texts() == said("a", "a")
    [message] = await room.outbox()
    assert message.possibly_twice
    [letter] = (await room.notify.messages("ET-007")).items
    assert letter.possibly_twice


@pytest.mark.parametrize(
    ("status", "description", "reason"),
    [
        (400, "Bad Request: chat not found", "chat not found"),
        (403, "Forbidden: bot was blocked by the user", "bot was blocked"),
        (401, "Unauthorized", "token"),
        (404, "Not Found", "token"),
        (400, "Bad Request: something new", "something new"),
    ],
)
async def test_what_can_never_arrive_is_a_dead_letter_and_the_rest_goes_on(
    room, telegram, status, description, reason
):
    telegram.fail("sendMessage", status, description)
    await room.tell("lost", "found")
    rounds = await room.deliver_all()
    assert (rounds[0].dead, rounds[0].sent, rounds[-1].sent) == (1, 0, 1)
    assert telegram.texts() == said("found")
    [letter] = (await room.notify.dead_letters()).items
    assert letter.state is Delivery.DEAD
    assert reason in letter.reason


async def test_a_dead_letter_can_be_sent_again(room, telegram):
    telegram.blocking_chats.add(str(CHAT))
    await room.tell("lost")
    await room.deliver_all()
    telegram.blocking_chats.clear()
    [letter] = (await room.notify.dead_letters()).items
    assert (await room.notify.resend(letter.id)).state is Delivery.QUEUED
    await room.deliver_all()
    assert telegram.texts() == said("lost")
    assert (await room.notify.dead_letters()).items == []


async def test_a_dead_letter_to_a_wrong_chat_goes_to_the_corrected_one(room, telegram):
    telegram.missing_chats.add(str(CHAT))
    await room.tell("lost")
    await room.deliver_all()
    room.connections.values["telegram"] = telegram_connection(telegram, GROUP)
    [letter] = (await room.notify.dead_letters()).items
    await room.notify.resend(letter.id)
    await room.deliver_all()
    assert telegram.texts(str(GROUP)) == said("lost")


async def test_only_dead_letters_are_sent_again(room, telegram):
    await room.tell("fine")
    await room.deliver_all()
    [message] = await room.outbox()
    with pytest.raises(Conflict, match="is sent"):
        await room.notify.resend(message.id)
    with pytest.raises(NotFound):
        await room.notify.resend(message.id + 1)


async def test_html_that_is_refused_is_sent_once_as_plain_text(room, telegram):
    telegram.fail("sendMessage", 400, "Bad Request: can't parse entities: who knows")
    await room.tell("a & b")
    assert (await room.deliver()).sent == 1
    assert telegram.texts() == said("a & b")
    assert "parse_mode" not in telegram.sent()[0].body


async def test_a_group_that_moved_is_followed(room, telegram):
    telegram.fail("sendMessage", 400, "Bad Request: group chat was upgraded", migrate_to_chat_id=-100777)
    await room.tell("a")
    assert (await room.deliver()).sent == 1
    assert telegram.sent()[0].body["chat_id"] == -100777


async def test_a_chat_that_hangs_delays_no_other(room, telegram, monkeypatch):
    monkeypatch.setattr("quarterdeck.notify.relay.LOOK_AGAIN", 0.01)
    await room.subscribe({"channel": "telegram", "chat": "1"}, {"channel": "telegram", "chat": "2"})
    telegram.hang(chat=1, times=5)
    await room.tell("a", "b", "c")
    delivering = asyncio.create_task(room.deliver())
    for count in (1, 2, 3):
        while [message.state for message in await room.outbox()].count(Delivery.SENT) < count:
            await asyncio.sleep(0.01)
        room.clock.go(1)
    assert not delivering.done()
    telegram.down()  # ends the hanging requests
    done = await delivering
    assert (done.sent, done.waiting) == (3, 3)
    assert telegram.texts("2") == said("a", "b", "c")


async def test_two_desks_send_every_message_once_and_in_order(room, telegram, database_url):
    await room.subscribe(*({"channel": "telegram", "chat": str(chat)} for chat in (1, 2, 3)))
    await room.tell(*range(8))
    other = Database(database_url, clock=room.clock)
    rival = Notify(other, room.connections, Settings.model_validate({}), jitter=lambda: 0.0)
    for _ in range(8):
        await asyncio.gather(room.deliver(), rival.deliver_round())
        room.clock.go(1)
    for chat in ("1", "2", "3"):
        assert telegram.texts(chat) == said(*range(8))
    assert not any(message.possibly_twice for message in await room.outbox())
    await rival.close()
    await other.close()


async def test_a_desk_that_slept_through_its_lease_may_not_write_any_more(room, telegram, monkeypatch):
    """It finds out when it wants to record: the message was taken over, and is marked."""
    channel = room.notify.channels["telegram"]
    reached, go_on = asyncio.Event(), asyncio.Event()
    send = channel.send

    async def slow(message):
        outcome = await send(message)
        reached.set()
        await go_on.wait()
        return outcome

    monkeypatch.setattr(channel, "send", slow)
    await room.tell("a")
    sleeper = asyncio.create_task(room.deliver())
    await reached.wait()
    room.clock.go(16)
    monkeypatch.setattr(channel, "send", send)
    assert (await room.deliver()).sent == 1
    [message] = await room.outbox()
    assert message.possibly_twice
    go_on.set()
    assert (await sleeper).sent == 0
    assert await room.outbox() == [message]


async def test_a_cancelled_round_records_what_has_left_and_begins_nothing_more(room, telegram, monkeypatch):
    channel = room.notify.channels["telegram"]
    send, left, go_on = channel.send, asyncio.Event(), asyncio.Event()

    async def slow(message):
        outcome = await send(message)
        left.set()
        await go_on.wait()
        room.clock.go(1)
        return outcome

    monkeypatch.setattr(channel, "send", slow)
    await room.tell("a", "b")
    delivering = asyncio.create_task(room.deliver())
    await left.wait()
    delivering.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    assert telegram.texts() == said("a")
    first, second = await room.outbox()
    assert (first.state, second.state, second.attempts) == (Delivery.SENT, Delivery.QUEUED, 0)
    room.clock.go(1)
    assert (await room.deliver()).sent == 1


async def test_a_message_for_a_channel_that_is_gone_is_a_dead_letter(room, telegram, database):
    await room.tell("a")
    without = Notify(database, room.connections, Settings.model_validate({}), channels=[])
    assert (await without.deliver_round()).dead == 1
    [letter] = (await room.notify.dead_letters()).items
    assert "telegram" in letter.reason


async def test_a_test_message_says_how_it_fared(room, telegram):
    assert (await room.notify.test("telegram")).ok
    assert telegram.texts() == ["🔔 system: пробное сообщение Quarterdeck"]
    telegram.missing_chats.add(str(CHAT))
    failed = await room.notify.test("telegram")
    assert not failed.ok and "chat not found" in failed.detail
    room.connections.values.clear()
    missing = await room.notify.test("telegram")
    assert not missing.ok and "not filled in" in missing.detail
    assert (await room.notify.test("log")).ok
    with pytest.raises(NotFound, match="log, telegram"):
        await room.notify.test("pigeon")


class Pigeon:
    """A channel without limits, whose bird returns what it is told to, message by message."""

    name = "telegram"
    sender_limits = ()

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.carried = []

    def chat_limits(self, chat):
        return ()

    async def home_chat(self, session=None):
        return "tower"

    async def send(self, message):
        self.carried.append(message.text)
        return self.outcomes.pop(0)

    async def close(self):
        pass


async def test_without_limits_messages_go_together_and_a_failure_keeps_their_order(room, monkeypatch):
    pigeon = Pigeon(Sent(), Failed("rain"), Sent(), Refused("hawk"), Sent())
    monkeypatch.setitem(room.notify.channels, "telegram", pigeon)
    await room.tell(1, 2, 3, 4)
    first = await room.deliver()
    assert (first.sent, first.waiting) == (1, 3)
    assert [message.attempts for message in await room.outbox()] == [1, 1, 0, 0]
    rounds = await room.deliver_all()
    assert (sum(done.sent for done in rounds), sum(done.dead for done in rounds)) == (2, 1)
    assert pigeon.carried == said(1, 2, 2, 3, 4)
    assert [message.possibly_twice for message in await room.outbox()] == [False] * 4
