"""A notify room with its surroundings: a clock of its own, one bot, its listener, a desk that delivers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlmodel import col, select

from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.journal import Event, OutboxMessage
from quarterdeck.kernel.settings import Settings
from quarterdeck.notify.channels.log import LogChannel
from quarterdeck.notify.channels.telegram import TelegramChannel
from quarterdeck.notify.model import Round
from quarterdeck.notify.service import Notify
from quarterdeck.telegram.model import DESK
from tests.fakes.clock import ManualClock
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import TelegramRoom, running


def telegram_connection(telegram: FakeTelegram, chat: object = CHAT, token: str = TOKEN) -> dict[str, Any]:
    return {"bot_token": token, "chat_id": str(chat), "api_base": telegram.base}


def notify_of(room: TelegramRoom, **settings: Any) -> Notify:
    """A notify room that speaks through the bots of that telegram room."""
    channels = [LogChannel(), TelegramChannel(room.connections, room.bots, room.sends)]
    return Notify(room.database, Settings.model_validate(settings), channels)


class NotifyRoom:
    """`tell` records events, `deliver` does a round, `deliver_all` lets time pass until all is told."""

    def __init__(self, database: Database, folder: Path, base: str = "", **settings: Any) -> None:
        self.clock = ManualClock()
        self.database = database
        database.clock = self.clock
        self.telegram = TelegramRoom(database, folder, base)
        self.notify = notify_of(self.telegram, **settings)
        database.reactions = [self.notify.react]

    async def connect(self, value: Mapping[str, Any]) -> None:
        """Give the desk its bot and its chat."""
        async with self.database.command("connect") as unit:
            await self.telegram.connections.put(unit, "telegram", "default", value, Source.API)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """While the bots' listener runs; when it waits, the clock goes on by so much."""
        async with running(self.telegram.gateway(sleep=self._sleep)) as gateway, asyncio.timeout(20):
            while DESK not in gateway.agents:
                await asyncio.sleep(0.01)
            yield

    async def _sleep(self, seconds: float) -> None:
        self.clock.go(seconds)
        await asyncio.sleep(0.001)

    async def tell(self, *reasons: object, item: str = "ET-007") -> None:
        """One `error` event each, one command each."""
        for reason in reasons:
            async with self.database.command("tell") as unit:
                unit.record("error", item=item, reason=str(reason))

    async def subscribe(self, *entries: object) -> None:
        async with self.database.command("subscribe") as unit:
            await self.notify.import_subscriptions(unit, entries)

    async def deliver(self) -> Round:
        return await self.notify.deliver_round()

    async def deliver_all(self, seconds: float = 20) -> list[Round]:
        """Come again until nothing waits."""
        done = []
        async with asyncio.timeout(seconds):
            while not done or done[-1].next_at is not None:
                done.append(await self.deliver())
                await asyncio.sleep(0.01)
        return done

    async def outbox(self) -> list[OutboxMessage]:
        """All messages, oldest first."""
        async with self.database.read() as session:
            return list((await session.exec(select(OutboxMessage).order_by(col(OutboxMessage.id)))).all())

    async def events(self, kind: str) -> list[Event]:
        """All events of a kind, oldest first."""
        async with self.database.read() as session:
            wanted = select(Event).where(col(Event.kind) == kind).order_by(col(Event.id))
            return list((await session.exec(wanted)).all())
