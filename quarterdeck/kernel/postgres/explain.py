"""What went wrong with the embedded server, in words, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quarterdeck.kernel import disk
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError, Unavailable

_SEGMENT = 16 * 1024 * 1024
"""Bytes of a piece of the server's WAL: with less free it cannot work, nor always say so in its log."""

_TAIL = 15
"""Lines of the server's log that an error shows."""


def explain(what: str, said: str, home: Path, log_file: Path, user: str | None) -> QuarterdeckError:
    """The error for a program that failed to create, start or stop the server, and what it `said`.

    `user` is whom root became to run it.
    """
    shown = "\n".join(_lines(said) + _lines(_read(log_file)))
    detail = f"PostgreSQL cannot {what} in {home}"
    if disk.was_full(shown) or disk.is_short(home, _SEGMENT):
        instruction = disk.full(home).instruction
        return Unavailable(f"{detail}: the disk is full.", instruction, code="disk_full", log=shown)
    if "Permission denied" in shown or "Read-only file system" in shown:
        return Misconfigured(
            f"{detail}: a file or folder is forbidden to it.\n{shown}",
            _let_write(home) if user is None else _let_pass(home, user),
            code="home_not_writable",
        )
    return Unavailable(
        f"{detail}:\n{shown}",
        f"The whole log is {log_file}; `quarterdeck doctor` looks for the cause.",
        code="postgres_failed",
    )


@contextmanager
def explain_os(home: Path) -> Iterator[None]:
    """Turn the system's own errors about the home into ours."""
    try:
        yield
    except OSError as error:
        if disk.is_full(error):
            raise disk.full(home) from error
        raise Misconfigured(
            f"The home {home} cannot be used: {error.strerror or error} ({error.filename or home}).",
            _let_write(home),
            code="home_not_writable",
        ) from error


def _let_write(home: Path) -> str:
    return f"Let the user who runs Quarterdeck write in {home}, or set QUARTERDECK_HOME to another folder."


def _let_pass(home: Path, user: str) -> str:
    return (
        f"PostgreSQL refuses root and runs as {user} here: let that user pass all folders above {home} and "
        "above its programs, or run Quarterdeck as an ordinary user."
    )


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()[-_TAIL:]


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - 64 * 1024))
            return opened.read().decode(errors="replace")
    except OSError:
        return ""
