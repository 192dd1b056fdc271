"""Git repositories as people would bring them."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

TESTED = {".quarterdeck.yaml": "test: python3 -m unittest\n"}
"""The file that tells CI what to run."""


def make_repository(folder: Path, files: Mapping[str, str] = TESTED) -> Path:
    """A repository with one commit on `main`."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "--allow-empty", "-m", "Begin")
    return folder


def git(folder: Path, *arguments: str) -> str:
    """What git says there, as a user with a name."""
    who = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()
