"""Publishes what was stored, in order: on NATS JetStream, or on the bus that is built in.

The table is the truth: what NATS does not take now waits there. Every event carries its id as `Nats-Msg-Id`,
so that a repetition after a crash is recognised by the stream.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from quarterdeck.kernel import crash
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.bell import rung
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.telegram import store
from quarterdeck.telegram.model import Bot, StoredUpdate
from quarterdeck.telegram.requests import Asked, answered
from quarterdeck.telegram.wire import REGISTERED, SEND, UPDATE, event_of

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

log = structlog.get_logger(__name__)

STREAM = "AGENT_TELEGRAM"
DEDUPLICATED = 3_600.0
"""Seconds for which the stream knows an event again."""

KEPT = 7 * 24 * 3_600.0
"""Seconds for which the stream keeps events; an existing stream keeps its own settings."""

BATCH, OF_ONE = 64, 8
"""Updates that are published in one round, and those of one agent among them."""

ACK_SECONDS = 3.0
LOOK_ANYWAY = 5.0
LONGEST_PAUSE = 5.0

Routed = Callable[[str, datetime], None]
"""Called with the agent whose update the bus has."""


def announcement(bot: Bot) -> dict[str, Any]:
    """The event `bot.registered`: never the token."""
    return {
        "event_id": f"{bot.bot_id}:registered:{bot.registered_at.isoformat()}",
        "agent_id": bot.agent_id,
        "bot_id": bot.bot_id,
        "username": bot.username,
        "schema": 1,
    }


class EmbeddedPublisher:
    """Updates were published with the command that stored them; what is left are registrations."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.bell = asyncio.Event()

    def hear(self, agent_id: str) -> None:
        """An update of that agent was stored, and so published."""

    async def caught_up(self, agent_id: str) -> None:
        """Returns when the agent's updates that were heard are published."""

    async def run(self) -> None:
        """For ever."""
        while True:
            self.bell.clear()
            try:
                await self._announce()
            except QuarterdeckError as error:
                log.warning("publishing_waits", reason=error.detail)
            await rung(self.bell, LOOK_ANYWAY)

    async def _announce(self) -> None:
        async with self._database.read() as session:
            bots = await store.unannounced(session)
        for bot in bots:
            async with self._database.command("announce bot") as unit:
                unit.wake(REGISTERED, bot.agent_id)
                await store.mark_announced(unit, bot.agent_id, bot.registered_at)


class NatsPublisher:
    """Publishes on NATS, and answers requests on `agent.telegram.send`."""

    def __init__(self, database: Database, address: str, asked: Asked, routed: Routed) -> None:
        self._database = database
        self._address = address
        self._asked = asked
        self._routed = routed
        self._answering: set[asyncio.Task[None]] = set()
        self._behind: Counter[str] = Counter()
        self._moved = asyncio.Condition()
        self.bell = asyncio.Event()

    def hear(self, agent_id: str) -> None:
        """An update of that agent was stored."""
        self._behind[agent_id] += 1
        self.bell.set()

    async def caught_up(self, agent_id: str) -> None:
        """Returns when the agent's updates that were heard are published."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._behind[agent_id] <= 0)

    async def run(self) -> None:
        """For ever; what fails is tried again, in order."""
        pause = 0.2
        while True:
            try:
                await self._serve()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # nats-py raises a dozen kinds, and all of them mean: later
                log.warning("nats_waits", reason=logs.redact(f"{type(error).__name__}: {error}"), pause=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _serve(self) -> None:
        import nats

        client = await nats.connect(
            self._address,
            name="quarterdeck-telegram",
            connect_timeout=3,
            allow_reconnect=False,
            error_cb=_ignore,
        )
        try:
            stream = client.jetstream(timeout=ACK_SECONDS)
            await _must_have_stream(stream)
            await client.subscribe(SEND, queue="quarterdeck", cb=self._on_request)
            while client.is_connected:
                self.bell.clear()
                while await self._publish(stream):
                    pass
                await rung(self.bell, LOOK_ANYWAY)
        finally:
            await _close(client)

    async def _publish(self, stream: "JetStreamContext") -> int:
        """One batch; how many updates it had. What fails stays, so that each agent's order is kept."""
        async with self._database.command("publish updates") as unit:
            if not await store.only_publisher(unit):
                return 0
            for bot in await store.unannounced(unit.session):
                await self._send(stream, REGISTERED, announcement(bot))
                await store.mark_announced(unit, bot.agent_id, bot.registered_at)
            rows = await store.unpublished(unit.session, OF_ONE, BATCH)
            done = await self._send_all(unit, stream, rows)
        await self._published(done, unit.now)
        if len(done) < len(rows):
            raise ConnectionError("the stream did not take an event")
        return len(rows)

    async def _send_all(
        self, unit: Unit, stream: "JetStreamContext", rows: Sequence[StoredUpdate]
    ) -> list[StoredUpdate]:
        """Agents side by side, each in its order; what the stream took."""
        of_agents: dict[str, list[StoredUpdate]] = {}
        for row in rows:
            of_agents.setdefault(row.agent_id, []).append(row)
        taken = await asyncio.gather(*(self._send_rows(stream, one) for one in of_agents.values()))
        done = [row for one in taken for row in one]
        if done:
            await store.mark_published(unit, [row.id for row in done if row.id is not None])
        return done

    async def _send_rows(
        self, stream: "JetStreamContext", rows: Sequence[StoredUpdate]
    ) -> list[StoredUpdate]:
        done: list[StoredUpdate] = []
        for row in rows:
            try:
                await self._send(stream, UPDATE, event_of(store.update_of(row)))
            except Exception as error:
                log.warning("event_waits", event_id=row.event_id, reason=f"{type(error).__name__}: {error}")
                break
            crash.point("after publishing an update")
            done.append(row)
        return done

    async def _published(self, done: Sequence[StoredUpdate], at: datetime) -> None:
        for row in done:
            self._routed(row.agent_id, at)
            self._behind[row.agent_id] = max(0, self._behind[row.agent_id] - 1)
        async with self._moved:
            self._moved.notify_all()

    async def _send(self, stream: "JetStreamContext", subject: str, event: dict[str, Any]) -> None:
        payload = json.dumps(event, ensure_ascii=False).encode()
        if len(payload) > stream._nc.max_payload:  # what it says stays, only Telegram's own form is left out
            payload = json.dumps({**event, "raw_update": {}}, ensure_ascii=False).encode()
        await stream.publish(subject, payload, headers={"Nats-Msg-Id": str(event["event_id"])})

    async def _on_request(self, message: "Msg") -> None:
        """Requests are answered side by side."""
        task = asyncio.create_task(self._answer(message))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, message: "Msg") -> None:
        reply = await answered(self._asked, message.data)
        if message.reply:
            with suppress(Exception):  # whoever asked is gone, or NATS is
                await message.respond(json.dumps(reply, ensure_ascii=False).encode())


async def _must_have_stream(stream: "JetStreamContext") -> None:
    from nats.js.api import DiscardPolicy, StreamConfig
    from nats.js.errors import NotFoundError

    try:
        await stream.stream_info(STREAM)
    except NotFoundError:
        await stream.add_stream(
            StreamConfig(
                name=STREAM,
                subjects=[UPDATE, REGISTERED],
                duplicate_window=DEDUPLICATED,
                max_age=KEPT,
                discard=DiscardPolicy.NEW,
            )
        )


async def _close(client: "Client") -> None:
    with suppress(Exception):
        await asyncio.wait_for(client.close(), 2)


async def _ignore(error: Exception) -> None:
    """What matters is raised where it happens."""
