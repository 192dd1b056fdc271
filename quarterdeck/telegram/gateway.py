"""The gateway: serves every bot that nobody else serves, in the listener's process.

A bot has its own tasks, its own connections and its own limits; what they share is the database, where many
small writes go into one transaction. A bot is held by a lease with a fence: a listener that was cut off may
go on, but can store, begin and tell nothing any more.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from quarterdeck.kernel.bus import Bus
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Misconfigured, NotFound, QuarterdeckError, Unavailable
from quarterdeck.telegram import store
from quarterdeck.telegram.bots import Bots
from quarterdeck.telegram.feeder import Feeder
from quarterdeck.telegram.limits import Sleep
from quarterdeck.telegram.model import BOTS_TOPIC, SENDS_TOPIC, Bot, Lease, Standing
from quarterdeck.telegram.moves import Follower, Moves
from quarterdeck.telegram.publisher import EmbeddedPublisher, NatsPublisher
from quarterdeck.telegram.requests import Asked
from quarterdeck.telegram.served import ServedBot
from quarterdeck.telegram.turns import Readers, Turns
from quarterdeck.telegram.wire import Begins, Consumer, Update
from quarterdeck.telegram.writer import Writer

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=15)
"""How long a bot stays unserved after its listener died."""

LOOK = 3.0
"""Seconds between two looks at the registry; each renews the leases."""

STAGGER = 0.05
"""Seconds between the starts of two bots."""

PATIENCE = 5.0
"""Seconds that consumers have to finish when the listener ends."""

IDLE = 60.0
"""Seconds without any bot after which a listener that may leave does."""


@dataclass(frozen=True)
class _Leaving:
    """A bot that is being let go; until its last request is answered it is still held."""

    bot: ServedBot
    task: "asyncio.Task[None]"


class Gateway:
    """Polls, sends and tells. Add consumers before `run`."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        bots: Bots,
        asked: Asked,
        *,
        nats_url: str = "",
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._database = database
        self._bus = bus
        self._bots = bots
        self._sleep = sleep
        self._served: dict[str, ServedBot] = {}
        self._feeders: list[Feeder] = []
        self._begins: list[Begins] = []
        self._leaving: dict[str, _Leaving] = {}
        self._bell = asyncio.Event()
        self._readers = Readers()
        self._moves = Moves(database)
        self._turns = Turns(self._caught_up, sleep)
        self._writer = Writer(database, self._kept, nats=bool(nats_url))
        self._publisher = (
            NatsPublisher(database, nats_url, asked, self._routed)
            if nats_url
            else EmbeddedPublisher(database)
        )
        self._has_nats = bool(nats_url)

    def add(
        self, name: str, consumer: Consumer, begins: Begins | None = None, follows: Follower | None = None
    ) -> None:
        """Tell `consumer` of every update from now on. Its name is where it goes on after a restart.

        `begins` is called beside everything else whenever a bot begins to be served here, `follows` in the
        command in which a group that became a supergroup gets its new id.
        """
        if follows is not None:
            self._moves.add(follows)
        if begins is not None:
            self._begins.append(begins)
        feeder = Feeder(name, consumer, self._database, self._writer, self._readers, self._sleep)
        self._feeders.append(feeder)

    @property
    def agents(self) -> list[str]:
        """The agents whose bots are served here."""
        return sorted(self._served)

    async def run(self, stopping: asyncio.Event | None = None, *, may_leave: bool = False) -> None:
        """Serve until `stopping` is set or this is cancelled; then let go in order.

        With `may_leave` it also ends when it has had no bot for a minute. Raises nothing that a database or a
        Telegram which is away would cause: that is waited for.
        """
        stopping = stopping or asyncio.Event()
        await self._open_feeders()
        works = (self._listen(), self._publisher.run(), self._adopt())
        tasks = [asyncio.create_task(work) for work in works]
        try:
            await self._look_after_bots(stopping, may_leave)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._let_go()

    async def call(self, agent_id: str, method: str, **fields: Any) -> Any:
        """Call any method of the Bot API within the bot's limits; its result, as JSON.

        Raises `Conflict` where Telegram refuses (`status`, `description`; code `method_missing` on a server
        that is older than the method), `Unavailable` with `retry_after` where it wants peace or does not
        answer, `NotFound` for a bot that is not served here.
        """
        return await self._bot(agent_id).call(method, fields)

    async def download(self, agent_id: str, file_id: str, folder: Path, limit: int, told: int = 0) -> Path:
        """Fetch a file into `folder`; see `BotApi.download`."""
        return await self._bot(agent_id).api.download(file_id, folder, limit, told)

    def _bot(self, agent_id: str) -> ServedBot:
        if agent_id not in self._served:
            raise NotFound.among("served bot", agent_id, self._served)
        return self._served[agent_id]

    # The registry

    async def _open_feeders(self) -> None:
        for feeder in self._feeders:
            while True:
                try:
                    await feeder.open()
                    break
                except Unavailable as error:
                    log.warning("listener_waits", reason=error.detail)
                    await asyncio.sleep(1)

    async def _look_after_bots(self, stopping: asyncio.Event, may_leave: bool) -> None:
        loop = asyncio.get_running_loop()
        last_busy, stopped = loop.time(), asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                self._bell.clear()
                try:
                    await self._reconcile()
                except QuarterdeckError as error:
                    log.warning("registry_waits", reason=error.detail)
                if self._served:
                    last_busy = loop.time()
                elif may_leave and loop.time() - last_busy > IDLE:
                    return
                ringing = asyncio.create_task(self._bell.wait())
                await asyncio.wait({stopped, ringing}, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
                ringing.cancel()
        finally:
            stopped.cancel()

    async def _reconcile(self) -> None:
        """Hold what is ours, let go what is not, take what is free.

        Nothing in here waits for Telegram: one bot that hangs would cost the others their leases.
        """
        async with self._database.command("hold bots") as unit:
            ours = await store.hold(unit, self._standings(), unit.now + LEASE)
            fresh = await store.take_free(unit, unit.now + LEASE)
        known = {row.agent_id: row for row in ours}
        for agent_id in [agent_id for agent_id in self._served if agent_id not in known]:
            self._stop(agent_id)
        for row in [*ours, *fresh]:
            await self._serve(row)
        self._leaving = {agent_id: one for agent_id, one in self._leaving.items() if not one.task.done()}

    def _standings(self) -> dict[str, Standing]:
        leaving = {agent_id: one.bot.standing for agent_id, one in self._leaving.items()}
        return leaving | {agent_id: bot.standing for agent_id, bot in self._served.items()}

    async def _serve(self, row: Bot) -> None:
        """Begin with a bot, or begin anew if it was registered again, once the one before has ended."""
        served = self._served.get(row.agent_id)
        if served is not None:
            if served.lease.registered_at == row.registered_at and not served.is_broken:
                return
            self._stop(row.agent_id)
        if (leaving := self._leaving.get(row.agent_id)) is not None:
            if not leaving.task.done():
                return
            del self._leaving[row.agent_id]
        try:
            lease = await self._bots.lease_of(row)
            bot = ServedBot(
                lease, self._database, self._writer, self._turns, self._readers, self._sleep, self._moves
            )
        except Misconfigured as error:
            log.warning("bot_not_served", agent=row.agent_id, reason=error.detail)
            return
        self._served[row.agent_id] = bot
        self._publisher.begins()
        bot.start(self._begins)
        try:
            for feeder in self._feeders:
                await feeder.catch_up([row.agent_id])
        except QuarterdeckError:
            self._stop(row.agent_id)  # or nobody would tell of what the table has
            raise
        await asyncio.sleep(STAGGER)

    def _stop(self, agent_id: str) -> None:
        """Let a bot go, besides everything else: requests that have left may take their time."""
        bot = self._served.pop(agent_id)
        for feeder in self._feeders:
            feeder.forget(agent_id)
        task = asyncio.create_task(bot.stop())
        task.add_done_callback(lambda _: self._bell.set())
        self._leaving[agent_id] = _Leaving(bot, task)

    async def _adopt(self) -> None:
        """Take in bots that are connections, again and again."""
        while True:
            try:
                await self._bots.adopt_connections()
            except QuarterdeckError as error:
                log.warning("connections_wait", reason=error.detail)
            await asyncio.sleep(LOOK)

    async def _let_go(self) -> None:
        """End in order: no new update, no new message, what is under way is finished and recorded."""
        standings = self._standings()
        leaving = [one.task for one in self._leaving.values()]
        await asyncio.gather(*(bot.stop() for bot in self._served.values()), *leaving)
        await asyncio.gather(*(feeder.close(PATIENCE) for feeder in self._feeders))
        await self._writer.close()
        self._served.clear()
        self._leaving.clear()
        with suppress(QuarterdeckError):
            async with self._database.command("release bots") as unit:
                await store.release(unit, standings)

    # What happens

    async def _listen(self) -> None:
        async for wake in self._bus.listen(BOTS_TOPIC, SENDS_TOPIC):
            if wake.topic == BOTS_TOPIC:
                self._bell.set()
                self._publisher.bell.set()
            else:
                self._ring([wake.identity] if wake.identity else list(self._served))

    def _ring(self, agents: Iterable[str]) -> None:
        for agent_id in agents:
            if bot := self._served.get(agent_id):
                bot.sender.bell.set()

    def _kept(self, lease: Lease, number: int, update: Update) -> None:
        """A new update is on disk."""
        if not self._has_nats:
            self._routed(lease.agent_id, self._database.clock.now())
        self._publisher.hear(number, update)
        for feeder in self._feeders:
            feeder.hear(number, update)

    async def _caught_up(self, agent_id: str) -> None:
        """See `turns.CaughtUp`."""
        for feeder in self._feeders:
            await feeder.caught_up(agent_id)
        await self._publisher.caught_up(agent_id)

    def _routed(self, agent_id: str, at: Any) -> None:
        if bot := self._served.get(agent_id):
            bot.routed_at = at
