"""Tells the consumers in this process of updates: in order within a chat, no chat waiting for another."""

import asyncio
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from quarterdeck.kernel import crash
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.telegram import rules, store
from quarterdeck.telegram.limits import Sleep
from quarterdeck.telegram.turns import Readers
from quarterdeck.telegram.wire import Consumer, Update
from quarterdeck.telegram.writer import Writer

log = structlog.get_logger(__name__)

TRIES = 20
"""How often an update is told that its consumer fails at; that is half an hour."""

LONGEST_PAUSE = 120.0
AHEAD = 100
"""Updates of a chat that wait in memory; more are read again from the table."""

REMEMBERED = 10_000
Chat = tuple[str, int]
"""Agent and chat."""


@dataclass
class _Lane:
    """One chat. `place` is the last update told; None = the table knows.

    `overflowed`: since the table was read, more came than is kept, so it holds what `pending` does not.
    """

    place: int | None = None
    overflowed: bool = False
    pending: deque[tuple[int, Update]] = field(default_factory=deque)
    working: asyncio.Task[None] | None = None


class Feeder:
    """Feeds one consumer."""

    def __init__(
        self,
        name: str,
        consumer: Consumer,
        database: Database,
        writer: Writer,
        readers: Readers,
        sleep: Sleep,
    ) -> None:
        self.name = name
        self._consumer = consumer
        self._database = database
        self._writer = writer
        self._sleep = sleep
        self._lanes: dict[Chat, _Lane] = {}
        self._readers = readers
        self._since = 0

    async def open(self) -> None:
        """Find out where to begin."""
        async with self._database.command("begin telling") as unit:
            self._since = await store.begin_telling(unit, self.name)

    async def catch_up(self, agents: Iterable[str]) -> None:
        """Tell of what was stored before, of these agents."""
        async with self._database.read() as session:
            chats = await store.chats_to_tell(session, self.name, list(agents), self._since)
        for chat in chats:
            self._start(chat, self._lanes.setdefault(chat, _Lane()))

    def hear(self, number: int, update: Update) -> None:
        """A new update was stored."""
        chat = (update.agent_id, update.chat_id)
        lane = self._lanes.get(chat)
        if lane is None:
            self._forget_some()
            lane = self._lanes[chat] = _Lane()
        lane.pending.append((number, update))
        if len(lane.pending) > AHEAD:
            lane.pending.clear()
            lane.place, lane.overflowed = None, True
        self._start(chat, lane)

    async def caught_up(self, agent_id: str) -> None:
        """Returns when the agent's updates that were heard are told."""
        lanes = [lane.working for chat, lane in self._lanes.items() if chat[0] == agent_id and lane.working]
        if lanes:
            await asyncio.wait(lanes)

    def forget(self, agent_id: str) -> None:
        """Somebody else serves this agent from now on."""
        for chat in [chat for chat in self._lanes if chat[0] == agent_id]:
            lane = self._lanes.pop(chat)
            if lane.working is not None:
                lane.working.cancel()

    async def close(self, patience: float) -> None:
        """Let consumers finish what they are at, for so many seconds."""
        working = [lane.working for lane in self._lanes.values() if lane.working]
        for lane in self._lanes.values():
            lane.pending.clear()
        if working:
            _, late = await asyncio.wait(working, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _start(self, chat: Chat, lane: _Lane) -> None:
        if lane.working is None:
            lane.working = asyncio.create_task(self._work(chat, lane))

    def _forget_some(self) -> None:
        if len(self._lanes) >= REMEMBERED:
            self._lanes = {chat: lane for chat, lane in self._lanes.items() if lane.working}

    async def _work(self, chat: Chat, lane: _Lane) -> None:
        try:
            while lane.place is None or lane.pending:
                try:
                    if lane.place is None:
                        await self._tell_from_table(chat, lane)
                    elif lane.pending:
                        await self._tell(chat, lane, *lane.pending.popleft())
                except Unavailable:
                    lane.place = None  # the table still has what was just taken out here
                    await self._sleep(1.0)
        finally:
            lane.working = None

    async def _tell_from_table(self, chat: Chat, lane: _Lane) -> None:
        unwritten = self._writer.told((self.name, *chat))
        lane.overflowed = False
        async with self._readers.place(chat[0]), self._database.read() as session:
            place = max(await store.told(session, self.name, *chat), unwritten, self._since)
            rows = await store.to_tell(session, *chat, place, AHEAD)
        for row in rows:
            assert row.id is not None
            await self._tell(chat, lane, row.id, store.update_of(row), place)
            place = row.id
        if len(rows) < AHEAD and not lane.overflowed:
            lane.place = place

    async def _tell(
        self, chat: Chat, lane: _Lane, number: int, update: Update, place: int | None = None
    ) -> None:
        place = lane.place if place is None else place
        if place is not None and number <= place:
            return
        await self._try(update)
        crash.point("after telling a consumer")
        if lane.place is not None:
            lane.place = number
        self._writer.tell((self.name, *chat), number)

    async def _try(self, update: Update) -> None:
        pauses = rules.pauses(random.random)
        for left in reversed(range(TRIES)):
            try:
                await self._consumer(update)
            except Exception:
                log.exception("consumer_failed", consumer=self.name, update=update.event_id, left=left)
            else:
                return
            if left:
                await self._sleep(min(next(pauses), LONGEST_PAUSE))
        async with self._database.command("leave out an update") as unit:
            reason = f"{self.name} fails at what {update.agent_id} was told in Telegram ({update.event_id})"
            unit.record("error", reason=reason, agent=update.agent_id)
