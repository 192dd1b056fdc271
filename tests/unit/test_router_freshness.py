"""Freshness: what routing knows is read again and again, and whether that works is told."""

import asyncio
from collections.abc import Callable

import pytest

from quarterdeck.kernel.errors import Unavailable
from quarterdeck.router import freshness as freshness_module
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
    async with asyncio.timeout(20):
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


async def test_a_reading_that_does_not_end_is_a_fault_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(freshness_module, "SILENCE", 0.01)
    answers = asyncio.Event()

    async def frozen() -> None:
        await answers.wait()

    freshness = Freshness(frozen, pace=lambda: 60)
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(freshness.keep())
        assert freshness.fault == ""
        freshness.expire()
        await until(lambda: freshness.fault.startswith("PostgreSQL could not be read for"))
        answers.set()
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


async def test_whoever_asks_is_told_when_a_reading_has_ended_that_began_afterwards() -> None:
    begun, may_end = asyncio.Event(), asyncio.Semaphore(0)
    ended = 0

    async def slow() -> None:
        nonlocal ended
        begun.set()
        await may_end.acquire()
        ended += 1

    async with Freshness(slow, pace=lambda: 60, apart=0) as freshness:
        first = asyncio.create_task(freshness.renewed())
        await begun.wait()
        late = [asyncio.create_task(freshness.renewed()) for _ in range(2)]  # it may not see what they want
        may_end.release()
        await first
        assert (ended, [task.done() for task in late]) == (1, [False, False])
        may_end.release()
        await asyncio.gather(*late)
        assert ended == 2


async def test_however_many_ask_nothing_is_read_more_often_than_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(freshness_module, "PATIENCE", 0.01)
    stored = Stored()
    async with Freshness(stored, pace=lambda: 60, apart=3600) as freshness:
        await asyncio.gather(*(freshness.renewed() for _ in range(100)))
        assert stored.read == 1
        await asyncio.gather(*(freshness.renewed() for _ in range(100)))
        assert stored.read == 1


async def test_nobody_waits_for_ever_for_a_reading_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness_module, "PATIENCE", 0.01)
    async with Freshness(asyncio.Event().wait, pace=lambda: 60, apart=0) as freshness:  # type: ignore[arg-type]
        await freshness.renewed()
        await freshness.renewed()
