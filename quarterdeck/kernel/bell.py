"""Waiting for a bell that may ring earlier than the next look."""

import asyncio
from contextlib import suppress


async def rung(bell: asyncio.Event, seconds: float) -> None:
    """Returns when it rings, after so many seconds at the latest.

    `asyncio.wait_for` loses a cancellation that comes together with the ring, before Python 3.12: whoever
    waits in a loop would then never end (https://bugs.python.org/issue37658).
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
