"""The ledger: every attempt and every change of a backend, written in batches behind the calls' back.

    record, changes    keep a line in memory                    microseconds, never wait, never raise
    every 0.5 s        the lines go to files of the spool       what a `kill -9` loses: this half second
    behind that        files go to PostgreSQL, oldest first     a file leaves only after its commit

A batch may be written twice (the connection broke during the commit): a call counts once, by its id. While
PostgreSQL is away the files wait; they are written when it is back, or at the next start.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import structlog
from psycopg import AsyncConnection

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.kernel.postgres import libpq, options
from quarterdeck.router.call import Call
from quarterdeck.router.exchange import NO_ERROR
from quarterdeck.router.ledger import booking
from quarterdeck.router.ledger.spool import Spool
from quarterdeck.router.limits.standing import Change

log = structlog.get_logger(__name__)

TICK = 0.5
"""Seconds that a line is at most in memory alone."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds before PostgreSQL is tried again."""

CLOSE_SECONDS = 4.0
"""What a stop may wait for PostgreSQL; what is not written then waits in files."""

SILENCE = 10.0
"""Seconds of one write after which something is wrong."""

_BAD_ROW = (psycopg.DataError, psycopg.IntegrityError)
_NETWORK: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_OPTIONS = "-c timezone=UTC -c application_name=quarterdeck-ledger"


@dataclass(slots=True)
class Totals:
    """Everything since the router was first used; `requests` are attempts. Cost in pico-dollars.

    Sums stand still where those of the rows do.
    """

    requests: int = 0
    client_requests: int = 0
    errors: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0

    def add(self, call: Call) -> None:
        usage = call.usage
        self.requests += 1
        self.client_requests += call.is_answer
        self.errors += call.outcome not in NO_ERROR
        total = usage.total or usage.prompt + usage.completion
        self.tokens = min(self.tokens + total, booking.MOST_SUM)
        self.prompt_tokens = min(self.prompt_tokens + usage.prompt, booking.MOST_SUM)
        self.completion_tokens = min(self.completion_tokens + usage.completion, booking.MOST_SUM)
        self.cost = min(self.cost + call.cost, booking.MOST_SUM)


class Ledger:
    """A `Book`. Use it as a context, or `open` and `close` it; one at a time for one folder."""

    def __init__(self, database: Database | str, folder: Path, now: Callable[[], float]) -> None:
        """`folder` is where lines wait; `now` is the router's steady clock."""
        url = database if isinstance(database, str) else database.url
        self._conninfo = libpq(url, options=options(url, _OPTIONS))
        self._now = now
        self._calls = Spool(folder, "calls.v1")
        self._changes = Spool(folder, "changes.v1")
        self._lines: list[str] = []
        self._change_lines: list[bytes] = []
        self._connection: AsyncConnection[Any] | None = None
        self._writing = asyncio.Lock()
        self._filed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.totals = Totals()
        self._fault = ""
        self._since: float | None = None
        self.behind_since: float | None = None
        """When the lines began to wait."""

    def record(self, call: Call) -> None:
        """Book one attempt. Never waits, never raises."""
        try:
            call = booking.bounded(call)
            self._lines.append(booking.line(call))
            self.totals.add(call)
        except Exception:
            log.exception("call_not_booked", call=str(getattr(call, "id", call)))

    def changes(self, changes: Sequence[Change]) -> None:
        """Keep what the balancer changed, in its order. Never waits, never raises."""
        for change in changes:
            try:
                self._change_lines.append(booking.change_line(change))
            except Exception:
                log.exception("change_not_booked", change=type(change).__name__)

    @property
    def fault(self) -> str:
        """Why lines wait; '' = none does, as far as is known."""
        if self._since is not None and (silent := self._now() - self._since) > SILENCE:
            return f"PostgreSQL has not answered for {silent:.0f} seconds"
        return self._fault

    @property
    def waiting_bytes(self) -> int:
        """What is in files and not in PostgreSQL yet."""
        return self._calls.size + self._changes.size

    @property
    def lost(self) -> int:
        """Lines that neither disk nor memory would take, since the start."""
        return self._calls.lost + self._changes.lost

    async def open(self) -> None:
        """Write what a former process left, and read the totals. Raises `Unavailable`."""
        await self.flush()
        assert self._connection is not None
        async with self._connection.transaction():
            row = await (await self._connection.execute(booking.TOTALS)).fetchone()
        assert row is not None
        self.totals = Totals(*map(int, row))
        self._tasks = [asyncio.create_task(self._file_always()), asyncio.create_task(self._write_always())]

    async def flush(self) -> None:
        """Return when everything that was recorded so far is in PostgreSQL. Raises `Unavailable`."""
        self._file()
        async with self._writing:
            try:
                await self._write()
            except (psycopg.Error, OSError) as error:
                await self._disconnect()
                self._note(f"PostgreSQL does not take them: {_first_line(error)}")
                raise Unavailable(
                    f"The ledger cannot be written: {_first_line(error)}.",
                    "Nothing is lost: calls wait in files and are written when PostgreSQL is back.",
                    code="ledger_behind",
                ) from error
            self._note("")

    async def close(self) -> None:
        """Write everything, to files if PostgreSQL does not take it in time."""
        last = asyncio.create_task(self.flush())
        done, _ = await asyncio.wait({last}, timeout=CLOSE_SECONDS)
        if not done and self._connection is not None:
            self._connection.pgconn.finish()  # psycopg would wait ten seconds more for a frozen server
        for task in (last, *self._tasks):
            task.cancel()
        await asyncio.gather(last, *self._tasks, return_exceptions=True)
        self._file()
        if self.waiting_bytes:
            log.warning("ledger_waits_in_files", bytes=self.waiting_bytes)
        await self._disconnect()
        self._calls.close()
        self._changes.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # From memory to files.

    async def _file_always(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._file()
            if self.waiting_bytes:
                self._filed.set()

    def _file(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            self._calls.add("".join(lines).encode(errors="replace"))
        if self._change_lines:
            changed, self._change_lines = self._change_lines, []
            self._changes.add(b"".join(changed))

    # From files to PostgreSQL.

    async def _write_always(self) -> None:
        pause = SHORTEST_PAUSE
        while True:
            await self._filed.wait()
            self._filed.clear()
            try:
                await self.flush()
                pause = SHORTEST_PAUSE
            except Unavailable:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                self._filed.set()
            except Exception:
                log.exception("ledger_broke")
                await asyncio.sleep(LONGEST_PAUSE)
                self._filed.set()

    async def _write(self) -> None:
        try:
            self._since = self._now()
            connection = await self._connected()
            while piece := self._changes.oldest():
                self._since = self._now()
                await self._write_changes(connection, self._changes.read(piece))
                self._changes.done(piece)
            while piece := self._calls.oldest():
                self._since = self._now()
                await self._write_calls(connection, self._calls.read(piece))
                self._calls.done(piece)
        finally:
            self._since = None

    async def _write_calls(self, connection: AsyncConnection[Any], lines: bytes) -> None:
        """Book lines; those that no table takes are put aside, one by one."""
        if not lines:
            return
        try:
            async with connection.transaction():
                await connection.execute(booking.STAGING)
                async with connection.cursor() as cursor:
                    async with cursor.copy(booking.COPY) as copy:
                        await copy.write(lines)
                    await cursor.execute(booking.BOOK)
        except _BAD_ROW as error:
            await self._write_halves(connection, lines.splitlines(keepends=True), error)

    async def _write_halves(
        self, connection: AsyncConnection[Any], lines: list[bytes], error: psycopg.Error
    ) -> None:
        if len(lines) == 1:
            log.error("call_refused_by_database", reason=_first_line(error))
            self._calls.reject(lines[0].rstrip(b"\n"))
            return
        middle = len(lines) // 2
        await self._write_calls(connection, b"".join(lines[:middle]))
        await self._write_calls(connection, b"".join(lines[middle:]))

    async def _write_changes(self, connection: AsyncConnection[Any], lines: bytes) -> None:
        """All of them in one transaction, in their order."""
        async with connection.transaction():
            for line in lines.splitlines():
                try:
                    async with connection.transaction():
                        await _apply(connection, line)
                except (psycopg.Error, ValueError, KeyError, TypeError) as error:
                    if not _is_hopeless(error):
                        raise
                    log.error("change_refused_by_database", reason=_first_line(error))
                    self._changes.reject(line)

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = await AsyncConnection.connect(self._conninfo, **_NETWORK)
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                await connection.close()

    def _note(self, fault: str) -> None:
        """Say once that lines wait, and once that they do no more."""
        if fault and not self._fault:
            log.warning("ledger_behind", reason=fault)
            self.behind_since = self._now()
        if self._fault and not fault:
            log.info("ledger_caught_up", seconds=round(self._now() - (self.behind_since or 0), 1))
            self.behind_since = None
        self._fault = fault


async def _apply(connection: AsyncConnection[Any], line: bytes) -> None:
    values = json.loads(line)
    for statement in booking.CHANGES[values["change"]]:
        await connection.execute(statement, values)


def _is_hopeless(error: Exception) -> bool:
    """Whether it lies in the line itself, so that another time would be no better."""
    if isinstance(error, psycopg.Error):
        return isinstance(error, _BAD_ROW) or (
            isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None  # a value is missing
        )
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
