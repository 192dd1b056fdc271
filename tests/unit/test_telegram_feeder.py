"""A consumer is told of each chat in its order and once, however much comes; writes share transactions."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.telegram import feeder as feeding
from quarterdeck.telegram import store
from quarterdeck.telegram.batches import Batches
from quarterdeck.telegram.feeder import AHEAD, Feeder
from quarterdeck.telegram.model import Bot, Told
from quarterdeck.telegram.turns import Readers
from quarterdeck.telegram.wire import Update
from quarterdeck.telegram.writer import Writer
from tests.fakes.clock import ManualClock
from tests.fakes.telegram import TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import Heard, TelegramRoom, running
from tests.waiting import until

COUNT = AHEAD + 50
NOW = datetime(2026, 11, 27, tzinfo=UTC)


def update(number: int, chat: int = 1) -> Update:
    return Update(f"bot:1:{number}", "analyst", "bot:1", number, "message", chat, 42, NOW, text=str(number))


async def served(database: Database) -> None:
    async with database.command("a bot is served") as unit:
        times = {"registered_at": unit.now, "leased_until": unit.now}
        unit.session.add(Bot(agent_id="analyst", bot_id="bot:1", fence=2, **times))


async def test_a_slow_consumer_is_told_everything_once_and_in_order_and_other_chats_do_not_wait(
    database: Database,
) -> None:
    told: list[int] = []
    go = asyncio.Event()

    async def consumer(heard: Update) -> None:
        if heard.chat_id == 1 and heard.update_id > 1:
            await go.wait()
        told.append(heard.update_id)

    writer = Writer(database, lambda *_: None, nats=False)
    feeder = Feeder("test", consumer, database, writer, Readers(), asyncio.sleep)
    await served(database)
    await feeder.open()
    updates = [update(number) for number in range(COUNT)]
    async with database.command("store") as unit:
        held, rows = await store.keep_updates(unit, {"analyst": 2}, updates, unit.now)
    assert held == {"analyst"}
    for one in updates[:3]:
        feeder.hear(rows[one.event_id], one)
    async with asyncio.timeout(20):
        while told != [0, 1]:
            await asyncio.sleep(0.001)
        feeder.hear(rows[updates[-1].event_id] + 1, update(COUNT, chat=2))
        while COUNT not in told:
            await asyncio.sleep(0.001)
        for one in updates[3:]:  # more than are kept in memory
            feeder.hear(rows[one.event_id], one)
        go.set()
        await feeder.caught_up("analyst")
        for number in range(COUNT + 1, COUNT + 4):  # as many as are kept
            feeder.hear(rows[updates[-1].event_id] + number, update(number))
        await feeder.caught_up("analyst")
    await feeder.close(1)
    await writer.close()
    assert told == [0, 1, COUNT, *range(2, COUNT), *range(COUNT + 1, COUNT + 4)]


async def test_nothing_is_left_out_when_more_comes_than_is_kept_while_a_chat_is_read_from_the_table(
    database: Database,
) -> None:
    told: list[int] = []
    reached, go = asyncio.Event(), asyncio.Event()

    async def consumer(heard: Update) -> None:
        reached.set()
        await go.wait()
        told.append(heard.update_id)

    writer = Writer(database, lambda *_: None, nats=False)
    feeder = Feeder("test", consumer, database, writer, Readers(), asyncio.sleep)
    await served(database)
    await feeder.open()
    for numbers in (range(1), range(1, COUNT)):
        updates = [update(number) for number in numbers]
        async with database.command("store") as unit:
            _, rows = await store.keep_updates(unit, {"analyst": 2}, updates, unit.now)
        for one in updates:
            feeder.hear(rows[one.event_id], one)
        async with asyncio.timeout(20):
            await reached.wait()
    go.set()
    async with asyncio.timeout(20):
        await feeder.caught_up("analyst")
    await feeder.close(1)
    await writer.close()
    assert told == list(range(COUNT))


async def test_what_cannot_be_left_out_while_the_database_is_away_is_told_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    failures = iter(range(2))
    monkeypatch.setattr(feeding, "TRIES", 2)

    async def consumer(heard: Update) -> None:
        if heard.update_id == 1 and next(failures, None) is not None:
            raise Unavailable("The database does not answer.")
        told.append(heard.update_id)

    def command(name: str) -> Any:
        if name == "leave out an update":
            raise Unavailable("The database does not answer.")
        return commands(name)

    async def at_once(_: float) -> None:
        await asyncio.sleep(0)

    writer = Writer(database, lambda *_: None, nats=False)
    feeder = Feeder("test", consumer, database, writer, Readers(), at_once)
    await served(database)
    await feeder.open()
    commands = database.command
    monkeypatch.setattr(database, "command", command)
    for numbers in (range(1), range(1, 3)):
        updates = [update(number) for number in numbers]
        async with commands("store") as unit:
            _, rows = await store.keep_updates(unit, {"analyst": 2}, updates, unit.now)
        for one in updates:
            feeder.hear(rows[one.event_id], one)
        async with asyncio.timeout(10):
            await feeder.caught_up("analyst")
    await feeder.close(1)
    await writer.close()
    assert told == [0, 1, 2]


async def test_of_a_bot_that_somebody_else_took_nothing_is_stored(database: Database) -> None:
    await served(database)
    async with database.command("store") as unit:
        assert await store.keep_updates(unit, {"analyst": 1}, [update(1)], None) == (set(), {})
        held, kept = await store.keep_updates(unit, {"analyst": 2}, [update(1)], None)
        assert (held, list(kept)) == ({"analyst"}, ["bot:1:1"])
        assert await store.keep_updates(unit, {"analyst": 2}, [update(1)], None) == ({"analyst"}, {})


async def test_a_lonely_write_waits_for_nothing_and_what_comes_soon_after_shares_the_next() -> None:
    batches: list[list[int]] = []
    rests: list[float] = []
    go = asyncio.Event()

    async def commit(items: Sequence[int]) -> Sequence[int]:
        batches.append(list(items))
        return items

    async def sleep(seconds: float) -> None:
        rests.append(seconds)
        await go.wait()

    writes: Batches[int, int] = Batches(commit, pace=0.5, sleep=sleep, monotonic=lambda: 7.0)
    await writes.add("a", 0)
    later = [asyncio.create_task(writes.add("a", number)) for number in range(1, 4)]
    while not rests:
        await asyncio.sleep(0)
    later.append(asyncio.create_task(writes.add("b", 4)))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*later)
    assert (rests, [sorted(batch) for batch in batches]) == ([0.5], [[0], [1, 2, 3, 4]])


async def test_how_far_was_told_is_forgotten_with_the_last_update_of_a_chat_and_nothing_is_told_again(
    database: Database, tmp_path: Path
) -> None:
    heard, database.clock = Heard(), ManualClock()
    with FakeTelegram(TOKEN) as telegram:
        room = TelegramRoom(database, tmp_path, telegram.base)
        await room.bots.register("analyst", TOKEN)
        for text, chat, days in (("one", 1, 10), ("two", 2, 5), ("three", 1, 0)):
            gateway = room.gateway()
            gateway.add("test", heard)
            async with running(gateway):
                telegram.say(text, chat=chat)
                await until(lambda text=text: heard.texts[-1:] == [text])
            await room.bots.forget_old()
            assert await places(database) == {"one": {1}, "two": {1, 2}, "three": {1, 2}}[text]
            database.clock.go(days * 24 * 3600)
        database.clock.go(10 * 24 * 3600)
        await room.bots.forget_old()
    assert await places(database) == {1}
    assert heard.texts == ["one", "two", "three"]


async def places(database: Database) -> set[int]:
    async with database.read() as session:
        return {place.chat_id for place in (await session.exec(select(Told))).all() if place.agent_id}
