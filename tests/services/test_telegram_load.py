"""Ten thousand messages of ten bots in fifty chats, on a clock that the Bot API server goes by, too."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.kernel.database import Database
from quarterdeck.telegram.model import StoredSend
from quarterdeck.telegram.wire import Send, document_of
from tests.fakes.clock import LeapingClock
from tests.fakes.telegram import FakeTelegram, Limits, token_of
from tests.fakes.telegram_gateway import TelegramRoom, running

pytestmark = [pytest.mark.services, pytest.mark.timeout(1200)]

BOTS, GROUPS, CHATS, MESSAGES = 10, 5, 50, 10_000
PLACES = [-5000 - number for number in range(GROUPS)] + [6000 + number for number in range(CHATS - GROUPS)]
REFUSED = 20
"""So many messages are answered with 429 in between."""


@pytest.fixture
def clock() -> LeapingClock:
    return LeapingClock()


@pytest.fixture
def telegram(clock: LeapingClock) -> Iterator[FakeTelegram]:
    limits = Limits(clock, enforced=False)
    with FakeTelegram(*(token_of(number) for number in range(1, BOTS + 1)), limits=limits) as server:
        yield server


async def test_all_messages_arrive_in_order_and_no_limit_is_ever_exceeded(
    database_url: str, tmp_path: Path, clock: LeapingClock, telegram: FakeTelegram
) -> None:
    database = Database(database_url, clock=clock)
    room = TelegramRoom(database, tmp_path, telegram.base)
    for number, token in enumerate(telegram.tokens):
        await room.bots.register(f"agent-{number}", token)
    expected = await _queue_all(database)
    telegram.fail("sendMessage", 429, "Too Many Requests: retry after 7", times=REFUSED, retry_after=7)
    going = asyncio.create_task(clock.run(lambda: len(telegram.calls)))
    async with running(room.gateway(sleep=clock.sleep)):
        while len(telegram.sent()) < MESSAGES:
            await asyncio.sleep(0.2)
        going.cancel()
    arrived: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for call in telegram.sent():
        arrived[call.token, str(call.body["chat_id"])].append(call.body["text"])
    await database.close()
    assert arrived == expected
    assert telegram.violations == []


async def _queue_all(database: Database) -> dict[tuple[str, str], list[str]]:
    """Every bot says something in every chat, over and over; what is to arrive there, in order."""
    expected: dict[tuple[str, str], list[str]] = defaultdict(list)
    tokens = [token_of(number) for number in range(1, BOTS + 1)]
    async with database.command("queue all") as unit:
        for number in range(MESSAGES):
            bot, place = number % BOTS, PLACES[number // BOTS % CHATS]
            said = Send(f"agent-{bot}", place, f"message {number}")
            row = StoredSend(
                agent_id=said.agent_id, chat=str(place), content=document_of(said), created_at=unit.now
            )
            unit.session.add(row)
            expected[tokens[bot], str(place)].append(said.text)
    return expected
