"""Many small writes in one transaction: what comes while one is committed goes into the next.

Fair between parties (bots): who wrote much waits for who wrote little. Fair queueing by virtual finish times;
source: A. Demers, S. Keshav, S. Shenker, "Analysis and Simulation of a Fair Queueing Algorithm", 1989; the
virtual time is the start of what is in service, as in P. Goyal et al., "Start-time Fair Queueing", 1996.
"""

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 200
"""Weight that goes into one transaction."""

REMEMBERED = 1_000
"""Parties whose debts are kept in mind before those that are paid are dropped."""


class FairQueue(Generic[T]):
    """Hands out what was put in: each party in its own order, the parties by how much they had already."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, float, T]] = []
        self._served_until: dict[str, float] = {}
        self._now = 0.0
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._heap)

    def put(self, party: str, item: T, weight: float) -> None:
        """Queue an item; its party pays with `weight`, from now on."""
        self._forget_paid_debts()
        start = max(self._now, self._served_until.get(party, 0.0))
        self._served_until[party] = start + weight
        self._count += 1
        heapq.heappush(self._heap, (start + weight, self._count, weight, item))

    def take(self, most: float) -> list[T]:
        """The next items, of that weight together; one at least."""
        taken: list[T] = []
        left = most
        while self._heap and (not taken or self._heap[0][2] <= left):
            finish, _, weight, item = heapq.heappop(self._heap)
            self._now = max(self._now, finish - weight)
            taken.append(item)
            left -= weight
        return taken

    def _forget_paid_debts(self) -> None:
        if len(self._served_until) > REMEMBERED:
            debts = self._served_until.items()
            self._served_until = {party: until for party, until in debts if until > self._now}


@dataclass
class _Waiting(Generic[T, R]):
    item: T
    done: "asyncio.Future[R]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batches(Generic[T, R]):
    """Collects writes for `commit`, which answers each in order; one batch is under way at a time.

    Batches begin at least `pace` seconds apart: a single write waits for nothing, many share a transaction.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        most: int = MOST,
        *,
        pace: float = 0.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commit = commit
        self._most = most
        self._pace = pace
        self._sleep = sleep
        self._monotonic = monotonic
        self._began = float("-inf")
        self._queue: FairQueue[_Waiting[T, R]] = FairQueue()
        self._working: asyncio.Task[None] | None = None

    async def add(self, party: str, item: T, weight: int = 1) -> R:
        """Returns when it is on disk. Raises what `commit` raises."""
        waiting: _Waiting[T, R] = _Waiting(item)
        self._queue.put(party, waiting, weight)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await waiting.done

    async def close(self) -> None:
        """Wait until everything is written."""
        if self._working is not None:
            await self._working

    async def _work(self) -> None:
        while self._queue:
            if (early := self._began + self._pace - self._monotonic()) > 0:
                await self._sleep(early)
            self._began = self._monotonic()
            await self._write(self._queue.take(self._most))

    async def _write(self, batch: Sequence[_Waiting[T, R]]) -> None:
        try:
            answers = await self._commit([one.item for one in batch])
        except Exception as error:
            for one in batch:
                if not one.done.done():
                    one.done.set_exception(error)
        else:
            for one, answer in zip(batch, answers, strict=True):
                if not one.done.done():
                    one.done.set_result(answer)
