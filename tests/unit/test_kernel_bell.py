"""A bell that is waited for."""

import asyncio

import pytest

from quarterdeck.kernel.bell import rung


async def test_a_bell_ends_the_wait_and_so_does_time() -> None:
    bell = asyncio.Event()
    await rung(bell, 0.001)
    bell.set()
    await rung(bell, 60)


@pytest.mark.parametrize("turns", range(5))
async def test_who_is_cancelled_in_the_moment_of_the_ring_ends(turns: int) -> None:
    bell = asyncio.Event()
    waiting = asyncio.create_task(rung(bell, 60))
    await asyncio.sleep(0)
    bell.set()
    for _ in range(turns):
        await asyncio.sleep(0)  # the ring is under way
    was_waiting = waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled() is was_waiting
