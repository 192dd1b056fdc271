"""The whole way over a real NATS server: register, a message comes, an event; a command, a message goes."""

import asyncio
import json

import nats
import pytest
from nats.js.api import StreamConfig
from sqlalchemy import text as sql

from quarterdeck.telegram.model import StoredUpdate
from quarterdeck.telegram.publisher import STREAM
from quarterdeck.telegram.wire import REGISTERED, UPDATE, Send, SendState
from tests.fakes.nats import NatsServer
from tests.fakes.ports import free_port
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram, token_of
from tests.fakes.telegram_gateway import TelegramRoom, running
from tests.waiting import until

_EXPIRE = sql("update telegram_bots set leased_until = now()")


@pytest.fixture
def telegram():
    with FakeTelegram(TOKEN, *map(token_of, range(2, 5))) as server:
        yield server


@pytest.fixture
def server(tmp_path):
    with NatsServer(tmp_path / "nats") as started:
        yield started


@pytest.fixture
def room(database, telegram, tmp_path):
    return TelegramRoom(database, tmp_path, telegram.base)


async def events(server: NatsServer, count: int) -> list[tuple[str, dict]]:
    """The first events of the stream, once there are so many."""
    client = await nats.connect(server.url)
    try:
        stream = client.jetstream()
        async with asyncio.timeout(20):
            while True:
                try:
                    info = await stream.stream_info(STREAM)
                    if info.state.messages >= count:
                        break
                except nats.js.errors.NotFoundError:
                    pass
                await asyncio.sleep(0.05)
        kept = [await stream.get_msg(STREAM, number) for number in range(1, info.state.messages + 1)]
        return [(message.subject, json.loads(message.data)) for message in kept]
    finally:
        await client.close()


async def test_the_whole_way_and_a_restart_in_between(room, telegram, server):
    async with running(room.gateway(nats_url=server.url)):
        await room.bots.register("analyst", TOKEN)
        await room.bots.register("developer", token_of(2))
        telegram.say("one")
        telegram.say("for you", token=token_of(2))
        await events(server, 4)
    telegram.say("two")
    async with running(room.gateway(nats_url=server.url)):
        found = await events(server, 5)
        client = await nats.connect(server.url)
        command = {"agent_id": "analyst", "chat_id": CHAT, "text": "An answer"}
        async with asyncio.timeout(20):
            while True:
                try:
                    reply = await client.request("agent.telegram.send", json.dumps(command).encode(), 12)
                    break
                except nats.errors.NoRespondersError:
                    await asyncio.sleep(0.05)
        refused = await client.request("agent.telegram.send", b'{"agent_id": "nobody", "chat_id": 1}', 12)
        await client.close()
    assert telegram.texts(str(CHAT)) == ["An answer"]
    assert json.loads(reply.data)["status"] == "sent"
    assert json.loads(refused.data)["status"] == "error"
    updates = [event for subject, event in found if subject == "agent.telegram.update"]
    assert [event["text"] for event in updates if event["agent_id"] == "analyst"] == ["one", "two"]
    assert {event["bot_id"] for event in updates} == {"bot:7000000001", "bot:7000000002"}
    assert sorted(event["agent_id"] for subject, event in found if subject == "bot.registered") == [
        "analyst",
        "developer",
    ]
    assert not any(token in json.dumps(found) for token in telegram.tokens)


async def test_what_a_dead_listener_left_of_a_bot_comes_before_what_is_heard_now(room, telegram, server):
    async with running(room.gateway(nats_url=server.url)):
        await room.bots.register("analyst", TOKEN)
        for number, text in enumerate(("one", "two"), 2):
            telegram.say(text)
            await events(server, number)
            async with asyncio.timeout(20):
                while await _waiting(room):  # what went to the stream from memory is written down, too
                    await asyncio.sleep(0.02)
        async with room.database.command("left by another") as unit:
            now = {"ts": unit.now, "received_at": unit.now}
            left = {"bot_id": "bot:7000000002", "event_id": "left", "update_id": 0, "kind": "message"}
            unit.session.add(
                StoredUpdate(agent_id="developer", chat_id=1, user_id=1, text="old", **left, **now)
            )
        telegram.say("new", token=token_of(2))
        await room.bots.register("developer", token_of(2))
        found = await events(server, 6)
    said = [event["text"] for _, event in found if event["agent_id"] == "developer" and "text" in event]
    assert said == ["old", "new"]


async def test_while_nats_is_away_events_wait_and_come_in_order(room, telegram, server):
    await room.bots.register("analyst", TOKEN)
    async with running(room.gateway(nats_url=server.url)):
        await events(server, 1)
        server.stop()
        for text in ("one", "two", "three"):
            telegram.say(text)
        async with asyncio.timeout(15):
            while await _waiting(room) < 3:
                await asyncio.sleep(0.05)
        server.start()
        found = await events(server, 4)
        await until(lambda: True)
    assert [event["text"] for _, event in found[1:]] == ["one", "two", "three"]


@pytest.mark.parametrize(
    "point", ["after store updates", "after publishing an update", "before publish updates"]
)
async def test_a_listener_that_is_killed_publishes_everything_once(forks, room, telegram, server, point):
    await room.bots.register("analyst", TOKEN)
    telegram.say("one")
    telegram.say("two")
    arguments = (room.database.url, str(room.folder), telegram.base, server.url)
    ended = await forks.run("tests.fakes.listening", *arguments, QUARTERDECK_CRASH_AT=point)
    assert ended.code == -9
    async with room.database.command("the lease is over") as unit:
        await (await unit.session.connection()).execute(_EXPIRE)
    async with running(room.gateway(nats_url=server.url)):
        telegram.say("three")
        await events(server, 4)
        async with asyncio.timeout(15):
            while await _waiting(room):
                await asyncio.sleep(0.05)
        found = await events(server, 4)
    assert [event["text"] for subject, event in found if subject == UPDATE] == ["one", "two", "three"]
    assert len(found) == 4  # with the registration: the stream knew what it had already


async def test_while_the_stream_is_full_events_wait_and_the_bot_goes_on(room, telegram, server):
    client = await nats.connect(server.url)
    stream = client.jetstream()
    subjects = [UPDATE, REGISTERED]
    full = {"name": STREAM, "subjects": subjects, "discard": "new", "duplicate_window": 60.0}
    await stream.add_stream(StreamConfig(**full, max_msgs=2))
    await room.bots.register("analyst", TOKEN)
    async with running(room.gateway(nats_url=server.url)):
        for text in ("one", "two", "three"):
            telegram.say(text)
        await events(server, 2)
        async with asyncio.timeout(15):
            while await _waiting(room) != 2:
                await asyncio.sleep(0.05)
        receipt = await room.sends.put(Send("analyst", CHAT, "All is well"))
        assert (await room.sends.wait(receipt.id, 10)).state is SendState.SENT
        await until(lambda: telegram.unread() == 0)  # they are ours to keep
        await stream.update_stream(StreamConfig(**full, max_msgs=100))
        found = await events(server, 4)
    await client.close()
    assert [event["text"] for subject, event in found if subject == UPDATE] == ["one", "two", "three"]


async def test_the_password_of_nats_is_in_no_log(room, capsys):
    address = f"nats://desk:not-for-everybodys-eyes@127.0.0.1:{free_port()}"
    async with running(room.gateway(nats_url=address)):
        said = ""
        async with asyncio.timeout(15):
            while "nats_waits" not in said:
                await asyncio.sleep(0.01)
                said += "".join(capsys.readouterr())
    assert "not-for-everybodys-eyes" not in said + "".join(capsys.readouterr())


async def _waiting(room: TelegramRoom) -> int:
    from quarterdeck.telegram import store

    async with room.database.read() as session:
        return len(await store.unpublished(session, None, 100, 100))
