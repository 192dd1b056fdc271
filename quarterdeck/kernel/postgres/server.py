"""What a server is to its users, and the server that somebody else runs."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Self

from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from quarterdeck.kernel.errors import Misconfigured

CORE, PREFECT = "quarterdeck", "prefect"
"""The two databases: ours, and that of Prefect's server."""

OVER_NETWORK: dict[str, int] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""libpq's own names: within a minute every connection notices a network that swallows what is sent.

Keepalives count while we wait for an answer, `tcp_user_timeout` (milliseconds, Linux) when what we sent is
not taken; without it the system tries for a quarter of an hour. Sockets of the same machine know neither. A
query may take as long as it likes: only the network is judged.
"""

_ASYNCPG_NAMES = {
    "host": "host",
    "port": "port",
    "sslmode": "ssl",
    "target_session_attrs": "target_session_attrs",
}
"""What of a libpq URL asyncpg understands, and under which name."""


class Server(ABC):
    """A PostgreSQL server, ours or somebody else's."""

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Use the server for the length of a block."""
        self.acquire()
        try:
            yield self
        finally:
            self.release()

    @asynccontextmanager
    async def using(self) -> AsyncIterator[Self]:
        """`running` for asynchronous callers. Cancelled while it starts, it is given up all the same."""
        acquiring = asyncio.create_task(asyncio.to_thread(self.acquire))
        try:
            await asyncio.shield(acquiring)
            yield self
        finally:
            await asyncio.wait([acquiring])
            if acquiring.exception() is None:
                await asyncio.shield(asyncio.create_task(asyncio.to_thread(self.release)))

    @abstractmethod
    def acquire(self) -> None:
        """Use it: it is started unless it runs. Raises `Misconfigured` or `Unavailable`."""

    @abstractmethod
    def release(self) -> None:
        """Use it no longer; the last user stops it."""

    @abstractmethod
    def ensure_running(self) -> bool:
        """Bring it back if it died under its users; `True` when that was needed. Raises as `acquire`."""

    @abstractmethod
    def url(self, database: str = CORE, *, driver: str = "psycopg") -> str:
        """SQLAlchemy's URL of a database, for the driver `psycopg` or `asyncpg`; may hold a password."""


class ExternalPostgres(Server):
    """A server that runs without us. Prefect's database is the core's name + `_prefect` unless given."""

    def __init__(self, core: str, prefect: str | None = None) -> None:
        self._core = core_url(core)
        self._prefect = (
            core_url(prefect) if prefect else self._core.set(database=f"{self._core.database}_{PREFECT}")
        )

    def acquire(self) -> None:
        """Nothing to start."""

    def release(self) -> None:
        """Nothing to stop."""

    def ensure_running(self) -> bool:
        """Whoever runs it brings it back."""
        return False

    def url(self, database: str = CORE, *, driver: str = "psycopg") -> str:
        known = {CORE: self._core, PREFECT: self._prefect}
        url = known.get(database) or self._core.set(database=database)
        return for_driver(url, driver)


def core_url(text: str) -> URL:
    """A PostgreSQL URL in any of its spellings (`postgres://`, `postgresql://`, with or without driver).

    Raises `Misconfigured`, without showing the text: it may hold a password.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise _wrong("it is not a URL") from None
    except ValueError:
        raise _wrong("its port is not a number") from None
    if url.get_backend_name() not in ("postgres", "postgresql"):
        raise _wrong(f"{url.get_backend_name()} is not PostgreSQL")
    if not url.database:
        raise _wrong("it names no database")
    return url.set(drivername="postgresql+psycopg")


def for_driver(url: URL, driver: str) -> str:
    """The URL as text, with the parameters that this driver understands."""
    if driver == "asyncpg":
        query = {_ASYNCPG_NAMES[k]: v for k, v in url.query.items() if k in _ASYNCPG_NAMES}
        url = url.set(query=query)
    return url.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)


def libpq(url: str, **more: str | int) -> str:
    """SQLAlchemy's URL as libpq takes it: in a URL of its own a `+` would be no space. `more` wins."""
    parsed = make_url(url)
    _, told = parsed.get_dialect()().create_connect_args(parsed)
    return make_conninfo(**{**told, **more})


def network(url: str) -> dict[str, int]:
    """`OVER_NETWORK` for a connection to this URL, without what the URL says for itself."""
    told = make_url(url).query
    return {name: value for name, value in OVER_NETWORK.items() if name not in told}


def options(url: str, ours: str) -> str:
    """libpq's `options` for a URL: its own, such as `-csearch_path=desk`, and ours, which win."""
    return " ".join([*make_url(url).normalized_query.get("options", ()), ours])


def _wrong(why: str) -> Misconfigured:
    return Misconfigured(
        f"QUARTERDECK_DATABASE_URL cannot be used: {why}.",
        "It looks like postgresql://user:password@host:5432/quarterdeck; unset = an embedded server.",
        code="database_url",
    )
