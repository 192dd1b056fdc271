"""Ends the work on a request when its client leaves, or when the router must stop."""

import asyncio
from enum import StrEnum

from quarterdeck.router.answers import Receive

CALM = 0.02
"""Seconds until we begin to listen whether the client is still there: quick answers need no listener."""


class End(StrEnum):
    """Why a request is broken off."""

    GONE = "gone"
    STOPPING = "stopping"


class Watch:
    """Watches the request that the current task works on, and cancels that task. `end` says why it did."""

    __slots__ = ("_listener", "_loop", "_receive", "_task", "_timer", "end")

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.end: End | None = None
        self._task: asyncio.Task[None] | None = task
        self._receive = receive
        self._loop = task.get_loop()
        self._listener: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(CALM, self._begin)

    def _begin(self) -> None:
        self._listener = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.break_off(End.GONE)

    def break_off(self, why: End) -> None:
        """Cancel the work; once, and not after it is over."""
        if self._task is not None and self.end is None:
            self.end = why
            self._task.cancel()

    def take_back(self) -> End | None:
        """After a cancellation: whether it was this one, which is then done with."""
        if self.end is not None and self._task is not None:
            self._task.uncancel()
        return self.end

    def close(self) -> None:
        """The answer is complete: from here on a client that leaves changes nothing."""
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
        self._task = None
