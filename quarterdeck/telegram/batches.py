"""Many small writes in one transaction: what comes while one is committed goes into the next, all at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 200
"""Writes that go into one transaction."""


class Batches(Generic[T, R]):
    """Collects writes for `commit`, which answers each in order; one batch is under way at a time."""

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]], most: int = MOST) -> None:
        self._commit = commit
        self._most = most
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def add(self, item: T) -> R:
        """Returns when it is on disk. Raises what `commit` raises."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await done

    async def close(self) -> None:
        """Wait until everything is written."""
        if self._working is not None:
            await self._working

    async def _work(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            try:
                answers = await self._commit([item for item, _ in batch])
            except Exception as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
            else:
                for (_, done), answer in zip(batch, answers, strict=True):
                    if not done.done():
                        done.set_result(answer)
