"""How old what routing knows may get: it is read at a pace, when told to; and whether that works is known.

async with Freshness(read, pace=lambda: 5.0) as freshness:
    asyncio.create_task(freshness.keep())    # for ever
    await freshness.renewed()                # what was stored before this is known
    freshness.fault                          # why the last reading failed
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from types import TracebackType
from typing import Self

import structlog

from quarterdeck.kernel.errors import Unavailable
from quarterdeck.router.ending import ended

log = structlog.get_logger(__name__)

PATIENCE = 3.0
"""Seconds for which somebody waits for a reading that does not end."""

SILENCE = 10.0
"""Seconds of one reading after which something is wrong: a frozen server breaks no connection."""


class Freshness:
    """`read` takes over what is stored and raises `Unavailable`; `pace` gives seconds between two.

    Readings that somebody asks for begin at least `apart` seconds after each other, however many ask.
    """

    def __init__(
        self, read: Callable[[], Awaitable[None]], pace: Callable[[], float], apart: float = 1.0
    ) -> None:
        self._read = read
        self._pace = pace
        self._apart = apart
        self._stale = asyncio.Event()
        self._one_by_one = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._renewing: set[asyncio.Task[None]] = set()
        self._began = -inf
        self._fault = ""
        self._reading: dict[object, float] = {}

    @property
    def fault(self) -> str:
        """Why the last reading failed, or does not end; '' = all is well."""
        begun = min(self._reading.values(), default=None)
        silent = 0.0 if begun is None else asyncio.get_running_loop().time() - begun
        return f"PostgreSQL could not be read for {silent:.0f} seconds" if silent > SILENCE else self._fault

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

    async def renewed(self) -> None:
        """Return when a reading has ended that began from now on; without one after `PATIENCE`."""
        if self._next is None:
            self._next = asyncio.create_task(self._renew())
            self._renewing.add(self._next)
            self._next.add_done_callback(self._renewing.discard)
        await asyncio.wait({self._next}, timeout=PATIENCE)

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._one_by_one:
            await asyncio.sleep(max(0.0, self._began + self._apart - loop.time()))
            self._next = None  # whoever asks from now on may want what this reading does not see
            self._began = loop.time()
            await self._try()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await ended(*self._renewing)

    async def _try(self) -> None:
        reading = object()
        self._reading[reading] = asyncio.get_running_loop().time()
        try:
            await self._read()
            self._fault = ""
        except Unavailable as error:
            if not self._fault:
                log.warning("router_goes_on_from_memory", reason=str(error))
            self._fault = error.detail
        except Exception:
            log.exception("refresh_broke")
        finally:
            del self._reading[reading]
