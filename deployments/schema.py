"""Bring a database's tables to the newest step, from any number of processes at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from quarterdeck.kernel.errors import Misconfigured, Unavailable

_LOCK = 0x5DEC0001
"""Key of the advisory lock that lets one process migrate at a time."""

_FOLDER = Path(__file__).parent / "migrations"


def migrate(url: str) -> None:
    """Take every step that is missing, in one transaction; does nothing when there is none.

    Raises `Unavailable` when the database cannot be reached, `Misconfigured` when its tables are newer
    than this program.
    """
    with connected(url) as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        if (present := _revision(connection)) != newest():
            _must_be_known(present)
            command.upgrade(config(connection), "head")


def ensure_database(url: str) -> None:
    """Make the database itself when its server lacks it (your own server: the embedded one has both).

    Raises `Unavailable` when the server cannot be reached, `Misconfigured` when we may not make it.
    """
    try:
        with connected(url):
            return
    except Unavailable:
        if not _make_database(make_url(url)):
            raise


def _make_database(wanted: URL) -> bool:
    """`False` when it is there already, so that something else must be wrong with it."""
    server = wanted.set(database="postgres").render_as_string(hide_password=False)
    with connected(server, isolation_level="AUTOCOMMIT") as connection:
        exists = text("select 1 from pg_database where datname = :name")
        if connection.execute(exists, {"name": wanted.database}).first() is not None:
            return False
        name = connection.dialect.identifier_preparer.quote_identifier(wanted.database or "")
        try:
            connection.execute(text(f"create database {name}"))
        except ProgrammingError as error:
            raise Misconfigured(
                f"There is no database {name}, and {wanted.username or 'this user'} may not make it.",
                f"Let the server's administrator run: create database {name} owner {wanted.username};",
                code="database_missing",
            ) from error
    return True


def current_revision(url: str) -> str | None:
    """The step the database stands at; `None` = empty."""
    with connected(url) as connection:
        return _revision(connection)


def is_current(url: str) -> bool:
    """Whether no step is missing."""
    return current_revision(url) == newest()


def newest() -> str | None:
    """The last step this program knows."""
    return ScriptDirectory(str(_FOLDER)).get_current_head()


def config(connection: Connection) -> Config:
    """Alembic's configuration for commands on this connection."""
    made = Config()
    made.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    made.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    made.attributes["connection"] = connection
    return made


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _must_be_known(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory(str(_FOLDER)).walk_revisions()}
    if revision is not None and revision not in known:
        raise Misconfigured(
            f"The tables are at step {revision}, which this version of Quarterdeck does not know.",
            "The database was used by a newer version: install that one, or restore a backup.",
            code="schema_newer",
        )


@contextmanager
def connected(url: str, **options: Any) -> Iterator[Connection]:
    """One transaction on a connection of its own."""
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 10}, **options)
    try:
        with engine.begin() as connection:
            yield connection
    except OperationalError as error:
        raise Unavailable(
            f"The database cannot be reached: {str(error.orig).strip()}",
            "Start it, or correct QUARTERDECK_DATABASE_URL.",
            code="database_unavailable",
        ) from error
    finally:
        engine.dispose()
