"""Folders in which strangers worked, and which several processes share: removing and locking them."""

import asyncio
import fcntl
import os
import shutil
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def locked(file: Path, how: int = fcntl.LOCK_EX) -> AsyncIterator[None]:
    """Hold a lock that all processes know (`LOCK_SH`: together with others); who dies lets go of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as lock:
        while not _took(lock.fileno(), how):  # noqa: ASYNC110 - the other may be another process
            await asyncio.sleep(0.05)
        yield


def _took(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_tree(folder: Path) -> None:
    """Remove it and all below it, if it exists; a link is removed, never followed.

    Folders without write permission (tool caches make such) are opened first.
    """
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        _open(folder)
        shutil.rmtree(folder)


def _open(folder: Path) -> None:
    _permit(folder)
    for place, names, _ in os.walk(folder):
        for name in names:
            _permit(Path(place) / name)


def _permit(folder: Path) -> None:
    mode = folder.lstat().st_mode
    if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
        folder.chmod(stat.S_IMODE(mode) | stat.S_IRWXU)
