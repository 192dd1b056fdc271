"""Ends waits that take too long. One timer serves them all: one for each costs as much as ten other steps."""

import asyncio
from types import TracebackType

TICK = 0.05
"""Seconds by which a wait may end late."""


class Wait:
    """A wait of the present task, as a context. Raises `TimeoutError` when its time is over.

    `until` is in the loop's time, and may be moved.
    """

    __slots__ = ("_before", "_task", "_waits", "is_late", "until")

    def __init__(self, waits: "set[Wait]", task: "asyncio.Task[object]", until: float) -> None:
        self.until = until
        self.is_late = False
        self._waits = waits
        self._task = task
        self._before = task.cancelling()

    def end(self) -> None:
        """It has been too long."""
        if not self.is_late:
            self.is_late = True
            self._task.cancel()

    def __enter__(self) -> None:
        self._waits.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waits.discard(self)
        is_ours = self.is_late and kind is asyncio.CancelledError
        if is_ours and self._task.uncancel() <= self._before:
            raise TimeoutError from None


class Patience:
    """Like `asyncio.timeout`, for very many short waits in one loop."""

    def __init__(self) -> None:
        self._waits: set[Wait] = set()
        self._timer: asyncio.TimerHandle | None = None

    def of(self, seconds: float) -> Wait:
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        if self._timer is None:
            self._timer = loop.call_later(TICK, self._tick)
        return Wait(self._waits, task, loop.time() + seconds)

    def _tick(self) -> None:
        self._timer = None
        if not self._waits:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        for wait in self._waits:
            if wait.until <= now:
                wait.end()
        self._timer = loop.call_later(TICK, self._tick)
