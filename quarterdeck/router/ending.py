"""Ends what runs beside the calls, also while PostgreSQL is frozen."""

import asyncio
from typing import Any

PATIENCE = 3.0
"""Seconds that a task may take to end; asked again, it leaves open what it was just closing."""


async def ended(*tasks: "asyncio.Task[Any]") -> None:
    """All at once. psycopg gives up a query at a frozen server after ten seconds, or if it is asked twice."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=PATIENCE)
    await asyncio.gather(*tasks, return_exceptions=True)
