"""Ends what runs beside the calls, also while PostgreSQL is frozen."""

import asyncio
from typing import Any

PATIENCE = 1.0
"""Seconds that a task may take to end; then it is asked again."""


async def ended(*tasks: "asyncio.Task[Any]") -> None:
    """All at once. psycopg gives up a query at a frozen server after ten seconds, or if it is asked twice."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=PATIENCE)
    await asyncio.gather(*tasks, return_exceptions=True)
