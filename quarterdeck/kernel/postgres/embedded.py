"""The embedded server: created on first use, started by its first user, stopped by its last.

What says "I use it" is a lock that the kernel frees, so that a user that was killed counts as gone:

    postgres.users   every user holds it shared; who can have it alone is the last
    postgres.lock    held alone while somebody starts or stops the server
    postgres/        the data; postgres.log what the server says; postgres.socket/ its only door

There is no TCP port, and nobody is asked for a password: the folder of the socket is private.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO

import structlog
from sqlalchemy.engine import URL

from quarterdeck.kernel import folders
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError, Unavailable
from quarterdeck.kernel.postgres.explain import explain, explain_os
from quarterdeck.kernel.postgres.processes import SOCKET, find_postmaster, sweep
from quarterdeck.kernel.postgres.programs import (
    ProgramFailed,
    Programs,
    find_programs,
    locale_options,
    servers_user,
)
from quarterdeck.kernel.postgres.server import CORE, PREFECT, Server, for_driver

log = structlog.get_logger(__name__)

_PATH_LIMIT = 100
"""Bytes of the socket's path: Linux takes 107, macOS 103."""

_LOG_LIMIT = 10 * 1024 * 1024
"""Bytes after which the log is put aside (one old one is kept) when the server starts."""

_START_LIMIT = 60.0
"""Seconds until a server that somebody else is starting or stopping must be done; recovery is included."""

_SETTINGS = """
# Quarterdeck: a small machine, shared with others.
max_connections = 200
shared_buffers = 64MB
max_wal_size = 256MB
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
log_min_messages = log        # what the server does; what a statement did wrong is told to its client
log_error_verbosity = terse   # no contents of rows
"""

_CARELESS = "-c fsync=off -c full_page_writes=off"
"""What is written survives a kill of any process, but not of the machine."""


class EmbeddedPostgres(Server):
    """The PostgreSQL of one home; one object is one user of it. `fast`: a power cut may ruin it (tests)."""

    def __init__(self, home: Path, *, fast: bool = False, binaries: str = "") -> None:
        self.home = home.expanduser().resolve()
        self.data = self.home / "postgres"
        self.log_file = self.home / "postgres.log"
        self._fast = fast
        self._binaries = binaries
        self._use: IO[bytes] | None = None

    @property
    def socket_folder(self) -> Path:
        """In the home; a home with too long a path has it under `/tmp`."""
        near = self.home / "postgres.socket"
        if len(os.fsencode(near / SOCKET)) <= _PATH_LIMIT:
            return near
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        return Path("/tmp", f"quarterdeck-{os.geteuid()}-{digest}")  # noqa: S108  its owner is checked

    def url(self, database: str = CORE, *, driver: str = "psycopg") -> str:
        query = {"host": str(self.socket_folder), "port": "5432"}
        return for_driver(URL.create("postgresql", "postgres", database=database, query=query), driver)

    def is_running(self) -> bool:
        """Whether it takes connections, as far as its pid file tells."""
        found = find_postmaster(self.data)
        return found is not None and found.ready

    def acquire(self) -> None:
        assert self._use is None, "one object is one user"
        with explain_os(self.home), self._alone():
            use = _open_lock(self.home / "postgres.users")
            fcntl.flock(use, fcntl.LOCK_SH)
            self._use = use
            try:
                self._start()
            except BaseException:
                self._leave()
                raise

    def release(self) -> None:
        with explain_os(self.home), self._alone():
            self._leave()

    def ensure_running(self) -> bool:
        assert self._use is not None, "only a user may ask for it"
        with explain_os(self.home):
            if self.is_running():
                return False
            self._must_be_there()
            with self._alone():
                return self._start()

    def _must_be_there(self) -> None:
        """What was moved away under its users is not made anew, empty."""
        if not (self.data / "PG_VERSION").exists():
            raise Misconfigured(
                f"The data of the database are gone from {self.data}: somebody moved or removed them.",
                "Put them back, and all goes on; or close the desk, and open it where they are now.",
                code="data_gone",
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else starts or stops the server meanwhile."""
        folders.make(self.home, home_mode())
        with _open_lock(self.home / "postgres.lock") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield

    def _leave(self) -> None:
        use, self._use = self._use, None
        if use is None:
            return
        with use:
            try:
                fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._stop()
            except BlockingIOError:
                pass  # others use it
            finally:
                fcntl.flock(use, fcntl.LOCK_UN)  # a child between fork and exec may hold a copy of the file

    # What runs under the guard.

    def _start(self) -> bool:
        """`True` when it had to be started."""
        if self._settled():
            return False
        sweep(self.data, self.socket_folder)
        self._make_socket_folder()
        self._make_log()
        if not (self.data / "PG_VERSION").exists():
            self._create()
        self._must_fit()
        options = [
            "-c listen_addresses=''",
            f"-c unix_socket_directories={shlex.quote(str(self.socket_folder))}",
            "-c unix_socket_permissions=0700",
            "-c port=5432",
            _CARELESS if self._fast else "",
        ]
        try:
            self._programs.run(
                "pg_ctl", "start", "-D", self.data, "-l", self.log_file, "-w", "-t", f"{_START_LIMIT:.0f}",
                "-o", " ".join(options),
            )  # fmt: skip
        except ProgramFailed as error:
            if not self._settled():  # else one whose starter was killed came up meanwhile
                raise self._explained("start", error) from error
        log.info("postgres_started", home=str(self.home))
        return True

    def _stop(self) -> None:
        if find_postmaster(self.data) is not None:
            self._end_postmaster()
        with suppress(OSError):
            self.socket_folder.rmdir()  # it may be under /tmp, which is not ours to fill

    def _end_postmaster(self) -> None:
        stop = ("pg_ctl", "stop", "-D", self.data, "-w", "-t", "30", "-m")
        try:
            self._programs.run(*stop, "fast")
        except ProgramFailed as error:
            log.warning("postgres_stops_hard", reason=str(error))
            self._run("stop", *stop, "immediate")
        log.info("postgres_stopped", home=str(self.home))

    def _settled(self) -> bool:
        """Whether it runs; waits for a server that is just starting or stopping."""
        end = time.monotonic() + _START_LIMIT
        while (found := find_postmaster(self.data)) is not None and not found.ready:
            if time.monotonic() > end:
                raise Unavailable(
                    f"PostgreSQL (process {found.pid}) neither starts nor stops.",
                    f"See {self.log_file}; end the process, then start again.",
                    code="postgres_stuck",
                )
            time.sleep(0.05)
        return found is not None

    def _create(self) -> None:
        """Make the data folder with both databases; half of one is never left where it would be used."""
        new = self.home / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._programs.give(new)
        options: list[str | Path] = ["-D", new, "--username=postgres", "--auth=trust", "--no-instructions"]
        if self._fast:
            options.append("--no-sync")
        self._run("create", "initdb", *options, *locale_options(self._programs.major))
        with (new / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)
        if self._programs.user is not None:
            _let_in_root_only(new)
        made = "".join(f"create database {name};\n" for name in (CORE, PREFECT))
        self._run("create", "postgres", "--single", "-D", new, "template1", stdin=made)
        new.rename(self.data)

    def _must_fit(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        if made_by != str(self._programs.major):
            raise Misconfigured(
                f"The data in {self.data} were written by PostgreSQL {made_by}; the one found here is "
                f"{self._programs.major} ({self._programs.folder}).",
                f"Set QUARTERDECK_POSTGRES_BIN to the bin folder of PostgreSQL {made_by}; with it the "
                "databases can also be dumped and taken over: docs/how-to/own-postgresql.md.",
                code="postgres_version",
            )

    def _make_socket_folder(self) -> None:
        folder = self.socket_folder
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid not in (os.geteuid(), self._programs.uid):
            raise Misconfigured(
                f"The folder of the database's socket, {folder}, belongs to somebody else.",
                "Remove it, or choose a QUARTERDECK_HOME with a shorter path.",
                code="postgres_socket",
            )
        folder.chmod(0o700)
        self._programs.give(folder)

    def _make_log(self) -> None:
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_LIMIT:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        self.log_file.touch(mode=0o600)
        self._programs.give(self.log_file)

    @cached_property
    def _programs(self) -> Programs:
        return find_programs(self._binaries)

    def _run(self, what: str, name: str, *arguments: str | Path, stdin: str = "") -> None:
        try:
            self._programs.run(name, *arguments, stdin=stdin)
        except ProgramFailed as error:
            raise self._explained(what, error) from error

    def _explained(self, what: str, error: ProgramFailed) -> QuarterdeckError:
        return explain(what, str(error), self.home, self.log_file, self._programs.user)


def home_mode() -> int:
    """Who may come into a home: nobody else, but root's server, which runs as another user."""
    return folders.PRIVATE if servers_user() is None else folders.PASSABLE


def _open_lock(path: Path) -> IO[bytes]:
    """Private: whoever can open it can hold it."""
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def _let_in_root_only(data: Path) -> None:
    """For a server that runs as a system user: its other programs may not come in, root may."""
    (data / "pg_hba.conf").write_text("local all all peer map=quarterdeck\n")
    (data / "pg_ident.conf").write_text("quarterdeck root postgres\n")
