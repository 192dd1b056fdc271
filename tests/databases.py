"""Databases lent to one test after the other: emptying one costs a hundredth of making one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import psycopg
from psycopg import sql

from quarterdeck.kernel.postgres import Server

Row = tuple[object, ...]
Connection = psycopg.Connection[Row]

LOANS = 100
"""After so many loans a database is made anew: deleted rows still take room in it."""

_TABLES = """
select relname from pg_class where relnamespace = 'public'::regnamespace
and relkind = 'r' and relname <> 'alembic_version' order by relname
"""

_SEQUENCES = "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'S'"

_SHAPE = """
select
    (select string_agg(version_num, ' ') from alembic_version),
    (select sum(hashtextextended(row(attrelid, attname, atttypid, atttypmod, attnotnull)::text, 0))
        from pg_attribute join pg_class on pg_class.oid = attrelid
        where relnamespace = 'public'::regnamespace),
    (select sum(hashtextextended(row(oid, relname, relkind)::text, 0))
        from pg_class where relnamespace = 'public'::regnamespace),
    (select sum(hashtextextended(row(oid, conname)::text, 0)) from pg_constraint),
    (select sum(hashtextextended(row(oid, tgname, tgenabled)::text, 0)) from pg_trigger),
    (select sum(hashtextextended(row(oid, proname)::text, 0))
        from pg_proc where pronamespace = 'public'::regnamespace),
    (select count(*) from pg_namespace where nspname !~ '^pg_(toast_)?temp_'),
    (select count(*) from pg_db_role_setting)
"""
"""What a test may change that is not rows of ours; a database whose shape was changed is not lent again."""

_DISCONNECT = """
select pg_terminate_backend(pid, 5000) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""


def connect(url: str) -> Connection:
    """A connection of ours, which commits by itself, to what SQLAlchemy calls `url`."""
    return psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True)


@dataclass
class Lent:
    """A database between its making and its end."""

    name: str
    connection: Connection
    loans: int = 0
    shape: Row | None = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self._row(_SHAPE)
        tables, sequences = self._names(_TABLES), self._names(_SEQUENCES)
        self._used = sql.SQL(" union all ").join(
            [_when(name, "exists (select from {})", "table") for name in tables]
            + [_when(name, "(select is_called from {})", "sequence") for name in sequences]
        )

    def empty(self) -> bool:
        """End whoever is still connected and take back what they left; `False` when that cannot be done."""
        self.loans += 1
        try:
            self.connection.execute(_DISCONNECT)
            self._delete_all()
            return self.loans < LOANS and self._row(_SHAPE) == self.shape
        except psycopg.Error:
            return False

    def _delete_all(self) -> None:
        used = self.connection.execute(self._used, prepare=True).fetchall()
        if not used:
            return
        steps: list[sql.Composable] = [
            sql.SQL("set local session_replication_role = replica")  # no foreign key says in what order
        ]
        for kind, name in used:
            step = "delete from {}" if kind == "table" else "select setval('{}', 1, false)"
            steps.append(sql.SQL(step).format(sql.Identifier(str(name))))
        with self.connection.transaction():
            self.connection.execute(sql.SQL("; ").join(steps))

    def _row(self, query: str) -> Row | None:
        return self.connection.execute(query, prepare=True).fetchone()

    def _names(self, query: str) -> list[str]:
        return [str(name) for (name,) in self.connection.execute(query)]


def _when(name: str, condition: str, kind: str) -> sql.Composed:
    """A query that yields this name when its condition holds."""
    parts = "select {}, {} where " + condition
    return sql.SQL(parts).format(sql.Literal(kind), sql.Literal(name), sql.Identifier(name))


class Databases:
    """The databases of one worker, copies of a template."""

    def __init__(self, server: Server, admin: Connection, template: str, prefix: str) -> None:
        self._server, self._admin, self._template, self._prefix = server, admin, template, prefix
        self._numbers = count(1)
        self._free: list[Lent] = []

    @contextmanager
    def lend(self) -> Iterator[str]:
        """The URL of an empty database with all tables, the borrower's own until the end of the block."""
        lent = self._free.pop() if self._free else self._make()
        try:
            yield self._server.url(lent.name)
        finally:
            if lent.empty():
                self._free.append(lent)
            else:
                self._drop(lent)

    def close(self) -> None:
        """Drop them all."""
        while self._free:
            self._drop(self._free.pop())

    def _make(self) -> Lent:
        name = f"{self._prefix}_{next(self._numbers)}"
        made = sql.SQL("create database {} template {} strategy file_copy")
        self._admin.execute(made.format(sql.Identifier(name), sql.Identifier(self._template)))
        return Lent(name, connect(self._server.url(name)))

    def _drop(self, lent: Lent) -> None:
        lent.connection.close()
        self._admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(lent.name)))
