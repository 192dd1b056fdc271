"""Says what one bot has to say: in order within each chat, all chats side by side, within the limits."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from quarterdeck.kernel import crash
from quarterdeck.kernel.bell import rung
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.telegram import rules, store
from quarterdeck.telegram.bot_api import BotApi
from quarterdeck.telegram.limits import Limiter, Sleep
from quarterdeck.telegram.model import Lease, StoredSend
from quarterdeck.telegram.moves import Follow
from quarterdeck.telegram.rules import Answer, Done, GivenUp, Limited, Moved, Part, Patience, Refused
from quarterdeck.telegram.turns import Readers
from quarterdeck.telegram.wire import SendState, send_of
from quarterdeck.telegram.writer import Outcome, Writer

log = structlog.get_logger(__name__)

AT_ONCE = 24
"""Requests of one bot under way; its poller has its connections besides."""

AHEAD = 20
"""Messages of a chat that are read at once."""

LOOK_ANYWAY = 5.0

MOST_FAILURES = 20
"""Failures in a row after which a request is given up if its bot is answered otherwise: with the pauses
between them that is the better part of an hour."""

MOST_BREAKS = 3
"""How often a message may break in a way that nobody foresaw."""


class Sender:
    """One bot's queue. `revoked` is called when Telegram does not know the token any more, `follow` with the
    old and the new id of a group that became a supergroup.
    """

    def __init__(
        self,
        lease: Lease,
        api: BotApi,
        limiter: Limiter,
        writer: Writer,
        database: Database,
        readers: Readers,
        sleep: Sleep,
        revoked: Callable[[], None],
        follow: Follow,
    ) -> None:
        self._lease = lease
        self._api = api
        self._limiter = limiter
        self._writer = writer
        self._database = database
        self._readers = readers
        self._sleep = sleep
        self._revoked = revoked
        self._follow = follow
        self._places = asyncio.Semaphore(AT_ONCE)
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._requesting: set[asyncio.Task[Any]] = set()
        self._breaks: Counter[int | None] = Counter()
        self._is_ending = False
        self.bell = asyncio.Event()

    async def run(self) -> None:
        """Send whatever waits, until cancelled; then requests that have left are answered and recorded."""
        await self._remember_what_was_sent()
        try:
            while True:
                self.bell.clear()
                await self._start_lanes()
                await rung(self.bell, LOOK_ANYWAY)
        finally:
            await self._drain()

    async def _drain(self) -> None:
        self._is_ending = True
        lanes = list(self._lanes.values())
        if lanes:
            _, late = await asyncio.wait(lanes, timeout=0.05)
            for lane in late - self._requesting:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _remember_what_was_sent(self) -> None:
        """The limits count what an earlier process sent, too."""
        now = self._database.clock.now()
        async with self._database.read() as session:
            sent = await store.sent_lately(session, self._lease.agent_id, now - timedelta(minutes=1))
        for chat, at in sent:
            self._limiter.remember(chat, at)

    async def _start_lanes(self) -> None:
        try:
            async with self._readers.place(self._lease.agent_id), self._database.read() as session:
                chats = await store.chats_to_send(session, self._lease.agent_id)
        except Unavailable as error:
            log.warning("queue_waits", agent=self._lease.agent_id, reason=error.detail)
            return
        for chat in chats:
            if chat not in self._lanes:
                self._lanes[chat] = asyncio.create_task(self._work_off(chat))

    async def _work_off(self, chat: str) -> None:
        """Everything that waits for a chat, one after the other."""
        try:
            after, is_more = 0, True
            while is_more:
                rows = await self._next(chat, after)
                for row in rows:
                    if self._is_ending or not await self._settled(row):
                        return
                    after = row.id or after
                is_more = len(rows) == AHEAD
        except Unavailable as error:
            log.warning("chat_waits", agent=self._lease.agent_id, chat=chat, reason=error.detail)
            await self._sleep(1.0)
        except Exception:
            log.exception("chat_broke", agent=self._lease.agent_id, chat=chat)
            await self._sleep(5.0)
        finally:
            self._requesting.discard(_this_task())
            del self._lanes[chat]
            self.bell.set()  # something may have come since we looked

    async def _next(self, chat: str, after: int) -> list[StoredSend]:
        async with self._readers.place(self._lease.agent_id), self._database.read() as session:
            return list(await store.to_send(session, self._lease.agent_id, chat, after, AHEAD))

    async def _settled(self, row: StoredSend) -> bool:
        """See `_deliver`. What breaks again and again is given up: others wait behind it."""
        try:
            is_ours = await self._deliver(row)
        except (Unavailable, SQLAlchemyError):  # that is no message's fault
            raise
        except Exception as error:
            self._breaks[row.id] += 1
            if self._breaks[row.id] < MOST_BREAKS:
                raise
            log.exception("message_broke", agent=self._lease.agent_id, message=row.id)
            reason = f"It broke {MOST_BREAKS} times ({type(error).__name__}); the listener's log says where."
            is_ours = await self._record(Outcome(row.id or 0, GivenUp(500, reason), is_last=True)) is not None
        del self._breaks[row.id]
        return is_ours

    async def _deliver(self, row: StoredSend) -> bool:
        """Send one message until its fate is known; False: it is not ours any more."""
        assert row.id is not None
        parts, patience = rules.parts(send_of(row.content)), Patience()
        current: StoredSend | None = row
        while current is not None and current.state is SendState.QUEUED:
            if len(current.message_ids) >= len(parts):
                outcome = Outcome(row.id, Refused(400, "There is nothing in it."), is_last=True)
                current = await self._writer.end(self._lease, outcome)
                continue
            await self._wait_until_due(current)
            answer = await self._attempt(row.id, row.chat, parts[len(current.message_ids)])
            if answer is None:
                return False
            answer = patience.with_(answer, self._api.answered, MOST_FAILURES)
            wait = rules.pause(patience.failures, random.random())  # noqa: S311  not a secret
            is_last = len(current.message_ids) + 1 == len(parts)
            current = await self._record(Outcome(row.id, answer, is_last, wait))
            if isinstance(answer, Moved):
                return await self._moved(row, answer)
            if self._is_ending:
                return False
        return current is not None

    async def _moved(self, row: StoredSend, answer: Moved) -> bool:
        """The message waits where its chat is now, with all others: this lane is at its end."""
        if await self._follow(int(row.chat), answer.chat_id):
            return False
        circle = Outcome(row.id or 0, Refused(400, "The chat moves in circles."), is_last=True)
        return await self._record(circle) is not None

    async def _wait_until_due(self, row: StoredSend) -> None:
        if row.not_before is not None:
            await self._sleep(max(0.0, (row.not_before - self._database.clock.now()).total_seconds()))

    async def _attempt(self, number: int, chat: str, part: Part) -> Answer | None:
        """One request and, where it was refused for its form, the better one; None: not ours."""
        async with self._limiter.turn(chat):
            if self._is_ending or not await self._writer.begin(self._lease, number, chat):
                return None
            async with self._places:
                self._requesting.add(_this_task())
                crash.point("before sending a message")
                answer = await self._call(part)
                crash.point("after sending a message")
        if isinstance(answer, Limited):
            until = self._database.clock.now() + rules.obeyed(answer.seconds)
            self._limiter.close(chat, until)
        if isinstance(answer, Refused) and answer.is_revoked:
            self._revoked()
        return answer

    async def _call(self, part: Part) -> Answer:
        while True:
            answer = await self._api.call(part.method, dict(part.fields), file=part.file)
            if isinstance(answer, Refused) and answer.is_in_vain and "message_id" in part.fields:
                return Done({"message_id": part.fields["message_id"]})
            better = rules.repaired(part, answer)
            if better is None:
                return answer
            part = better

    async def _record(self, outcome: Outcome) -> StoredSend | None:
        """A database that is away for a moment must not make us send twice."""
        while True:
            try:
                row = await self._writer.end(self._lease, outcome)
                break
            except Unavailable as error:
                log.warning("outcome_waits", message=outcome.number, reason=error.detail)
                await asyncio.sleep(0.2)
        self._requesting.discard(_this_task())
        if isinstance(outcome.answer, Refused):
            reason = outcome.answer.description
            log.warning("message_refused", agent=self._lease.agent_id, message=outcome.number, reason=reason)
        elif not isinstance(outcome.answer, Done):
            log.info("message_waits", message=outcome.number, reason=row.reason if row else "")
        return row


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
