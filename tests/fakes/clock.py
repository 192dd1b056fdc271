"""Clocks of tests: one stands still until it is moved, one is ahead of another, one runs fast, one leaps."""

import asyncio
import heapq
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from quarterdeck.kernel.clock import Clock


class Later:
    """A clock that goes `hours` before another one."""

    def __init__(self, clock: Clock, hours: float = 1) -> None:
        self._clock, self._ahead = clock, timedelta(hours=hours)

    def now(self) -> datetime:
        return self._clock.now() + self._ahead


class ManualClock:
    """Begins at noon of a winter's day in UTC."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 5, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def go(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def go_to(self, moment: datetime) -> None:
        """Forward to a moment; never back."""
        self.time = max(self.time, moment)


class ScaledClock:
    """Runs `factor` times as fast as time does; everybody who shares it agrees how late it is."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._begin, self._at = datetime(2026, 1, 5, 12, tzinfo=UTC), time.monotonic()

    def now(self) -> datetime:
        return self._begin + timedelta(seconds=(time.monotonic() - self._at) * self.factor)

    async def sleep(self, seconds: float) -> None:
        """So long by this clock."""
        await asyncio.sleep(seconds / self.factor)


class LeapingClock:
    """Stands still while somebody works; when all only wait, it leaps to the first who is due.

    So a long day costs no more than its work, and limits bind however slow the machine is. Everybody must go
    by `now` and `sleep`; `run` it beside them, and let `work` say how much was done so far.
    """

    LOOK = 0.01
    LEAST = timedelta(milliseconds=50)

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 5, 12, tzinfo=UTC)
        self._due: list[tuple[datetime, int, asyncio.Event]] = []
        self._count = 0

    def now(self) -> datetime:
        return self.time

    async def sleep(self, seconds: float) -> None:
        """So long by this clock."""
        bell = asyncio.Event()
        self._count += 1
        heapq.heappush(self._due, (self.time + timedelta(seconds=seconds), self._count, bell))
        await bell.wait()

    async def run(self, work: Callable[[], int]) -> None:
        """For ever."""
        seen = (-1, -1)
        while True:
            await asyncio.sleep(self.LOOK)
            done = (work(), self._count)
            if done == seen and self._due:
                self._leap()
            seen = done

    def _leap(self) -> None:
        self.time = max(self.time + self.LEAST, self._due[0][0])
        while self._due and self._due[0][0] <= self.time:
            heapq.heappop(self._due)[2].set()
