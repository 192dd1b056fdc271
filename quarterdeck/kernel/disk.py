"""The disk that a folder lies on: whether there is room, and what to say when there is none."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quarterdeck.kernel.errors import Unavailable

RESERVE = 50_000_000
"""Bytes that must be free before something new is begun: what is under way needs them to end, and
PostgreSQL, which writes its log in pieces of 16 MB, to go on."""

_SAID = ("No space left on device", "Disk quota exceeded")


def is_full(error: BaseException) -> bool:
    """Is this the system's way of saying that there is no room?"""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def was_full(said: str) -> bool:
    """Did a program (with messages in English) complain that there is no room?"""
    return any(words in said for words in _SAID)


def is_short(folder: Path, reserve: int = RESERVE) -> bool:
    """Is less than the reserve free where `folder` is, or will be?"""
    return free(folder) < reserve


def free(folder: Path) -> int:
    """Bytes that are free where `folder` is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def full(folder: Path) -> Unavailable:
    """The error for it."""
    return Unavailable(
        f"The disk of {folder} is full.",
        f"Free some space on the disk of {folder}; it goes on by itself afterwards.",
        code="disk_full",
    )


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Tell the lack of room in our own words; other troubles pass as they are."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise full(folder) from error
        raise


def must_have_room(folder: Path) -> None:
    """Raises `Unavailable` when too little is free to begin anything."""
    if is_short(folder):
        raise full(folder)
