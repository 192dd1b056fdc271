"""Ends the work on a request when its client leaves, or when the router must stop."""

import asyncio
from enum import StrEnum

from quarterdeck.router.door.answers import Receive

CALM = 0.1
"""Seconds after which, at the latest twice that, we listen whether a client is still there.

Quick answers need no listener: it would be a task more for each of them.
"""


class End(StrEnum):
    """Why a request is broken off."""

    GONE = "gone"
    STOPPING = "stopping"


class Watch:
    """Watches the request that the current task works on, and cancels that task. `end` says why it did."""

    __slots__ = ("_listener", "_receive", "_task", "end")

    def __init__(self, receive: Receive) -> None:
        self.end: End | None = None
        self._task: asyncio.Task[None] | None = asyncio.current_task()
        self._receive = receive
        self._listener: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """From now on, until the answer is complete."""
        if self._task is not None:
            self._listener = asyncio.get_running_loop().create_task(self._listen())

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
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None
        self._task = None


class Watches:
    """All requests that are being answered. A listener comes to those that take long."""

    def __init__(self) -> None:
        self.open: set[Watch] = set()
        self._emptied = asyncio.Event()
        self._new: list[Watch] = []
        self._older: list[Watch] = []
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, receive: Receive) -> Watch:
        watch = Watch(receive)
        self.open.add(watch)
        self._new.append(watch)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CALM, self._tick)
        return watch

    def _tick(self) -> None:
        for watch in self._older:
            watch.listen()
        self._older, self._new = self._new, []
        if self._older:
            self._timer = asyncio.get_running_loop().call_later(CALM, self._tick)
        else:
            self._timer = None

    def end(self, watch: Watch) -> None:
        watch.close()
        self.open.discard(watch)
        if not self.open:
            self._emptied.set()

    async def drain(self, limit: float) -> None:
        """Wait until nothing is open; after `limit` seconds break off what is, and wait as long again."""
        await self._until_empty(limit)
        for watch in list(self.open):
            watch.break_off(End.STOPPING)
        await self._until_empty(limit)

    async def _until_empty(self, limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                while self.open:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            return
