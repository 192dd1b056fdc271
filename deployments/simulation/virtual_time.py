"""An event loop in which nobody waits: when nothing is left to do, it is at once the next moment."""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday."""

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time is what its timers say. There must be nothing outside that it could wait for."""

    def __init__(self) -> None:
        self.moment = 0.0
        super().__init__(_Leap(self))
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.moment


class _Leap(selectors.DefaultSelector):
    """Instead of waiting for something to happen it goes to when something will."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("Everybody waits, and nothing will ever happen.")
        self._loop.moment += max(timeout, 0)
        return []


class LoopClock:
    """The time of the running loop, as a date."""

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=asyncio.get_running_loop().time())


def run(story: Coroutine[Any, Any, T]) -> T:
    """Let it happen, however long it takes in there."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)
