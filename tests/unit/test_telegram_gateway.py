"""The gateway with a Bot API server: what people write arrives, what agents say is sent."""

import asyncio

import pytest

from quarterdeck.kernel.errors import Conflict, Invalid, NotFound
from quarterdeck.telegram.model import UnknownAgent
from quarterdeck.telegram.wire import Send, SendState
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import Heard, TelegramRoom, running, until

OTHER = "7000000002:BBFakeTokenForTestsOnly-0123456789abc"


@pytest.fixture
def telegram():
    with FakeTelegram(TOKEN, OTHER) as server:
        yield server


@pytest.fixture
def room(database, telegram, tmp_path):
    return TelegramRoom(database, tmp_path, telegram.base)


async def test_a_message_goes_in_and_an_answer_goes_out(room, telegram):
    heard = Heard()
    gateway = room.gateway()
    gateway.add("test", heard)
    async with running(gateway):
        registered = await room.bots.register("analyst", TOKEN)
        telegram.say("Good morning")
        await until(lambda: heard.texts == ["Good morning"])
        receipt = await room.sends.put(Send("analyst", CHAT, "And to you"))
        receipt = await room.sends.wait(receipt.id, 10)
    assert (registered.bot_id, registered.username) == ("bot:7000000001", "fake_7000000001_bot")
    assert (receipt.state, len(receipt.message_ids)) == (SendState.SENT, 1)
    assert telegram.texts(str(CHAT)) == ["And to you"]
    told = heard.updates[0]
    assert (told.agent_id, told.bot_id, told.chat_id, told.user_id) == ("analyst", "bot:7000000001", CHAT, 42)
    assert told.raw_update["message"]["text"] == "Good morning"


async def test_what_came_while_nobody_listened_is_told_afterwards(room, telegram):
    heard = Heard()
    await room.bots.register("analyst", TOKEN)
    for text in ("one", "two"):
        gateway = room.gateway()
        gateway.add("test", heard)
        telegram.say(text)
        async with running(gateway):
            await until(lambda text=text: text in heard.texts)
    assert heard.texts == ["one", "two"]


async def test_a_registration_that_says_nothing_new_changes_nothing(room, telegram):
    gateway = room.gateway()
    async with running(gateway):
        first = await room.bots.register("analyst", TOKEN)
        await until(lambda: gateway.agents == ["analyst"])
        polls = len([call for call in telegram.calls if call.method == "getUpdates"])
        assert await room.bots.register("analyst", TOKEN) == first
        await asyncio.sleep(0)
        assert len([call for call in telegram.calls if call.method == "getUpdates"]) <= polls + 1
    async with room.database.read() as session:
        assert len(await _events(session, "bot_registered")) == 1


async def test_a_bot_belongs_to_one_agent(room):
    await room.bots.register("analyst", TOKEN)
    with pytest.raises(Conflict, match="analyst"):
        await room.bots.register("developer", TOKEN)


async def test_a_token_that_telegram_does_not_know_is_refused_without_being_shown(room):
    with pytest.raises(Invalid) as refused:
        await room.bots.register("analyst", "7000000009:ZZ" + "z" * 33)
    assert "zzz" not in str(refused.value)


async def test_an_agent_without_a_bot_cannot_say_anything(room):
    with pytest.raises(UnknownAgent) as refused:
        await room.sends.put(Send("nobody", CHAT, "Hello"))
    assert refused.value.status == 400


async def test_a_forgotten_bot_is_gone(room, telegram):
    gateway = room.gateway()
    async with running(gateway):
        await room.bots.register("analyst", TOKEN)
        await until(lambda: gateway.agents == ["analyst"])
        await room.bots.forget("analyst")
        await until(lambda: gateway.agents == [])
    assert await room.bots.list() == []
    with pytest.raises(NotFound):
        await room.bots.forget("analyst")


async def _events(session, kind):
    from sqlmodel import col, select

    from quarterdeck.kernel.journal import Event

    return (await session.exec(select(Event).where(col(Event.kind) == kind))).all()
