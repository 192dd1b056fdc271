"""Freshness: what routing knows is read again and again, and whether that works is told."""

import asyncio
from collections.abc import Callable

from quarterdeck.kernel.errors import Unavailable
from quarterdeck.router.freshness import Freshness


class Stored:
    """What is read; it can be away, or broken."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.read = 0

    async def __call__(self) -> None:
        self.read += 1
        if self.error is not None:
            raise self.error


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_true():
            await asyncio.sleep(0)


async def test_a_reading_that_fails_is_a_fault_until_the_next_one_that_does_not() -> None:
    stored = Stored()
    freshness = Freshness(stored, pace=lambda: 60)
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(freshness.keep())
        stored.error = Unavailable("The database does not answer.", "Start it.")
        freshness.expire()
        await until(lambda: freshness.fault == "The database does not answer.")
        stored.error = None
        freshness.expire()
        await until(lambda: not freshness.fault)
        keeping.cancel()


async def test_a_reading_that_breaks_is_not_the_last_one() -> None:
    stored = Stored()
    freshness = Freshness(stored, pace=lambda: 0.001)
    stored.error = ValueError("not a database's error")
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(freshness.keep())
        await until(lambda: stored.read > 1)
        keeping.cancel()
