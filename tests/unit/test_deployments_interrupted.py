"""Ctrl-C while PostgreSQL is just starting: whoever had it started gives it up all the same."""

import asyncio
import signal
import threading
from collections.abc import Awaitable
from pathlib import Path

import pytest

from deployments import setup, up
from quarterdeck import house
from quarterdeck.kernel.postgres import CORE, Server
from quarterdeck.kernel.settings import Settings


class SlowServer(Server):
    """A server that starts when it is told to."""

    def __init__(self) -> None:
        self.is_starting, self.may_start = threading.Event(), threading.Event()
        self.users = self.ever_used = 0

    def acquire(self) -> None:
        self.is_starting.set()
        assert self.may_start.wait(20)
        self.users += 1
        self.ever_used += 1

    def release(self) -> None:
        self.users -= 1

    def ensure_running(self) -> bool:
        return False

    def url(self, database: str = CORE, *, driver: str = "psycopg") -> str:
        return f"postgresql+{driver}://nobody@127.0.0.1:9/{database}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> SlowServer:
    """The server of every home."""
    made = SlowServer()
    for module in (up, setup, house):
        monkeypatch.setattr(module, "server_for", lambda _: made)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", prefect_port=0)


async def turn() -> None:
    """Let everybody hear what just happened."""
    for _ in range(20):
        await asyncio.sleep(0)


async def starts_after_all(server: SlowServer, ending: Awaitable[object]) -> None:
    await turn()
    server.may_start.set()
    await ending


async def test_a_desk_that_is_stopped_while_its_database_starts_leaves_none(
    server: SlowServer, settings: Settings
) -> None:
    desk = up.OpenDesk(settings, lambda _: None)
    opening = asyncio.create_task(desk.open())
    await asyncio.to_thread(server.is_starting.wait, 20)
    desk.ask_to_stop()
    await starts_after_all(server, opening)
    await desk.close()
    assert (server.ever_used, server.users) == (1, 0)


async def test_a_terminal_that_is_closed_ends_the_desk_in_order(
    server: SlowServer, settings: Settings
) -> None:
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        anywhere = settings.model_copy(update={"http_port": 0})
        open_desk = asyncio.create_task(up.run(anywhere, lambda _: None, ready=lambda _: None))
        await asyncio.to_thread(server.is_starting.wait, 20)
        signal.raise_signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            await starts_after_all(server, open_desk)
        assert (open_desk.result(), server.users) == (0, 0)
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_house_that_is_given_up_while_its_database_starts_leaves_none(
    server: SlowServer, settings: Settings
) -> None:
    opening = asyncio.create_task(house.open_house(settings).__aenter__())
    await asyncio.to_thread(server.is_starting.wait, 20)
    opening.cancel()
    await starts_after_all(server, asyncio.wait([opening]))
    assert opening.cancelled()
    assert (server.ever_used, server.users) == (1, 0)


async def test_a_setup_that_is_given_up_while_its_database_starts_leaves_none(
    server: SlowServer, settings: Settings
) -> None:
    opening = asyncio.create_task(setup.prefect_at_hand(settings).__aenter__())
    await asyncio.to_thread(server.is_starting.wait, 20)
    opening.cancel()
    await starts_after_all(server, asyncio.wait([opening]))
    assert opening.cancelled()
    assert (server.ever_used, server.users) == (1, 0)
