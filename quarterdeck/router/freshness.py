"""How old what routing knows may get: it is read at a pace, when told to; and whether that works is known.

freshness = Freshness(read, pace=lambda: 5.0)
await freshness.keep()     # for ever, as a task
freshness.fault            # why the last reading failed
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from quarterdeck.kernel.errors import Unavailable

log = structlog.get_logger(__name__)


class Freshness:
    """`read` takes over what is stored and raises `Unavailable`; `pace` gives seconds between two."""

    def __init__(self, read: Callable[[], Awaitable[None]], pace: Callable[[], float]) -> None:
        self._read = read
        self._pace = pace
        self._stale = asyncio.Event()
        self.fault = ""
        """Why the last reading failed; '' = it did not."""

    def expire(self) -> None:
        """What is known is out of date: read at once."""
        self._stale.set()

    async def keep(self) -> None:
        """Read for ever."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stale.wait(), self._pace())
            self._stale.clear()
            await self._try()

    async def _try(self) -> None:
        try:
            await self._read()
            self.fault = ""
        except Unavailable as error:
            if not self.fault:
                log.warning("router_goes_on_from_memory", reason=str(error))
            self.fault = error.detail
        except Exception:
            log.exception("refresh_broke")
