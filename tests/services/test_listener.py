"""The listener alone, where no Prefect is: one serves, another waits and takes over."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deployments.supervisor import ROOT
from quarterdeck.house import open_house
from quarterdeck.kernel.settings import Settings
from quarterdeck.telegram.wire import Send
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram, token_of

pytestmark = [pytest.mark.services, pytest.mark.timeout(500)]

PATIENCE = 120
OTHER = token_of(2)


@pytest.fixture
def telegram() -> Iterator[FakeTelegram]:
    with FakeTelegram(TOKEN, OTHER) as server:
        yield server


@pytest.fixture
async def home(tmp_path: Path, telegram: FakeTelegram, database_url: str) -> Settings:
    settings = Settings(
        home=tmp_path / "home",
        database_url=database_url,
        prefect_port=9,
        blocks=False,
        telegram_api_base=telegram.base,
    )
    async with open_house(settings) as house:
        await house.bots.register("analyst", TOKEN)
        await house.bots.register("developer", OTHER)
    return settings


@contextmanager
def alone(settings: Settings) -> Iterator["subprocess.Popen[bytes]"]:
    """`quarterdeck bot run`, where no Prefect is."""
    told = {
        "QUARTERDECK_HOME": str(settings.home),
        "QUARTERDECK_DATABASE_URL": settings.database_url.get_secret_value() if settings.database_url else "",
        "QUARTERDECK_BLOCKS": "off",
        "TELEGRAM_API_BASE": settings.telegram_api_base,
    }
    command = [sys.executable, "-m", "deployments.cli", "bot", "run"]
    process = subprocess.Popen(command, env=os.environ | told, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


async def test_alone_one_serves_and_another_takes_over_when_it_is_killed(
    home: Settings, telegram: FakeTelegram
) -> None:
    with alone(home) as first:
        telegram.wait_for(lambda: telegram.is_polled(TOKEN) and telegram.is_polled(OTHER), PATIENCE)
        with alone(home) as second:
            began = len(telegram.calls)
            telegram.wait_for(lambda: is_connected(second, home), PATIENCE)
            telegram.say("one")
            telegram.wait_for(lambda: telegram.unread() == 0, PATIENCE)
            first.kill()
            first.wait(10)
            telegram.wait_for(lambda: telegram.is_polled(TOKEN) and telegram.is_polled(OTHER), PATIENCE)
            telegram.say("two")
            telegram.wait_for(lambda: telegram.unread() == 0, PATIENCE)
            async with open_house(home) as house:
                await house.sends.put(Send("analyst", CHAT, "A last word"))
                telegram.wait_for(lambda: "A last word" in telegram.texts(), PATIENCE)
                second.terminate()
                assert second.wait(PATIENCE) == 0
                assert await house.bots.is_needed()  # it gave its bots back at once
    assert all(call.answer is None or call.answer.get("error_code") != 409 for call in telegram.calls[began:])


def is_connected(process: "subprocess.Popen[bytes]", settings: Settings) -> bool:
    """Whether it is past its start: it talks to the database."""
    try:
        return bool(psutil.Process(process.pid).net_connections("all")) and process.poll() is None
    except psutil.Error:
        return False
