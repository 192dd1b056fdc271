"""The gateway with a Bot API server: what people write arrives, what agents say is sent."""

import asyncio

import pytest

from quarterdeck.kernel.errors import Conflict, Invalid, NotFound
from quarterdeck.telegram import rules
from quarterdeck.telegram.model import UnknownAgent
from quarterdeck.telegram.wire import File, Send, SendState
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import Heard, TelegramRoom, running
from tests.waiting import until

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


async def test_registrations_at_the_same_time_are_one_after_the_other(room):
    same = await asyncio.gather(*(room.bots.register("analyst", TOKEN) for _ in range(5)))
    assert len(set(same)) == 1
    others = [room.bots.register(agent, OTHER) for agent in ("developer", "reviewer", "tester")]
    done = await asyncio.gather(*others, return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["Conflict", "Conflict", "Registered"]


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


async def test_a_wait_that_telegram_asks_for_is_waited_out_and_other_chats_go_on(room, telegram):
    telegram.fail("sendMessage", 429, "Too Many Requests: retry after 3", chat=CHAT, retry_after=3)
    await room.bots.register("analyst", TOKEN)
    async with running(room.gateway()):
        slow = await room.sends.put(Send("analyst", CHAT, "one"))
        await room.sends.put(Send("analyst", CHAT, "two"))
        quick = await room.sends.put(Send("analyst", CHAT + 1, "elsewhere"))
        assert (await room.sends.wait(quick.id, 2)).state is SendState.SENT
        assert (await room.sends.find(slow.id)).state is SendState.QUEUED
        await until(lambda: telegram.texts(str(CHAT)) == ["one", "two"])
    tries = [call for call in telegram.calls if call.method == "sendMessage" and call.body["text"] == "one"]
    assert 2.9 < tries[1].at - tries[0].at < 5


@pytest.mark.parametrize(
    ("status", "said"),
    [(403, "Forbidden: bot was blocked by the user"), (400, "Bad Request: chat not found")],
)
async def test_what_telegram_refuses_for_good_is_recorded_and_not_tried_again(room, telegram, status, said):
    telegram.fail("sendMessage", status, said)
    await room.bots.register("analyst", TOKEN)
    async with running(room.gateway()):
        receipt = await room.sends.put(Send("analyst", CHAT, "Hello"))
        receipt = await room.sends.wait(receipt.id, 10)
    assert (receipt.state, receipt.reason) == (SendState.REFUSED, said)
    assert len([call for call in telegram.calls if call.method == "sendMessage"]) == 1


@pytest.mark.parametrize(
    ("mode", "text", "shown"),
    [
        ("HTML", "<b>1 &lt; 2</i>", "1 < 2"),
        ("HTML", "if <b>a</b> < b and c > d", "if a < b and c > d"),
        ("HTML", "<html>", "<html>"),
        ("MarkdownV2", "5*3 \\= 15, [see](https://example.org)", "5*3 = 15, [see](https://example.org)"),
    ],
)
async def test_markup_that_telegram_cannot_parse_is_sent_as_plain_text(room, telegram, mode, text, shown):
    await room.bots.register("analyst", TOKEN)
    async with running(room.gateway()):
        receipt = await room.sends.put(Send("analyst", CHAT, text, parse_mode=mode))
        assert (await room.sends.wait(receipt.id, 10)).state is SendState.SENT
    assert telegram.texts() == [shown]


async def test_an_image_that_is_no_photo_for_telegram_arrives_as_a_document(room, telegram, tmp_path):
    (tmp_path / "panorama.png").write_bytes(b"very wide")
    telegram.fail("sendPhoto", 400, "Bad Request: PHOTO_INVALID_DIMENSIONS")
    await room.bots.register("analyst", TOKEN)
    async with running(room.gateway()):
        photo = File(str(tmp_path / "panorama.png"), "photo", "panorama.png", "image/png")
        receipt = await room.sends.put(Send("analyst", CHAT, attachments=(photo,)))
        assert (await room.sends.wait(receipt.id, 10)).state is SendState.SENT
    [message] = telegram.shown()
    assert message["document"]["file_name"] == "panorama.png"


@pytest.mark.parametrize(
    ("status", "said", "method"),
    [
        (400, "Bad Request: IMAGE_PROCESS_FAILED", "sendDocument"),
        (400, "Bad Request: file of size 11000000 bytes is too big for a photo", "sendDocument"),
        (413, "Request Entity Too Large", "sendDocument"),
        (400, "Bad Request: chat not found", None),
        (400, "Bad Request: CHAT_SEND_PHOTOS_FORBIDDEN", None),
    ],
)
def test_only_what_is_wrong_with_the_image_makes_it_a_document(status, said, method):
    [photo] = rules.parts(Send("analyst", CHAT, attachments=(File("/tmp/a.png", "photo"),)))
    better = rules.repaired(photo, rules.Refused(status, said))
    assert (better and better.method) == method
    assert better is None or rules.repaired(better, rules.Refused(status, said)) is None


async def test_the_same_key_says_it_once(room, telegram):
    await room.bots.register("analyst", TOKEN)
    first = await room.sends.put(Send("analyst", CHAT, "Hello", idempotency_key="k"))
    assert (await room.sends.put(Send("analyst", CHAT, "Hello", idempotency_key="k"))).id == first.id
    async with running(room.gateway()):
        await room.sends.wait(first.id, 10)
    assert telegram.texts() == ["Hello"]


async def test_a_revoked_token_stops_the_bot_tells_people_and_shows_nothing(room, telegram, caplog):
    await room.bots.register("analyst", TOKEN)
    telegram.fail("getUpdates", 401, "Unauthorized", times=1000)
    gateway = room.gateway()
    async with running(gateway):
        await until(lambda: "stopped" in caplog.text or gateway.agents == ["analyst"])
        async with asyncio.timeout(10):
            while (await room.bots.show("analyst")).status != "stopped":
                await asyncio.sleep(0.05)
    async with room.database.read() as session:
        told = await _events(session, "error")
    assert len(told) == 1
    assert TOKEN not in str(told[0].data)
    assert TOKEN not in caplog.text
    with pytest.raises(Conflict, match="stopped"):
        await room.sends.put(Send("analyst", CHAT, "Hello"))


async def test_a_hanging_bot_does_not_delay_another(room, telegram):
    telegram.hang("sendMessage", chat=5, times=30)
    await room.bots.register("analyst", TOKEN)
    await room.bots.register("developer", OTHER)
    for _ in range(5):
        await room.sends.put(Send("analyst", 5, "lost"))
    async with running(room.gateway()):
        receipt = await room.sends.put(Send("developer", CHAT, "quick"))
        assert (await room.sends.wait(receipt.id, 3)).state is SendState.SENT
        telegram.calm()
