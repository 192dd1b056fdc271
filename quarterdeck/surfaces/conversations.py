"""Whom people are talking to just now. It stands where every process sees it: sweeps go on in another one.

An agent is in a conversation from the moment at which somebody's words are on their way to it until `PAUSE`
after its answer: whoever has just read one is likely to go on.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import structlog

from quarterdeck.kernel.clock import Clock
from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.surfaces.store import StateStore

log = structlog.get_logger(__name__)

PAUSE = timedelta(minutes=2)
"""How long after an answer the person may take to go on."""

LONGEST = timedelta(minutes=15)
"""An answer that takes longer is work rather than talk; so much is believed of a process that died, too."""

TALK = "talk"
"""Prefix of our keys: one for each conversation at an agent."""


class Conversations:
    """Answers `heartbeat.service.Conversations`, without either room knowing the other."""

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    @asynccontextmanager
    async def held(self, agent: str, conversation: str) -> AsyncIterator[None]:
        """Somebody talks to the agent inside of this, and for a while afterwards."""
        key = f"{TALK}:{agent}:{conversation}"
        await self._goes_on(key, LONGEST)
        try:
            yield
        finally:
            await self._goes_on(key, PAUSE)

    async def is_in_conversation(self, agent: str) -> bool:
        """Does anybody talk to this agent?"""
        now, kept = self._clock.now(), await self._store.values(f"{TALK}:{agent}:")
        return any(datetime.fromisoformat(value["until"]) > now for value in kept)

    async def forget_old(self) -> int:
        """Drop the notes of conversations that are over; how many."""
        return await self._store.forget(f"{TALK}:", self._clock.now() - LONGEST)

    async def _goes_on(self, key: str, span: timedelta) -> None:
        """A note that cannot be taken holds up no answer."""
        try:
            await self._store.set(key, {"until": (self._clock.now() + span).isoformat()})
        except QuarterdeckError as error:
            log.warning("conversation_not_noted", key=key, reason=error.detail)
