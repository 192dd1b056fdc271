"""Removing folders in which strangers worked."""

import os
import shutil
import stat
from pathlib import Path


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
