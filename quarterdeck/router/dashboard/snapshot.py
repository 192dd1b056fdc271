"""The live stream: one snapshot for all who watch, made only while somebody does."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Mapping as Map
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson

from quarterdeck.router.backend import REHEARSAL, Backend
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.limits.standing import View

KEEP_ALIVE_SECONDS = 15.0
"""The longest silence: whatever stands in between closes what it takes for dead."""

LOOK_SECONDS = 1.0
"""After so long at most it is seen that the interval was changed."""

KEEP_ALIVE = b": still here\n\n"

Source = Callable[[], Map[str, Any]]
"""Makes a snapshot: `pool`, `total`, `backends`, `uptime_seconds`. Called at most once per interval."""


class Feed:
    """Hands every viewer the same frames. `interval`: seconds between two of them, read anew each time."""

    def __init__(
        self,
        source: Source,
        interval: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        longest_silence: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self._source = source
        self._interval = interval
        self._clock = clock
        self._longest_silence = longest_silence
        self._frame = b""
        self._made_at = -math.inf
        self._closing = asyncio.Event()

    async def frames(self) -> AsyncIterator[bytes]:
        """Server-sent events, beginning at once, until the viewer leaves or the feed is closed."""
        seen, spoke_at = b"", self._clock()
        while not self._closing.is_set():
            frame, now = self._latest(), self._clock()
            if frame is not seen:
                seen, spoke_at = frame, now
                yield frame
            elif now >= spoke_at + self._longest_silence:
                spoke_at = now
                yield KEEP_ALIVE
            else:
                due = min(self._made_at + self._interval(), spoke_at + self._longest_silence)
                await self._rest(min(due - now, LOOK_SECONDS))

    def close(self) -> None:
        """Ends every stream, so that a stopping server need not wait for its viewers."""
        self._closing.set()

    def _latest(self) -> bytes:
        if (now := self._clock()) >= self._made_at + self._interval():
            self._made_at = now
            self._frame = _event(self._source())
        return self._frame

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)


def _event(snapshot: Map[str, Any]) -> bytes:
    head = {"type": "snapshot", "timestamp": time.time()}
    return b"data: " + orjson.dumps(head | dict(snapshot)) + b"\n\n"


def snapshots(
    balancer: Balancer, totals: Callable[[], Map[str, Any]], started_at: float, now: Callable[[], float]
) -> Source:
    """What the balancer knows now, and the running totals (as the admin API's `stats/total` has them)."""

    def snapshot() -> dict[str, Any]:
        at = now()
        return {
            "pool": {pool.value: count for pool, count in balancer.pools(at).items()},
            "total": totals(),
            "backends": [entry(backend, balancer.view(backend.id, at)) for backend in balancer.backends()],
            "uptime_seconds": round(at - started_at),
        }

    return snapshot


def entry(backend: Backend, view: View) -> dict[str, Any]:
    """One backend of a snapshot: the fields of the specification (section 16), and why it stands so.

    `half_open`: how many calls may be in flight while it recovers, null when it is fully open.
    """
    return {
        "id": backend.id,
        "name": backend.name,
        "label": backend.label,
        "pool": backend.pool,
        "enabled": backend.enabled,
        "status": view.status,
        "rpm_limit": backend.rpm_limit,
        "cooldown_until": _utc(view.until),
        "consecutive_429_count": view.count,
        "model_count": len(backend.mappings),
        "rate_limiter": view.level,
        "health": view.health,
        "reason": view.reason,
        "kind": view.kind,
        "next_probe_at": _utc(view.next_probe),
        "half_open": view.step or None,
        "failures": view.failures,
        "unwell_since": _utc(view.unwell_since),
        "last_check_at": _utc(view.checked_at),
        "last_status_code": view.status_code,
        "is_built_in": backend.api == REHEARSAL,
        "in_flight": view.in_flight,
        "success_rate_5m": view.success_rate_5m,
        "calls_5m": view.calls_5m,
    }


def _utc(moment: float | None) -> str | None:
    """Never earlier than it is."""
    if moment is None:
        return None
    return datetime.fromtimestamp(math.ceil(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
