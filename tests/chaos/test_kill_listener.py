"""A listener is killed at every point between receiving and acknowledging; another one goes on."""

import pytest
from sqlalchemy import text
from sqlmodel import select

from quarterdeck.telegram.model import StoredUpdate
from quarterdeck.telegram.wire import Send, SendState
from tests.fakes.forking import Forks
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import Heard, TelegramRoom, running
from tests.waiting import until

_EXPIRE = text("update telegram_bots set leased_until = now()")


@pytest.fixture
def telegram():
    with FakeTelegram() as server:
        yield server


@pytest.fixture
async def room(database, telegram, tmp_path):
    made = TelegramRoom(database, tmp_path, telegram.base)
    await made.bots.register("analyst", TOKEN)
    return made


async def killed_listener(forks: Forks, room: TelegramRoom, telegram: FakeTelegram, point: str) -> None:
    arguments = (room.database.url, str(room.folder), telegram.base, "-")
    ended = await forks.run("tests.fakes.listening", *arguments, QUARTERDECK_CRASH_AT=point)
    assert ended.code == -9
    async with room.database.command("the lease is over") as unit:
        await (await unit.session.connection()).execute(_EXPIRE)


@pytest.mark.parametrize(
    "point",
    [
        "after receiving updates",
        "before store updates",
        "after store updates",
        "after storing updates",
        "after telling a consumer",
        "after move cursors",
    ],
)
async def test_a_killed_listener_loses_no_message_and_doubles_none(forks, room, telegram, point):
    first = Heard()
    gateway = room.gateway()
    gateway.add("test", first)
    async with running(gateway):  # so that the consumer is known
        await until(lambda: gateway.agents == ["analyst"])
    telegram.say("one")
    await killed_listener(forks, room, telegram, point)
    heard = Heard()
    gateway = room.gateway()
    gateway.add("test", heard)
    telegram.say("two")
    async with running(gateway):
        await until(lambda: "two" in heard.texts)
    file = room.folder / "told"
    before = file.read_text().split() if file.exists() else []
    ids = [*before, *(update.event_id for update in heard.updates)]
    assert sorted(set(ids)) == ["bot:7000000001:1", "bot:7000000001:2"]
    again = point == "after telling a consumer"  # the one place where the table cannot know that it was told
    assert len(ids) == len(set(ids)) + (1 if again else 0)
    async with room.database.read() as session:
        assert len((await session.exec(select(StoredUpdate))).all()) == 2


@pytest.mark.parametrize(
    ("point", "arrived", "state"),
    [
        ("before sending a message", 1, SendState.MAYBE_SENT),
        ("after sending a message", 2, SendState.MAYBE_SENT),
        ("after record sends", 1, SendState.SENT),
    ],
)
async def test_a_message_is_sent_for_sure_and_marked_where_it_may_be_there_twice(
    forks, room, telegram, point, arrived, state
):
    receipt = await room.sends.put(Send("analyst", CHAT, "Hello"))
    await killed_listener(forks, room, telegram, point)
    async with running(room.gateway()):
        receipt = await room.sends.wait(receipt.id, 15)
    assert receipt.state is state
    assert telegram.texts() == ["Hello"] * arrived
