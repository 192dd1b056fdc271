"""Listens to one bot. Telegram is told that an update arrived only after the update is stored."""

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from quarterdeck.kernel import crash
from quarterdeck.kernel.clock import Clock
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.telegram import rules
from quarterdeck.telegram.bot_api import BotApi
from quarterdeck.telegram.limits import Sleep
from quarterdeck.telegram.model import Lease
from quarterdeck.telegram.moves import Follow, Move
from quarterdeck.telegram.rules import Done, Failed, Limited, Refused
from quarterdeck.telegram.turns import Turns
from quarterdeck.telegram.wire import Update
from quarterdeck.telegram.writer import Writer

log = structlog.get_logger(__name__)

Report = Callable[[str], Awaitable[bool]]
"""Tells people of a trouble (an empty text: it is over); False: it could not be written down now."""

CONFLICT_PAUSE, LONGEST_CONFLICT_PAUSE = 5.0, 60.0
FORGOTTEN = timedelta(days=6)
"""Telegram may count updates anew after a week without any; an old offset would hide them."""


class Poller:
    """One bot's updates, for ever; `run` returns when the bot is lost or its token revoked."""

    def __init__(
        self,
        lease: Lease,
        api: BotApi,
        writer: Writer,
        turns: Turns,
        clock: Clock,
        sleep: Sleep,
        report: Report,
        follow: Follow,
    ) -> None:
        self._lease = lease
        self._api = api
        self._writer = writer
        self._turns = turns
        self._clock = clock
        self._sleep = sleep
        self._report = report
        self._follow = follow
        self._allowed = lease.allowed_chats
        self._offset: int | None = None
        self._last_update_at: datetime | None = None
        self._failures = 0
        self._conflicts = 0
        self._has_trouble = bool(lease.trouble)
        self.polled_at: datetime | None = None

    async def run(self) -> str:
        """Why it ended: `lost` or `revoked`."""
        while True:
            answer = await self._api.updates(self._offset)
            match answer:
                case Done(result):
                    if not await self._take_in(result if isinstance(result, list) else []):
                        return "lost"
                case Refused() if answer.is_revoked:
                    return "revoked"
                case Refused() if answer.is_conflict:
                    await self._give_way(answer)
                case Limited(seconds):
                    await self._sleep(rules.obeyed(seconds).total_seconds())
                case Failed(reason):
                    await self._wait(reason)
                case _:
                    await self._wait(f"Telegram refused getUpdates: {answer}")

    async def _take_in(self, raw: list[object]) -> bool:
        """Store what came, then let the next request tell Telegram so; False: the bot is not ours."""
        crash.point("after receiving updates")
        self.polled_at = now = self._clock.now()
        self._failures = self._conflicts = 0
        await self._all_is_well()
        numbers = [one["update_id"] for one in raw if isinstance(one, dict) and "update_id" in one]
        moves = self._moves(one for one in raw if isinstance(one, dict))
        updates = [self._read(one, now) for one in raw if isinstance(one, dict) and "update_id" in one]
        wanted = [update for update in updates if rules.is_allowed(update, self._allowed)]
        async with self._turns.of(self._lease.agent_id, len(numbers)):
            if (wanted or moves) and not await self._store(wanted, moves):
                return False
        crash.point("after storing updates")
        if numbers:
            self._offset, self._last_update_at = max(numbers) + 1, now
        elif self._last_update_at and now - self._last_update_at > FORGOTTEN:
            self._offset = self._last_update_at = None
        return True

    def _read(self, raw: dict[str, object], now: datetime) -> Update:
        return rules.update_of(raw, self._lease.agent_id, self._lease.bot_id, now)

    def _moves(self, raw: Iterable[Mapping[str, Any]]) -> list[Move]:
        """The groups that became supergroups, of those that the bot listens to; it goes on listening."""
        found = [move for one in raw if (move := rules.move_of(one))]
        ours = [move for move in found if not self._allowed or self._allowed.intersection(move)]
        for move in ours:
            self.moved(*move)
        return ours

    def moved(self, old: int, new: int) -> None:
        """The bot listens to the new chat where it listened to the old one."""
        self._allowed = frozenset(rules.moved(self._allowed, old, new))

    async def _store(self, updates: list[Update], moves: Sequence[Move]) -> bool:
        """Nothing more is fetched until these are on disk, and what moved chats have is in its place."""
        waits = rules.pauses(random.random)
        while True:
            try:
                for move in moves:
                    await self._follow(*move)
                return await self._writer.keep(self._lease, updates)
            except Unavailable as error:
                log.warning("updates_wait", agent=self._lease.agent_id, reason=error.detail)
                await self._sleep(min(next(waits), 5.0))

    async def _all_is_well(self) -> None:
        if self._has_trouble and await self._report(""):
            self._has_trouble = False

    async def _give_way(self, answer: Refused) -> None:
        """Somebody else polls this bot, or a webhook is set: said once, then with growing pauses."""
        if "webhook" in answer.description:
            await self._api.call("deleteWebhook", {"drop_pending_updates": False})
        if not self._has_trouble:
            said = f"Somebody else receives the updates of this bot: {answer.description}"
            self._has_trouble = await self._report(said)
        self._conflicts += 1
        await self._sleep(min(CONFLICT_PAUSE * 2 ** (self._conflicts - 1), LONGEST_CONFLICT_PAUSE))

    async def _wait(self, reason: str) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("bot_cannot_poll", agent=self._lease.agent_id, reason=reason)
        pause = rules.pause(self._failures, random.random()).total_seconds()  # noqa: S311  not a secret
        await self._sleep(min(pause, 30.0))
