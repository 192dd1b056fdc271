"""A code host that takes too long is down: what it was asked is asked again, and finds its own traces."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from quarterdeck.kernel.errors import Unavailable

LONGEST = timedelta(seconds=110)
"""For one step of a stage, which has 120 s: what takes longer than those is a failure of ours."""


@asynccontextmanager
async def in_time(what: str, longest: timedelta = LONGEST) -> AsyncIterator[None]:
    """Give up what is done within when its time is over. Raises `Unavailable` (`timed_out`)."""
    try:
        async with asyncio.timeout(longest.total_seconds()):
            yield
    except TimeoutError:
        raise Unavailable(
            f"The code host did not come to an end with {what} within {longest.total_seconds():g} s.",
            "It is tried again later.",
            code="timed_out",
        ) from None
