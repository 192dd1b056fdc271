"""What keeps a busy bot from taking what all bots share: the event loop, and the database's connections."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from quarterdeck.telegram.limits import Sleep

FULL = 50
"""A poll that brings so many updates belongs to a bot that is behind."""

LONGEST_TURN = 0.5
"""Seconds for which the others wait until what one poll brought is told; after that they do not any more."""

CaughtUp = Callable[[str], Awaitable[None]]
"""Returns when everything that was stored of an agent's updates is told and published."""


class Turns:
    """Bots that are behind catch up one at a time, and as long as that took nobody does.

    So half of the process stays free for the others, however many bots are flooded and however fast or slow
    the machine is.
    """

    def __init__(
        self, caught_up: CaughtUp, sleep: Sleep, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._caught_up = caught_up
        self._sleep = sleep
        self._monotonic = monotonic
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def of(self, agent_id: str, updates: int) -> AsyncIterator[None]:
        """Store what a poll brought inside of this."""
        if updates < FULL:
            yield
            return
        async with self._one:
            began = self._monotonic()
            yield
            try:
                async with asyncio.timeout(LONGEST_TURN):
                    await self._caught_up(agent_id)
            except TimeoutError:
                pass
            await self._sleep(self._monotonic() - began)


class Readers:
    """How many may read from the database at the same time: so many in all, fewer of one bot."""

    def __init__(self, most: int = 8, of_one: int = 2) -> None:
        self._all = asyncio.Semaphore(most)
        self._of_one: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(of_one))

    @asynccontextmanager
    async def place(self, agent_id: str) -> AsyncIterator[None]:
        """Read inside of this."""
        async with self._of_one[agent_id], self._all:
            yield
