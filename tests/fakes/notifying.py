"""A notify room with its surroundings: a clock of its own, one Telegram bot, and a desk that delivers."""

from collections.abc import Mapping
from typing import Any

from sqlmodel import col, select

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.journal import OutboxMessage
from quarterdeck.kernel.settings import Settings
from quarterdeck.notify.model import Round
from quarterdeck.notify.service import Notify
from tests.fakes.clock import ManualClock
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram


class FixedConnections:
    """Connections that a test sets."""

    def __init__(self, **values: Mapping[str, Any]) -> None:
        self.values = dict(values)

    async def get(
        self, kind: str, name: str = "default", *, session: object = None
    ) -> Mapping[str, Any] | None:
        return self.values.get(kind)


def telegram_connection(telegram: FakeTelegram, chat: object = CHAT, token: str = TOKEN) -> dict[str, Any]:
    return {"bot_token": token, "chat_id": chat, "api_base": telegram.base}


class NotifyRoom:
    """`tell` records events, `deliver` sends what is due, `deliver_all` lets time pass until all is sent."""

    def __init__(self, database: Database, connections: FixedConnections, **settings: Any) -> None:
        self.clock = ManualClock()
        self.database = database
        self.connections = connections
        database.clock = self.clock
        self.notify = Notify(database, connections, Settings.model_validate(settings), jitter=lambda: 0.0)
        database.reactions = [self.notify.react]

    async def tell(self, *reasons: str, item: str = "ET-007") -> None:
        """One `error` event each, one command each."""
        for reason in reasons:
            async with self.database.command("tell") as unit:
                unit.record("error", item=item, reason=reason)

    async def subscribe(self, *entries: object) -> None:
        async with self.database.command("subscribe") as unit:
            await self.notify.import_subscriptions(unit, entries)

    async def deliver(self) -> Round:
        return await self.notify.deliver_round()

    async def deliver_all(self, rounds: int = 200) -> list[Round]:
        """Come again exactly when a round says so, until nothing waits."""
        done = []
        for _ in range(rounds):
            done.append(await self.deliver())
            if done[-1].next_at is None:
                return done
            self.clock.go_to(done[-1].next_at)
        raise AssertionError(f"still waiting after {rounds} rounds: {done[-1]}")

    async def outbox(self) -> list[OutboxMessage]:
        """All messages, oldest first."""
        async with self.database.read() as session:
            return list((await session.exec(select(OutboxMessage).order_by(col(OutboxMessage.id)))).all())
