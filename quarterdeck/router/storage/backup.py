"""Backups: all of the router's tables in one SQLite file, made while it runs, read back in one command.

    sidecar_v2_20261122_031500.db      # UTC; mode 0600; keys in it stay sealed: keep the master keys too

A file appears under its name only after it was read again: integrity, and as many rows as were written.
The form does not depend on the version of PostgreSQL, and every SQLite tool can look into it.
"""

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Table,
    create_engine,
    delete,
    func,
    insert,
    select,
)

from quarterdeck.kernel.errors import Conflict, Invalid, NotFound
from quarterdeck.kernel.postgres import network
from quarterdeck.router.model import TABLES
from quarterdeck.router.storage.lease import LEASE

PREFIX, SUFFIX, UNFINISHED = "sidecar_v2_", ".db", ".partial"
NAME = re.compile(rf"{PREFIX}(\d{{8}}_\d{{6}})\{SUFFIX}")
STAMP = "%Y%m%d_%H%M%S"
FORMAT = "1"
BATCH = 2000

READERS: dict[type[Any], Callable[[Any], Any]] = {
    JSON: json.loads,
    DateTime: datetime.fromisoformat,
    Date: date.fromisoformat,
    Boolean: bool,
}
"""How to read back what SQLite has no type for."""


@dataclass(frozen=True)
class Backup:
    """One file, and how many rows of each table are in it."""

    path: Path
    rows: dict[str, int]


def make(url: str, folder: Path, now: datetime) -> Backup:
    """Write a verified backup. Blocking: the router has it done by `upkeep.backing_up`.

    Raises `OSError` or `Invalid` when it could not be written or read again; nothing is left then.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in folder.glob(f"{PREFIX}*{UNFINISHED}"):
        left.unlink(missing_ok=True)  # of a process that was killed
    path = folder / f"{PREFIX}{now.astimezone(UTC).strftime(STAMP)}{SUFFIX}"
    draft = path.with_suffix(UNFINISHED)
    os.close(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
    try:
        rows = _write(url, draft)
        if verify(draft) != rows:
            raise Invalid(f"The backup {path.name} does not hold what was written.", "Try again.")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return Backup(path, rows)


def _write(url: str, draft: Path) -> dict[str, int]:
    rows = {}
    with closing(sqlite3.connect(draft)) as file, _snapshot(url) as source:
        file.execute("create table backup (key text primary key, value text)")
        for table in TABLES:
            names = ", ".join(f'"{column.name}"' for column in table.columns)
            file.execute(f'create table "{table.name}" ({names})')
            rows[table.name] = _copy(source, table, file)
        told = {"format": FORMAT, "rows": json.dumps(rows)}
        file.executemany("insert into backup values (?, ?)", told.items())
        file.commit()
    return rows


@contextmanager
def _snapshot(url: str) -> Iterator[Connection]:
    """A connection that sees one moment of the database, however long the copying takes."""
    engine = create_engine(url, isolation_level="REPEATABLE READ", connect_args=network(url))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _copy(source: Connection, table: Table, file: sqlite3.Connection) -> int:
    count = 0
    marks = ", ".join("?" * len(table.columns))
    found = source.execution_options(yield_per=BATCH).execute(select(table))
    for batch in found.partitions(BATCH):
        plain = [[_plain(value) for value in row] for row in batch]
        file.executemany(f'insert into "{table.name}" values ({marks})', plain)  # noqa: S608 - our own names
        count += len(plain)
    return count


def _plain(value: Any) -> Any:
    """A value as SQLite keeps it, without losing anything."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return json.dumps(value) if isinstance(value, dict | list) else value


def verify(path: Path) -> dict[str, int]:
    """The rows of each table of a backup. Raises `Invalid` when it is damaged, `NotFound` without a file."""
    with _opened(path) as file:
        said = dict(file.execute("select key, value from backup").fetchall())
        if said.get("format") != FORMAT:
            raise _damaged(path, f"its form is {said.get('format')!r}, not {FORMAT}")
        found = {table.name: _count(file, table.name) for table in TABLES}
        if found != json.loads(said["rows"]):
            raise _damaged(path, "rows are missing")
        return found


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A backup, opened for reading, its pages checked."""
    if not path.is_file():
        raise NotFound(f"There is no backup {path}.", "Name a file of the backup folder.")
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
        try:
            if file.execute("pragma integrity_check").fetchone() != ("ok",):
                raise _damaged(path, "its integrity check fails")
            yield file
        except (sqlite3.DatabaseError, KeyError) as error:
            raise _damaged(path, str(error)) from None


def _count(file: sqlite3.Connection, table: str) -> int:
    return int(file.execute(f'select count(*) from "{table}"').fetchone()[0])  # noqa: S608 - our own names


def _damaged(path: Path, why: str) -> Invalid:
    return Invalid(f"{path.name} is no backup that can be used: {why}.", "Take an older one.", field="path")


def restore(url: str, path: Path) -> dict[str, int]:
    """Put a backup in place of what the router's tables hold; all of it or nothing. Rows per table.

    Raises `Conflict` while a router runs on that database, `Invalid` for a file that is damaged.
    """
    rows = verify(path)
    engine = create_engine(url, connect_args=network(url))
    try:
        with engine.begin() as target, _opened(path) as file:
            if not target.execute(select(func.pg_try_advisory_xact_lock(LEASE))).scalar():
                raise Conflict(
                    "A router runs on this database.",
                    "Stop it, restore, and start it again.",
                    code="router_runs",
                )
            for table in reversed(TABLES):
                target.execute(delete(table))
            for table in TABLES:
                for batch in _rows(file, table):
                    target.execute(insert(table), batch)
    finally:
        engine.dispose()
    return rows


def _rows(file: sqlite3.Connection, table: Table) -> Iterator[Sequence[dict[str, Any]]]:
    found = file.execute(f'select * from "{table.name}"')  # noqa: S608 - our own names
    columns = [table.columns[name] for name, *_ in found.description]
    while batch := found.fetchmany(BATCH):
        yield [{c.name: _rich(c, value) for c, value in zip(columns, row, strict=True)} for row in batch]


def _rich(column: Column[Any], value: Any) -> Any:
    """A value as PostgreSQL's column wants it."""
    read = next((read for kind, read in READERS.items() if isinstance(column.type, kind)), None)
    return value if read is None or value is None else read(value)


def files(folder: Path) -> list[Path]:
    """The backups of a folder, oldest first; other files are none of ours."""
    return sorted(path for path in folder.glob(f"{PREFIX}*{SUFFIX}") if NAME.fullmatch(path.name))


def made_at(path: Path) -> datetime:
    """When a backup was made, as its name says."""
    found = NAME.fullmatch(path.name)
    assert found is not None, path
    return datetime.strptime(found[1], STAMP).replace(tzinfo=UTC)


def retire(folder: Path, days: int, now: datetime) -> list[Path]:
    """Delete backups older than that many days, but never the newest one; those deleted."""
    old = [path for path in files(folder)[:-1] if now - made_at(path) > timedelta(days=days)]
    for path in old:
        path.unlink(missing_ok=True)
    return old
