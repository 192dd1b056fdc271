"""Waiting for a condition, and for no longer than somebody would."""

import asyncio
import time
from collections.abc import Callable
from typing import Any


async def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """The first answer that counts as true. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(0.01)
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """The same where no loop runs. Raises `AssertionError`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen within {seconds} s"
        time.sleep(0.01)
