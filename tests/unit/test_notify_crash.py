"""A desk ends at every point of handing over; another goes on. Nothing is lost, nothing comes twice.

Here it is cut off by an error; `tests/chaos/test_kill_messages.py` kills the processes themselves.
"""

import pytest
from sqlmodel import select

from quarterdeck.kernel import crash
from quarterdeck.telegram.model import DESK, Bot, StoredSend
from quarterdeck.telegram.rules import Done
from quarterdeck.telegram.writer import Outcome, Writer
from tests.fakes.notifying import NotifyRoom, telegram_connection
from tests.fakes.telegram import TOKEN, FakeTelegram


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def telegram():
    with FakeTelegram() as server:
        yield server


@pytest.fixture
async def room(database, telegram, tmp_path):
    made = NotifyRoom(database, tmp_path, telegram.base)
    await made.connect(telegram_connection(telegram))
    await made.telegram.bots.register(DESK, TOKEN, connection="telegram/default")
    return made


async def queued(room):
    async with room.database.read() as session:
        rows = (await session.exec(select(StoredSend).order_by(StoredSend.id))).all()
    return [row.content["text"] for row in rows]


async def cut_off(room, monkeypatch, point):
    def end(name):
        if name == point:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(crash, "point", end)
        with pytest.raises(Killed):
            await room.deliver()


async def test_a_desk_that_ends_while_handing_over_loses_nothing_and_doubles_nothing(room, monkeypatch):
    points = ("before hand over messages", "before handing over messages", "after hand over messages")
    for number, point in enumerate(points, start=1):
        await room.tell(f"{number}")
        await cut_off(room, monkeypatch, point)
        await room.deliver()
        assert await queued(room) == [f"🔴 ET-007: ERROR — {n}" for n in range(1, number + 1)]


async def test_a_desk_that_ends_before_it_wrote_down_what_was_sent_sends_nothing_again(room, monkeypatch):
    await room.tell("one")
    await room.deliver()
    writer = Writer(room.database, lambda *_: None, nats=False)
    async with room.database.read() as session:
        lease = await room.telegram.bots.lease_of(await session.get(Bot, DESK))
    await writer.end(lease, Outcome(1, Done({"message_id": 7}), is_last=True))
    await cut_off(room, monkeypatch, "before record sent messages")
    done = await room.deliver()
    assert (done.sent, done.waiting) == (1, 0)
    [message] = await room.outbox()
    assert (message.external_id, message.possibly_twice) == ("7", False)
    assert len(await queued(room)) == 1
