"""A desk is killed at every point of a delivery; another one goes on. Nothing is lost, nothing is hidden."""

from datetime import UTC, datetime, timedelta

import pytest

from quarterdeck.kernel.journal import Delivery
from tests.fakes.forking import Forks
from tests.fakes.notifying import FixedConnections, NotifyRoom, telegram_connection
from tests.fakes.telegram import FakeTelegram

FIRST, SECOND = "🔴 ET-007: ERROR — first", "🔴 ET-007: ERROR — second"


@pytest.fixture
def telegram():
    with FakeTelegram() as server:
        yield server


@pytest.fixture
async def room(database, telegram):
    made = NotifyRoom(database, FixedConnections(telegram=telegram_connection(telegram)))
    made.clock.time = datetime.now(UTC)  # the killed desk goes by the machine's clock
    yield made
    await made.notify.close()


async def killed_desk(forks: Forks, point: str, *arguments: str) -> None:
    ended = await forks.run("tests.fakes.delivering_desk", *arguments, QUARTERDECK_CRASH_AT=point)
    assert ended.code == -9


@pytest.mark.parametrize(
    ("point", "arrived", "marked"),
    [
        ("after take lanes", [FIRST], False),
        ("before begin sending a message", [FIRST], False),
        ("after begin sending a message", [FIRST], True),
        ("before sending a message", [FIRST], True),
        ("after sending a message", [FIRST, FIRST], True),
        ("before record a sent message", [FIRST, FIRST], True),
        ("after record a sent message", [FIRST], False),
    ],
)
async def test_a_killed_desk_loses_nothing_and_hides_nothing(
    forks, room, telegram, database_url, point, arrived, marked
):
    await room.tell("first", "second")
    await killed_desk(forks, point, database_url, telegram.base)
    room.clock.time = datetime.now(UTC) + timedelta(seconds=16)  # its lease is over
    await room.deliver_all()
    assert telegram.texts() == [*arrived, SECOND]
    first, second = await room.outbox()
    assert (first.state, first.possibly_twice) == (Delivery.SENT, marked)
    assert (second.state, second.possibly_twice) == (Delivery.SENT, False)


async def test_before_its_lease_is_over_nobody_sends_in_a_dead_desks_place(
    forks, room, telegram, database_url
):
    await room.tell("first")
    await killed_desk(forks, "after sending a message", database_url, telegram.base)
    done = await room.deliver()
    assert (done.sent, done.waiting) == (0, 1)
    assert done.next_at > room.clock.now()
    assert telegram.texts() == [FIRST]


async def test_messages_that_were_begun_together_are_marked_together(forks, room, database_url):
    room.connections.values.clear()
    await room.tell("first", "second")
    await killed_desk(forks, "after sending a message", database_url)
    await room.tell("third")
    room.clock.time = datetime.now(UTC) + timedelta(seconds=16)
    assert (await room.deliver()).sent == 3
    assert [message.possibly_twice for message in await room.outbox()] == [True, True, False]
