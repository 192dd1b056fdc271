"""One router on one database: limits, cooldowns and budgets are only exact where one process counts.

The lease is an advisory lock of PostgreSQL, held by a connection of its own. It ends with the process,
however that ends. While PostgreSQL is away the router goes on; when it is back it takes the lease again, and
gives way if somebody else has it by then.
"""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import psycopg
import structlog
from psycopg import AsyncConnection

from quarterdeck.kernel.errors import Conflict, Unavailable
from quarterdeck.kernel.postgres import libpq

log = structlog.get_logger(__name__)

LEASE = 0x51D3_CA12
"""The advisory lock that a running router holds."""

LOOK = 2.0
"""Seconds between two looks at the connection."""

PATIENCE = 3.0
"""Seconds for which a former router may still be about to end."""

CLOSE_SECONDS = 1.0
"""How long a look that is under way may hold up the end."""

_NETWORK: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "quarterdeck-router",
    "autocommit": True,
}


class Lease:
    """Held inside `async with`; `lost` ends with `Conflict` when another router has it."""

    def __init__(self, url: str) -> None:
        """`url` is SQLAlchemy's."""
        self._conninfo = libpq(url)
        self._connection: AsyncConnection[Any] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        """Raises `Conflict` when a router runs on the database, `Unavailable` without a database."""
        try:
            await self._take(PATIENCE)
        except (psycopg.Error, OSError) as error:
            raise Unavailable(
                f"The database does not answer: {str(error).strip().splitlines()[0]}.",
                "Start it; `quarterdeck doctor` looks for the cause.",
                code="database_unavailable",
            ) from error
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()  # not cancelled: psycopg turns that into an error of the query under way
        if self._watching is not None:
            await self._end(self._watching)
        self.lost.cancel()
        if self._connection is not None:
            await self._connection.close()

    async def _end(self, watching: "asyncio.Task[None]") -> None:
        done, _ = await asyncio.wait({watching}, timeout=CLOSE_SECONDS)
        if not done and self._connection is not None:
            self._connection.pgconn.finish()  # psycopg would wait ten seconds more for a frozen server
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    async def _take(self, patience: float) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience
        self._connection = await AsyncConnection.connect(self._conninfo, **_NETWORK)
        while not await self._lock(self._connection):
            if loop.time() >= give_up:
                await self._connection.close()
                raise Conflict(
                    "Another router runs on this database.",
                    "One router serves one database: stop the other one, or give this one its own with"
                    " QUARTERDECK_DATABASE_URL (or QUARTERDECK_HOME).",
                    code="router_runs",
                )
            await asyncio.sleep(0.1)

    async def _lock(self, connection: AsyncConnection[Any]) -> bool:
        row = await (await connection.execute("select pg_try_advisory_lock(%s)", [LEASE])).fetchone()
        return bool(row and row[0])

    async def _watch(self) -> None:
        while not await self._ends_within(LOOK):
            try:
                await self._look()
            except (psycopg.Error, OSError) as error:
                log.warning("router_lease_waits", reason=str(error).strip().splitlines()[:1])
            except Conflict as error:
                log.error("router_lease_lost", reason=str(error))
                if not self.lost.done():
                    self.lost.set_exception(error)
                return

    async def _ends_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)
        return self._ending.is_set()

    async def _look(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            await self._take(0)
            log.info("router_lease_taken_again")
            return
        try:
            await connection.execute("select 1")
        except psycopg.OperationalError:
            await connection.close()
            raise
