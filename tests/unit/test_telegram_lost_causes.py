"""What can never be sent is given up and told, and what waits behind it is sent."""

import asyncio

import pytest

from quarterdeck.telegram import store
from quarterdeck.telegram.wire import File, Send, SendState
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import TelegramRoom, at_once, errors, running
from tests.waiting import until

MOST_FAILURES = "quarterdeck.telegram.sender.MOST_FAILURES"


@pytest.fixture
def telegram():
    with FakeTelegram(TOKEN) as server:
        yield server


@pytest.fixture
async def room(database, telegram, tmp_path):
    made = TelegramRoom(database, tmp_path, telegram.base)
    await made.bots.register("analyst", TOKEN)
    return made


async def state_of(room: TelegramRoom, receipt) -> SendState:
    return (await room.sends.wait(receipt.id, 15)).state


async def break_(room: TelegramRoom, receipt) -> None:
    """As if another version of us had queued it."""
    async with room.database.command("queue it as nobody can read") as unit:
        row = await store.send(unit.session, int(receipt.id))
        row.content = row.content | {"field_of_tomorrow": 1}


async def test_a_refusal_that_nobody_foresaw_holds_up_nothing(room, telegram):
    telegram.fail("sendMessage", 400, "Bad Request: SOMETHING_NEW", chat=CHAT)
    bad, good = [await room.sends.put(Send("analyst", CHAT, text)) for text in ("bad", "good")]
    async with running(room.gateway(sleep=at_once)):
        assert [await state_of(room, one) for one in (bad, good)] == [SendState.REFUSED, SendState.SENT]
    assert (await room.sends.find(bad.id)).reason == "Bad Request: SOMETHING_NEW"


async def test_a_message_that_breaks_every_time_is_given_up_told_and_the_next_one_is_sent(room, telegram):
    bad, good = [await room.sends.put(Send("analyst", CHAT, text)) for text in ("bad", "good")]
    await break_(room, bad)
    async with running(room.gateway(sleep=at_once)):
        assert [await state_of(room, one) for one in (bad, good)] == [SendState.REFUSED, SendState.SENT]
    assert "TypeError" in (await room.sends.find(bad.id)).reason
    [told] = await errors(room)
    assert f"What analyst says in Telegram (chat {CHAT}) was given up" in told


async def test_what_was_given_up_is_not_told_twice_where_whoever_said_it_tells(room, telegram):
    bad = await room.sends.put(Send("analyst", CHAT, "bad", is_followed=True))
    await break_(room, bad)
    async with running(room.gateway(sleep=at_once)):
        assert await state_of(room, bad) is SendState.REFUSED
    assert await errors(room) == []


async def test_a_file_that_can_never_be_read_is_refused_and_the_next_message_is_sent(room, telegram):
    nameless = File("/" + "x" * 300)
    bad = await room.sends.put(Send("analyst", CHAT, attachments=(nameless,)))
    good = await room.sends.put(Send("analyst", CHAT, "good"))
    async with running(room.gateway(sleep=at_once)):
        assert [await state_of(room, one) for one in (bad, good)] == [SendState.REFUSED, SendState.SENT]
    assert "cannot be read" in (await room.sends.find(bad.id)).reason


async def test_what_fails_for_ever_while_its_bot_is_answered_otherwise_is_given_up_and_told(
    room, telegram, monkeypatch
):
    monkeypatch.setattr(MOST_FAILURES, 2)
    telegram.fail("sendMessage", 500, "Internal Server Error", chat=CHAT, times=1_000_000)
    bad = await room.sends.put(Send("analyst", CHAT, "bad"))
    async with running(room.gateway(sleep=at_once)):
        await until(lambda: any(call.method == "sendMessage" for call in telegram.calls))
        telegram.say("hello")  # which a poll brings
        assert await state_of(room, bad) is SendState.REFUSED
        telegram.calm()
        assert await state_of(room, await room.sends.put(Send("analyst", CHAT, "good"))) is SendState.SENT
    assert "failed 2 times: Telegram: Internal Server Error" in (await errors(room))[0]


async def test_an_outage_is_waited_out_and_nothing_is_given_up(room, telegram, monkeypatch):
    monkeypatch.setattr(MOST_FAILURES, 2)
    receipt = await room.sends.put(Send("analyst", CHAT, "Hello"))
    telegram.down()
    async with running(room.gateway(sleep=at_once)):
        async with asyncio.timeout(20):
            while await attempts(room, receipt) < 4:
                await asyncio.sleep(0.02)
        telegram.up()
        assert await state_of(room, receipt) is SendState.SENT
    assert telegram.texts() == ["Hello"]


async def attempts(room: TelegramRoom, receipt) -> int:
    async with room.database.read() as session:
        return (await store.send(session, int(receipt.id))).attempts
