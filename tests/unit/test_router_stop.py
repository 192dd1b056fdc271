"""How the router ends what runs beside its calls."""

import asyncio

from quarterdeck.router.service import _ended


async def test_what_runs_beside_the_calls_ends_together_however_long_each_takes() -> None:
    """At a frozen PostgreSQL each takes ten seconds to give up its query."""
    at_its_end = asyncio.Barrier(3)

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await at_its_end.wait()  # passes only when all three are here

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(10):
            await _ended(*tasks)
    finally:
        await at_its_end.abort()  # lets go those that would wait in vain
    assert all(task.cancelled() for task in tasks)
