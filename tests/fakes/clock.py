"""Clocks of tests: one stands still until it is moved, one is ahead of another, one runs fast."""

import asyncio
import time
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
