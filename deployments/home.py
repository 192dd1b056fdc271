"""What `up` leaves in the home while it runs, so that others find it: addresses and processes."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from quarterdeck.crew import keeper
from quarterdeck.kernel import folders
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.postgres import explain_os, home_mode
from quarterdeck.kernel.settings import Settings


@dataclass(frozen=True)
class Running:
    """A desk that is open: its supervisor, its ports, and its processes (name -> id, birth)."""

    pid: int
    http_port: int
    prefect_port: int
    processes: dict[str, tuple[int, str]] = field(default_factory=dict)


def folder(settings: Settings) -> Path:
    """Where it lies."""
    return settings.folder / "run"


def logs(settings: Settings) -> Path:
    """Where every process writes its log."""
    return settings.folder / "logs"


def make(settings: Settings, *wanted: Path) -> None:
    """Make the home and these folders of it, where they are missing. Nobody else may look into them.

    Raises `Misconfigured`, naming the home, when they cannot be made.
    """
    own_server = settings.database_url is not None
    with explain_os(settings.folder):
        folders.make(settings.folder, folders.PRIVATE if own_server else home_mode())
        for each in wanted:
            folders.make(each)


def lock_file(settings: Settings) -> Path:
    """What an open desk holds."""
    return folder(settings) / "up.lock"


def write(settings: Settings, running: Running) -> None:
    """Record it; readers see the old or the new, never half."""
    file = folder(settings) / "up.json"
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(asdict(running)), encoding="utf-8")
    draft.replace(file)


def read(settings: Settings) -> Running | None:
    """What was recorded last, by a supervisor that may be dead."""
    try:
        found = json.loads((folder(settings) / "up.json").read_text(encoding="utf-8"))
        found["processes"] = {
            name: (int(pid), str(birth)) for name, (pid, birth) in found["processes"].items()
        }
        return Running(**found)
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None


def forget(settings: Settings) -> None:
    """Nothing runs any more."""
    (folder(settings) / "up.json").unlink(missing_ok=True)


def prefect_port(settings: Settings) -> int:
    """Where Prefect's server listens: as set, else as the open desk chose. 0 = nobody knows."""
    if settings.prefect_port:
        return settings.prefect_port
    running = read(settings)
    return running.prefect_port if running else 0


def web_address(settings: Settings) -> str:
    """Where this machine finds the web process: at the port of the desk that is open, else as set."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.http_host, settings.http_host)  # noqa: S104
    running = read(settings)
    port = running.http_port if running and born(running.pid) else settings.http_port
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def born(pid: int) -> str:
    """When a process was started; tells it from a later one with the same number. Empty = it is gone."""
    return keeper.born(pid) or ""


def is_alive(pid: int, birth: str) -> bool:
    """Is it still the process that was recorded? The clock may have been set since."""
    return birth != "" and born(pid) == birth


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the home's lock: one `up` at a time. Raises `Conflict` naming the one that runs."""
    make(settings, folder(settings))
    with explain_os(settings.folder):
        lock = lock_file(settings).open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            running = read(settings)
            who = f" (process {running.pid})" if running else ""
            raise Conflict(
                f"Quarterdeck is up already in {settings.folder}{who}.",
                "Use it, stop it with Ctrl-C where it runs, or set QUARTERDECK_HOME to another folder.",
                code="already_up",
            ) from None
        yield


def leftovers(running: Running) -> list[int]:
    """Processes of a dead supervisor that are still there; each leads a group of its own."""
    return [
        pid for pid, birth in running.processes.values() if is_alive(pid, birth) and os.getpgid(pid) == pid
    ]
