"""A group that becomes a supergroup: whatever we know of it is of the new chat from then on."""

import pytest

from quarterdeck.surfaces.store import PostgresStore
from quarterdeck.surfaces.telegram import moves as chats
from quarterdeck.telegram import store
from quarterdeck.telegram.moves import Moves
from quarterdeck.telegram.wire import Send, SendState
from tests.fakes.chatting import chatting
from tests.fakes.telegram import GROUP, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import Heard, TelegramRoom, at_once, running
from tests.waiting import until

OLD = -77


@pytest.fixture
def telegram():
    with FakeTelegram(TOKEN) as server:
        yield server


@pytest.fixture
async def room(database, telegram, tmp_path):
    made = TelegramRoom(database, tmp_path, telegram.base)
    await made.bots.register("analyst", TOKEN, allowed_chats=[OLD, 5])
    return made


async def chat_of(room: TelegramRoom, receipt) -> str:
    async with room.database.read() as session:
        return (await store.send(session, int(receipt.id))).chat


@pytest.mark.parametrize("told", [True, False], ids=["told", "by the refusal"])
async def test_what_waits_for_the_old_group_is_sent_to_the_new_one_once_and_in_order(room, telegram, told):
    receipts = [await room.sends.put(Send("analyst", OLD, text)) for text in ("one", "two")]
    telegram.migrate(OLD, GROUP, told=told)
    async with running(room.gateway(sleep=at_once)):
        for receipt in receipts:
            assert (await room.sends.wait(receipt.id, 15)).state is SendState.SENT
    assert telegram.texts(str(GROUP)) == ["one", "two"]
    later = await room.sends.put(Send("analyst", OLD, "three"))
    assert [await chat_of(room, one) for one in (*receipts, later)] == [str(GROUP)] * 3
    to_old = [call for call in telegram.calls if str(call.body.get("chat_id")) == str(OLD)]
    assert len(to_old) <= 1  # it is not asked twice where the group is


async def test_what_would_change_or_answer_a_message_of_the_old_group_is_said_on_its_own(room, telegram):
    telegram.migrate(OLD, GROUP, told=False)
    waiting = [
        Send("analyst", OLD, "first"),
        Send("analyst", OLD, "changed", edits=5),
        Send("analyst", OLD, "answer", reply_to_message_id=5),
    ]
    receipts = [await room.sends.put(send) for send in waiting]
    async with running(room.gateway(sleep=at_once)):
        for receipt in receipts:
            assert (await room.sends.wait(receipt.id, 15)).state is SendState.SENT
    assert telegram.texts(str(GROUP)) == ["first", "changed", "answer"]
    assert all("reply_parameters" not in call.body for call in telegram.sent(str(GROUP)))


async def test_a_bot_that_listens_to_the_group_alone_goes_on_listening(room, telegram):
    heard = Heard()
    gateway = room.gateway()
    gateway.add("test", heard)
    async with running(gateway):
        telegram.migrate(OLD, GROUP)
        telegram.say("hello", chat=GROUP)
        telegram.say("from elsewhere", chat=-78)
        telegram.say("bye", chat=GROUP)
        await until(lambda: heard.texts[-1:] == ["bye"])
    assert [text for text in heard.texts if text] == ["hello", "bye"]
    assert (await room.bots.show("analyst")).allowed_chat_ids == [GROUP, 5]


async def test_chats_that_lead_in_a_circle_are_refused(room, telegram):
    telegram.migrate(OLD, -78, told=False)
    telegram.migrate(-78, OLD, told=False)
    receipt = await room.sends.put(Send("analyst", OLD, "lost"))
    async with running(room.gateway(sleep=at_once)):
        assert (await room.sends.wait(receipt.id, 15)).state is SendState.REFUSED
    assert (await room.sends.find(receipt.id)).reason == "The chat moves in circles."


async def followed(database) -> None:
    moves = Moves(database)
    moves.add(chats.follow)
    for _ in range(2):
        assert await moves.follow(OLD, GROUP)


@pytest.fixture
async def desk(database, tmp_path):
    async with chatting(database, tmp_path) as made:
        made.store = PostgresStore(database)
        made.surface = made.made()
        yield made


async def test_a_chat_goes_on_in_the_supergroup_with_its_conversation_and_its_name(desk, database):
    await desk.writes("@desk_bot one", chat=OLD)
    await desk.writes("@desk_bot other", chat=-770)
    await desk.writes("/rename Sails", chat=OLD)
    await followed(database)
    await desk.writes("@desk_bot two", chat=GROUP)
    one, other, two = [asked.chat_id for asked in desk.agents.clients["helm"].asked]
    assert one == two != other
    await desk.writes("/chats", chat=GROUP)
    assert "Sails" in desk.said(GROUP)[-1]


async def test_who_wrote_in_the_supergroup_before_we_knew_of_it_can_switch_to_the_chat_before(desk, database):
    await desk.writes("@desk_bot one", chat=OLD)
    await desk.writes("@desk_bot two", chat=GROUP)
    await followed(database)
    await desk.writes("@desk_bot three", chat=GROUP)
    await desk.writes("/chats", chat=GROUP)
    [switch] = [row[0] for row in desk.bots.sent[-1].buttons if row[0].data.startswith("switch")]
    await desk.presses(switch.data, chat=GROUP)
    await desk.writes("@desk_bot four", chat=GROUP)
    one, two, three, four = [asked.chat_id for asked in desk.agents.clients["helm"].asked]
    assert (one, two) == (four, three)
