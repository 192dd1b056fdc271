"""The bot's token stands in every address that is called, and must stand nowhere else."""

import logging

import pytest
from structlog.testing import capture_logs

from tests.fakes.notifying import NotifyRoom, telegram_connection
from tests.fakes.telegram import FakeTelegram

CANARY = "7000000009:AAcanary-canary-canary-canary-canary1"


@pytest.fixture
def telegram():
    with FakeTelegram(CANARY) as server:
        yield server


def _echo(telegram: FakeTelegram) -> None:
    telegram.fail("sendMessage", 403, f"Forbidden: /bot{CANARY}/sendMessage")


def _dropped(telegram: FakeTelegram) -> None:
    telegram.drop()


def _babble(telegram: FakeTelegram) -> None:
    telegram.babble("sendMessage", 502, b"hello, this is no Bot API")


def _fine(telegram: FakeTelegram) -> None:
    """Nothing goes wrong."""


@pytest.mark.parametrize("trouble", [_fine, _echo, _dropped, _babble], ids=lambda t: t.__name__)
async def test_the_token_appears_in_no_log_and_no_record(database, telegram, tmp_path, caplog, trouble):
    caplog.set_level(logging.DEBUG)
    room = NotifyRoom(database, tmp_path, telegram.base)
    await room.connect(telegram_connection(telegram, token=CANARY))
    with capture_logs() as lines:
        async with room.listening():
            trouble(telegram)
            await room.tell("a")
            done = await room.deliver_all()
            tested = await room.notify.test("telegram")
    outbox = [message.model_dump() for message in await room.outbox()]
    assert outbox[0]["state"] == ("dead" if trouble is _echo else "sent")
    assert "canary" not in f"{lines} {caplog.text} {outbox} {tested} {done}"


async def test_a_token_that_telegram_does_not_know_is_not_repeated_to_whoever_tries_it(
    database, telegram, tmp_path, caplog
):
    room = NotifyRoom(database, tmp_path, telegram.base)
    await room.connect(telegram_connection(telegram, token=CANARY + "x"))
    with capture_logs() as lines:
        tested = await room.notify.test("telegram")
    assert "does not know this token" in tested.detail
    assert "canary" not in f"{lines} {caplog.text} {tested}"
