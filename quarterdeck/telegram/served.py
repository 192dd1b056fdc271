"""One bot while it is served: its connections, its poller, its queue, and what is wrong with it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.telegram import rules, store
from quarterdeck.telegram.bot_api import SECONDS, BotApi, error_of
from quarterdeck.telegram.limits import Limiter, Sleep
from quarterdeck.telegram.model import BOTS_TOPIC, BotState, Lease, Standing
from quarterdeck.telegram.moves import Moves
from quarterdeck.telegram.poller import Poller
from quarterdeck.telegram.rules import Done, Limited, Moved, Refused
from quarterdeck.telegram.sender import Sender
from quarterdeck.telegram.turns import Readers, Turns
from quarterdeck.telegram.wire import Begins
from quarterdeck.telegram.writer import Writer

log = structlog.get_logger(__name__)


class ServedBot:
    """`start` it, `stop` it; `is_broken`: something unforeseen ended it."""

    def __init__(
        self,
        lease: Lease,
        database: Database,
        writer: Writer,
        turns: Turns,
        readers: Readers,
        sleep: Sleep,
        moves: Moves,
    ) -> None:
        self.lease = lease
        self.api = BotApi(lease.token, lease.api_base)
        self.routed_at: datetime | None = None
        self._database = database
        self._limiter = Limiter(database.clock, sleep)
        self._moves = moves
        self._poller = Poller(
            lease, self.api, writer, turns, database.clock, sleep, self._report, self._follow
        )
        self._revoked = asyncio.Event()
        revoked, follow = self._revoked.set, self._follow
        self.sender = Sender(
            lease, self.api, self._limiter, writer, database, readers, sleep, revoked, follow
        )
        self._missing: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def standing(self) -> Standing:
        return Standing(self.lease.fence, self._poller.polled_at, self.routed_at)

    @property
    def is_broken(self) -> bool:
        return any(task.done() and not task.cancelled() and task.exception() for task in self._tasks)

    def start(self, begins: Sequence[Begins] = ()) -> None:
        """Poll and send, in tasks of its own; besides tell `begins` that it has begun."""
        works = [self._poll(), self.sender.run(), self._stop_when_revoked()]
        works += [self._begin(told) for told in begins]
        self._tasks = [asyncio.create_task(work) for work in works]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        log.info("bot_served", agent=self.lease.agent_id, bot=self.lease.bot_id)

    async def stop(self) -> None:
        """No new update and no new message; requests that have left are answered and recorded."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.api.close()

    async def call(self, method: str, fields: dict[str, Any]) -> Any:
        """See `Gateway.call`."""
        if method in self._missing:
            raise error_of(Refused(404, "Not Found: method not found"), method)
        chat = rules.chat_of(method, fields)
        async with self._limiter.turn(chat):
            answer = await self.api.call(method, fields, seconds=SECONDS)
            if isinstance(answer, Moved):
                with suppress(Unavailable):  # whoever asks next follows again
                    await self._follow(int(fields["chat_id"]), answer.chat_id)
                answer = await self.api.call(method, {**fields, "chat_id": answer.chat_id})
        match answer:
            case Done(result):
                return result
            case Limited(seconds):
                self._limiter.close(chat, self._database.clock.now() + rules.obeyed(seconds))
            case Refused() if answer.lacks_method:
                self._missing.add(method)
            case Refused() if answer.is_revoked:
                self._revoked.set()
        raise error_of(answer, method)

    async def _follow(self, old: int, new: int) -> bool:
        self._poller.moved(old, new)
        return await self._moves.follow(old, new)

    async def _begin(self, told: Begins) -> None:
        while True:
            try:
                await told(self.lease.agent_id, self.lease.bot_id)
                break
            except Unavailable as error:
                log.warning("beginning_waits", agent=self.lease.agent_id, reason=error.detail)
                await asyncio.sleep(1)
            except Exception:  # whatever it wanted to do, the bot works without it
                log.exception("beginning_failed", agent=self.lease.agent_id)
                break

    async def _poll(self) -> None:
        if await self._poller.run() == "revoked":
            self._revoked.set()

    async def _stop_when_revoked(self) -> None:
        await self._revoked.wait()
        while True:
            try:
                await self._record_stop()
                return
            except Unavailable:
                await asyncio.sleep(1)

    async def _record_stop(self) -> None:
        reason = "Telegram does not know its token any more."
        async with self._database.command("stop bot") as unit:
            row = await store.held(unit, self.lease)
            if row is None:
                return
            row.state, row.trouble, row.leased_until = BotState.STOPPED, reason, unit.now
            await store.refuse_waiting(unit, row.agent_id, f"Unauthorized: {reason}")
            said = f"The bot of {row.agent_id} (@{row.username}) is stopped: {reason}"
            unit.record("error", reason=said, agent=row.agent_id, bot=row.bot_id)
            unit.wake(BOTS_TOPIC, row.agent_id)
        log.error("bot_stopped", agent=self.lease.agent_id, bot=self.lease.bot_id, reason=reason)

    async def _report(self, trouble: str) -> bool:
        """People are told when a trouble begins, and see in the list when it is over. See `poller.Report`."""
        try:
            async with self._database.command("report bot") as unit:
                row = await store.held(unit, self.lease)
                if row is None or row.trouble == trouble:
                    return True
                row.trouble = trouble
                if trouble:
                    said = f"The bot of {row.agent_id} (@{row.username}): {trouble}"
                    unit.record("error", reason=said, agent=row.agent_id, bot=row.bot_id)
        except Unavailable as error:
            log.warning("trouble_not_recorded", agent=self.lease.agent_id, reason=error.detail)
            return False
        log.warning("bot_trouble", agent=self.lease.agent_id, trouble=trouble or "over")
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.error("bot_broke", agent=self.lease.agent_id, exc_info=error)
