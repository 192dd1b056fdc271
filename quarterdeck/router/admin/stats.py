"""The admin API's numbers: totals, hours, days, cooldowns, single calls, and what an agent or item spent."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from quarterdeck.router.admin.wire import answered, iso, moment_of, number_of, text_of
from quarterdeck.router.ledger.stats import MOST_DAYS, MOST_HOURS, MOST_ROWS, Narrow, Stats


class StatsRoutes:
    """Reading only."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self.routes = [
            Route("/stats/total", answered(self._total), methods=["GET"]),
            Route("/stats/hourly", answered(self._hourly), methods=["GET"]),
            Route("/stats/daily", answered(self._daily), methods=["GET"]),
            Route("/stats/cooldown", answered(self._cooldown), methods=["GET"]),
            Route("/calls", answered(self._calls), methods=["GET"]),
            Route("/spend", answered(self._spend), methods=["GET"]),
        ]

    async def _total(self, request: Request) -> Any:
        return self._stats.total()

    async def _hourly(self, request: Request) -> Any:
        hours = number_of(request, "hours", 168, MOST_HOURS)
        pages = self._stats.hourly(text_of(request, "backend_id"), hours)
        first: list[dict[str, Any]] = await anext(pages, [])  # an error is still an answer here
        return StreamingResponse(
            _array(first, pages), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    async def _daily(self, request: Request) -> Any:
        return await self._stats.daily(number_of(request, "days", 30, MOST_DAYS))

    async def _cooldown(self, request: Request) -> Any:
        limit = number_of(request, "limit", 50, MOST_ROWS)
        return await self._stats.cooldowns(text_of(request, "backend_id"), limit)

    async def _calls(self, request: Request) -> Any:
        return await self._stats.calls(_narrow(request), number_of(request, "limit", 100, MOST_ROWS))

    async def _spend(self, request: Request) -> Any:
        narrow = _narrow(request)
        return await self._stats.spend(narrow) | {"since": iso(narrow.since)}


def _narrow(request: Request) -> Narrow:
    return Narrow(
        backend_id=text_of(request, "backend_id"),
        client_id=text_of(request, "client_id"),
        agent=text_of(request, "agent"),
        item=text_of(request, "item"),
        since=moment_of(request, "since"),
    )


async def _array(
    first: list[dict[str, Any]], pages: AsyncIterator[list[dict[str, Any]]]
) -> AsyncIterator[bytes]:
    """A JSON array, page by page: a year of hours needs no more memory than a day."""
    yield b"[" + orjson.dumps(first)[1:-1]
    is_empty = not first
    async for page in pages:
        yield (b"" if is_empty else b",") + orjson.dumps(page)[1:-1]
        is_empty = False
    yield b"]"
