"""Publishes what was stored, in order: on NATS JetStream, or on the bus that is built in.

The table is the truth: what NATS does not take now waits there. Every event carries its id as `Nats-Msg-Id`,
so that a repetition after a crash is recognised by the stream.
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
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
from quarterdeck.telegram.wire import REGISTERED, SEND, UPDATE, Update, event_of

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
"""Updates that are published in one round from the table, and those of one agent among them."""

AHEAD = 1_000
"""Updates of an agent that wait in memory; more are read from the table."""

MARK_PACE = 0.2
"""Seconds between two times of writing down what the stream took. What a crash leaves unwritten is published
again, and recognised by the stream."""

SETTLED = timedelta(seconds=10)
"""An update that is still unpublished after this was left by somebody else."""

ELSEWHERE_PAUSE = 0.1

ACK_SECONDS = 3.0
LOOK_ANYWAY = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0

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

    def hear(self, number: int, update: Update) -> None:
        """An update was stored, and so published."""

    def begins(self) -> None:
        """A bot begins to be served here."""
        self.bell.set()

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
    """Publishes on NATS, and answers requests on `agent.telegram.send`.

    What is stored here goes straight from memory to the stream, each agent's updates in their order. That
    holds while the table has nothing older to be published: after a start, a failure or the taking of a bot
    the table is published first. It is looked at now and then for what others left, too.
    """

    def __init__(self, database: Database, address: str, asked: Asked, routed: Routed) -> None:
        self._database = database
        self._address = address
        self._asked = asked
        self._routed = routed
        self._answering: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, deque[tuple[int, Update]]] = {}
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._stream: JetStreamContext | None = None
        self._failure: Exception | None = None
        self._published: list[int] = []
        self._behind: Counter[str] = Counter()
        self._moved = asyncio.Condition()
        self.bell = asyncio.Event()

    def hear(self, number: int, update: Update) -> None:
        """An update was stored."""
        agent_id = update.agent_id
        self._behind[agent_id] += 1
        waiting = self._waiting.setdefault(agent_id, deque())
        waiting.append((number, update))
        if len(waiting) > AHEAD:
            self.begins()
        elif self._stream is not None and agent_id not in self._lanes:
            self._lanes[agent_id] = asyncio.create_task(self._work_off(agent_id, self._stream))

    def begins(self) -> None:
        """A bot begins to be served here: what the table has of it comes first."""
        self._stream = None
        self._waiting.clear()
        self.bell.set()

    async def caught_up(self, agent_id: str) -> None:
        """Returns when the agent's updates that were heard are published."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._behind[agent_id] <= 0)

    async def run(self) -> None:
        """For ever; what fails is tried again, in order."""
        marking = asyncio.create_task(self._mark())
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        try:
            while True:
                began = loop.time()
                try:
                    await self._serve()
                except Exception as error:  # nats-py raises a dozen kinds, and all of them mean: later
                    reason = logs.redact(f"{type(error).__name__}: {error}")
                    say = log.warning if pause == FIRST_PAUSE else log.debug
                    say("nats_waits", reason=reason, pause=pause)
                pause = FIRST_PAUSE if loop.time() - began > LONGEST_PAUSE else pause
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            marking.cancel()
            await asyncio.gather(marking, return_exceptions=True)
            with suppress(QuarterdeckError):  # what is not marked is published again, and recognised
                await self._mark_published()

    async def _serve(self) -> None:
        import nats

        client = await nats.connect(
            self._address,
            name="quarterdeck-telegram",
            connect_timeout=3,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # even the first connection is tried 60 times in silence, two minutes
            reconnect_time_wait=0,
            error_cb=_ignore,
        )
        try:
            stream = client.jetstream(timeout=ACK_SECONDS)
            await _must_have_stream(stream)
            await client.subscribe(SEND, queue="quarterdeck", cb=self._on_request)
            while client.is_connected:
                self.bell.clear()
                await self._publish_table(stream)
                await rung(self.bell, LOOK_ANYWAY)
        finally:
            await self._close_lanes()
            await _close(client)

    # From memory

    async def _work_off(self, agent_id: str, stream: "JetStreamContext") -> None:
        """Publish what waits of an agent, as long as nothing goes wrong."""
        try:
            while self._stream is stream and (waiting := self._waiting.get(agent_id)):
                number, update = waiting.popleft()
                await self._send_update(stream, update)
                self._published.append(number)
                await self._done([agent_id], self._database.clock.now())
        except Exception as error:
            self._failure = error
            self.begins()
        finally:
            self._lanes.pop(agent_id, None)

    async def _close_lanes(self) -> None:
        self.begins()
        lanes = list(self._lanes.values())
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)

    async def _mark(self) -> None:
        """Write down what the stream took, many at once."""
        while True:
            await asyncio.sleep(MARK_PACE)
            try:
                await self._mark_published()
            except QuarterdeckError as error:
                log.warning("publishing_waits", reason=error.detail)

    async def _mark_published(self) -> None:
        numbers, self._published = self._published, []
        if not numbers:
            return
        try:
            async with self._database.command("mark updates published") as unit:
                await store.mark_published(unit, numbers)
        except QuarterdeckError:
            self._published += numbers
            raise

    # From the table

    async def _publish_table(self, stream: "JetStreamContext") -> None:
        """Publish what waits in the table; when nothing does, memory is enough. Raises what went wrong."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._stream is stream:
            while await self._publish(stream, SETTLED):
                pass
            return
        while True:
            self._waiting.clear()  # it is in the table, or comes after what is read there now
            count = await self._publish(stream)
            if count == 0:
                break
            if count is None:
                await asyncio.sleep(ELSEWHERE_PAUSE)
        self._stream = stream
        for agent_id in [agent_id for agent_id in self._waiting if agent_id not in self._lanes]:
            self._lanes[agent_id] = asyncio.create_task(self._work_off(agent_id, stream))

    async def _publish(self, stream: "JetStreamContext", settled: timedelta | None = None) -> int | None:
        """One batch of what is that old; how many updates it had, None: somebody else is at it.

        What fails stays, so that each agent's order is kept.
        """
        await self._mark_published()
        async with self._database.command("publish updates") as unit:
            if not await store.only_publisher(unit):
                return None
            for bot in await store.unannounced(unit.session):
                await self._send(stream, REGISTERED, announcement(bot))
                await store.mark_announced(unit, bot.agent_id, bot.registered_at)
            until = unit.now - settled if settled is not None else None
            rows = await store.unpublished(unit.session, until, OF_ONE, BATCH)
            done = await self._send_all(unit, stream, rows)
        await self._done([row.agent_id for row in done], unit.now)
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
                await self._send_update(stream, store.update_of(row))
            except Exception as error:
                log.warning("event_waits", event_id=row.event_id, reason=f"{type(error).__name__}: {error}")
                break
            done.append(row)
        return done

    async def _done(self, agents: Sequence[str], at: datetime) -> None:
        for agent_id in agents:
            self._routed(agent_id, at)
            self._behind[agent_id] = max(0, self._behind[agent_id] - 1)
        async with self._moved:
            self._moved.notify_all()

    # To the stream

    async def _send_update(self, stream: "JetStreamContext", update: Update) -> None:
        await self._send(stream, UPDATE, event_of(update))
        crash.point("after publishing an update")

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
