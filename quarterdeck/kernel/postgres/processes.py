"""The server's processes, as the machine sees them: which one lives, and what a killed one left behind."""

import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SOCKET = ".s.PGSQL.5432"
"""Name of the socket in its folder; PostgreSQL puts a lock file beside it."""

_GRACE = 10.0
"""Seconds that leftover processes have to end when asked, and again when killed."""


@dataclass(frozen=True)
class Postmaster:
    """The server's main process, as its pid file tells it; `ready` = it takes connections."""

    pid: int
    ready: bool


def find_postmaster(data: Path) -> Postmaster | None:
    """The living server of this data folder; the pid in its file may be stale and belong to anybody."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        process = psutil.Process(int(lines[0]))
        if not _works_on(data, process):
            return None
    except (FileNotFoundError, ValueError, IndexError, psutil.Error):
        return None
    return Postmaster(process.pid, ready=len(lines) > 7 and lines[7].strip() == "ready")


def sweep(data: Path, socket_folder: Path) -> None:
    """Clear away what a killed server left: its backends, its pid file, its socket.

    A backend without its server ends as soon as it notices, which may be after a long statement; until
    then nobody else may open the data.
    """
    traces = [data / "postmaster.pid", *socket_folder.glob(f"{SOCKET}*")]
    if not any(trace.exists() for trace in traces):
        return
    left = [process for process in psutil.process_iter() if _is_left(data, process)]
    for sent in (signal.SIGQUIT, signal.SIGKILL):
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(sent)
        end = time.monotonic() + _GRACE
        while (left := [process for process in left if _is_left(data, process)]) and time.monotonic() < end:
            time.sleep(0.02)
    for trace in traces:
        trace.unlink(missing_ok=True)


def _works_on(data: Path, process: psutil.Process) -> bool:
    """Every process of a server works in its data folder."""
    return process.name().startswith("postgres") and Path(process.cwd()) == data


def _is_left(data: Path, process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return _works_on(data, process)
    return False
