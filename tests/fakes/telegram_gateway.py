"""A gateway that runs in a test: its own registry, queue and listener on the test's database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlmodel import col, select

from quarterdeck.kernel.bus import PostgresBus
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.journal import Event
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.telegram.bots import Bots
from quarterdeck.telegram.limits import Sleep
from quarterdeck.telegram.queue import Queue
from quarterdeck.telegram.requests import Asked
from quarterdeck.telegram.wire import Update

if TYPE_CHECKING:  # it imports aiogram, which takes seconds
    from quarterdeck.telegram.gateway import Gateway


class Heard:
    """A consumer that remembers what it was told."""

    def __init__(self) -> None:
        self.updates: list[Update] = []

    async def __call__(self, update: Update) -> None:
        self.updates.append(update)

    @property
    def texts(self) -> list[str | None]:
        return [update.text for update in self.updates]


class TelegramRoom:
    """The telegram room of one home."""

    def __init__(self, database: Database, folder: Path, base: str) -> None:
        self.database = database
        self.folder = folder
        self.keyring = Keyring(folder / "keys")
        self.connections = Connections(database, self.keyring)
        self.bots = Bots(database, self.keyring, self.connections, base)
        self.sends = Queue(database, self.bots)
        self.asked = Asked(self.sends, (folder / "files",))

    def gateway(self, *, nats_url: str = "", sleep: Sleep = asyncio.sleep) -> "Gateway":
        from quarterdeck.telegram.gateway import Gateway

        bus = PostgresBus(self.database.url)
        return Gateway(self.database, bus, self.bots, self.asked, nats_url=nats_url, sleep=sleep)


@asynccontextmanager
async def running(gateway: "Gateway") -> AsyncIterator["Gateway"]:
    """The gateway while it runs; it ends in order."""
    stopping = asyncio.Event()
    task = asyncio.create_task(gateway.run(stopping))
    try:
        yield gateway
    finally:
        stopping.set()
        await asyncio.wait_for(task, 20)


async def at_once(_: float) -> None:
    """For a gateway that shall not wait as long as it should."""
    await asyncio.sleep(0.005)


async def errors(room: TelegramRoom) -> list[str]:
    """What people were told of as errors, in order."""
    async with room.database.read() as session:
        found = await session.exec(select(Event).where(Event.kind == "error").order_by(col(Event.id)))
        return [event.data["reason"] for event in found]
