"""Waiting for an answer that others give: Prefect, a desk."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 120) -> Any:
    """The first answer that counts as true."""
    async with asyncio.timeout(seconds):
        while True:
            if found := await condition():
                return found
            await asyncio.sleep(0.1)
