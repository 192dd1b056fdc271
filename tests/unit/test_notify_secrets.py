"""The bot's token stands in every address that is called, and must stand nowhere else."""

import asyncio
import logging

import pytest
from structlog.testing import capture_logs

from quarterdeck.kernel import http
from tests.fakes.notifying import FixedConnections, NotifyRoom, telegram_connection
from tests.fakes.telegram import FakeTelegram

CANARY = "7000000009:AAcanary-canary-canary-canary-canary1"


@pytest.fixture
def telegram():
    with FakeTelegram(CANARY) as server:
        yield server


@pytest.fixture
async def room(database, telegram):
    connection = telegram_connection(telegram, token=CANARY)
    made = NotifyRoom(database, FixedConnections(telegram=connection))
    yield made
    await made.notify.close()


def _echo(room: NotifyRoom, telegram: FakeTelegram) -> None:
    telegram.fail("sendMessage", 404, f"Not Found: /bot{CANARY}/sendMessage")


def _down(room: NotifyRoom, telegram: FakeTelegram) -> None:
    telegram.down()


def _dropped(room: NotifyRoom, telegram: FakeTelegram) -> None:
    telegram.drop()


def _hanging(room: NotifyRoom, telegram: FakeTelegram) -> None:
    channel = room.notify.channels["telegram"]
    channel._client = http.client("Telegram", seconds=0.2, attempts=1)


def _no_address(room: NotifyRoom, telegram: FakeTelegram) -> None:
    room.connections.values["telegram"]["api_base"] = "http://[broken"


def _no_http(room: NotifyRoom, telegram: FakeTelegram) -> None:
    room.connections.values["telegram"]["api_base"] = "ftp://127.0.0.1"


def _babble(room: NotifyRoom, telegram: FakeTelegram) -> None:
    telegram.babble("sendMessage", 200, b"hello, this is no Bot API")


def _fine(room: NotifyRoom, telegram: FakeTelegram) -> None:
    """Nothing goes wrong."""


@pytest.mark.parametrize(
    "trouble",
    [_fine, _echo, _down, _dropped, _hanging, _no_address, _no_http, _babble],
    ids=lambda t: t.__name__,
)
async def test_the_token_appears_in_no_log_and_no_record(room, telegram, caplog, trouble):
    caplog.set_level(logging.DEBUG)
    trouble(room, telegram)
    if trouble is _hanging:
        telegram.hang()
    await room.tell("a")
    with capture_logs() as lines:
        done = await room.deliver()
        tested = await room.notify.test("telegram")
    assert done.sent == (trouble is _fine)
    outbox = [message.model_dump() for message in await room.outbox()]
    everything = f"{lines} {caplog.text} {outbox} {tested} {done}"
    assert "canary" not in everything


async def test_the_token_is_not_shown_when_the_bot_is(room):
    bot = await room.notify.channels["telegram"]._bot()
    assert bot is not None
    assert bot.token == CANARY
    assert "canary" not in f"{bot!r} {bot}"


async def test_a_cancelled_round_tells_no_token(room, telegram, caplog):
    _hanging(room, telegram)
    telegram.hang()
    await room.tell("a")
    delivering = asyncio.create_task(room.deliver())
    await asyncio.to_thread(telegram.wait_for, lambda: bool(telegram.calls))
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError) as error:
        await delivering
    assert "canary" not in f"{error.value!r} {caplog.text}"
