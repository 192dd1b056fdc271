"""One turn at a time where somebody writes, all places at once. An album becomes one turn."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from quarterdeck.surfaces.telegram.converter import Native

log = structlog.get_logger(__name__)

ALBUM_PAUSE = 1.0
"""Seconds."""

Sleep = Callable[[float], Awaitable[object]]
Work = Callable[[Sequence[Native]], Awaitable[None]]


class Lines:
    """Waiting messages by place. The rest of an album arrives within `ALBUM_PAUSE`."""

    def __init__(self, work: Work, *, sleep: Sleep = asyncio.sleep) -> None:
        self._work = work
        self._sleep = sleep
        self._waiting: dict[str, deque[Native]] = {}
        self._lines: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._batches: dict[str, list[Native]] = {}

    def add(self, native: Native) -> None:
        """This message is next where it was written; one that is known already is not added again.

        When a bot begins to be served it may come twice: as a turn that was left open, and told again.
        """
        key = native.place.key
        waiting = self._waiting.setdefault(key, deque())
        known = (*self._batches.get(key, ()), *waiting)
        if all(other.event_id != native.event_id for other in known):
            waiting.append(native)
        if key not in self._lines:
            self._lines[key] = asyncio.create_task(self._work_off(key))

    def stop(self, key: str) -> None:
        """Give up the turn that is under way in a place."""
        if turn := self._turns.get(key):
            turn.cancel()

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        while self._lines:
            await asyncio.gather(*self._lines.values(), return_exceptions=True)

    async def close(self) -> None:
        """Give everything up; what was not answered is taken up after the next start."""
        tasks = list(self._lines.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work_off(self, key: str) -> None:
        waiting = self._waiting[key]
        try:
            while waiting:
                batch = self._batches[key] = [waiting.popleft()]
                if batch[0].album:
                    await self._sleep(ALBUM_PAUSE)
                    while waiting and waiting[0].album == batch[0].album:
                        batch.append(waiting.popleft())
                self._turns[key] = asyncio.create_task(self._turn(batch))
                await asyncio.wait({self._turns[key]})
        finally:
            turn = self._turns.pop(key, None)
            self._batches.pop(key, None)
            del self._lines[key], self._waiting[key]  # at once: what comes during a wait begins a new line
            if turn is not None and not turn.done():
                turn.cancel()
                await asyncio.gather(turn, return_exceptions=True)

    async def _turn(self, batch: Sequence[Native]) -> None:
        try:
            await self._work(batch)
        except Exception:
            log.exception("turn_broke", event_id=batch[0].event_id)
