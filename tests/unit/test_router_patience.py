"""Waits end in time, and whoever is cancelled for another reason stays cancelled."""

import asyncio

import pytest

from quarterdeck.router.door.patience import TICK, Patience


async def test_a_wait_that_takes_too_long_ends_with_an_error() -> None:
    patience, began = Patience(), asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError), patience.of(0.1):
        await asyncio.Event().wait()
    assert asyncio.get_running_loop().time() - began >= 0.1
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_wait_that_ends_in_time_is_left_alone() -> None:
    patience = Patience()
    for _ in range(3):
        with patience.of(0.01):
            await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*[_short(patience) for _ in range(50)]), 20)


async def _short(patience: Patience) -> None:
    with patience.of(20):
        await asyncio.sleep(TICK * 1.5)


async def test_whoever_is_cancelled_while_it_waits_is_cancelled() -> None:
    patience = Patience()
    task = asyncio.create_task(_short(patience))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_in_the_moment_of_lateness_wins() -> None:
    patience = Patience()

    async def waits() -> None:
        with patience.of(0):
            await asyncio.Event().wait()

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    patience._tick()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_wait_itself_passes_through() -> None:
    with pytest.raises(ValueError, match="mine"), Patience().of(1):
        raise ValueError("mine")
