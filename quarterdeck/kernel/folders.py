"""Folders of ours: nobody else may look into them, and a power cut leaves their names as they are."""

import os
from pathlib import Path

PRIVATE = 0o700
PASSABLE = 0o711
"""Others may pass who know where they go, and not look around."""


def make(folder: Path, mode: int = PRIVATE) -> None:
    """Make the folder and each level above it that is missing, all with this mode. Raises `OSError`."""
    try:
        folder.mkdir(mode, exist_ok=True)
    except FileNotFoundError:
        make(folder.parent, mode)
        folder.mkdir(mode, exist_ok=True)


def sync(folder: Path) -> None:
    """Have the disk know the folder's present names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
