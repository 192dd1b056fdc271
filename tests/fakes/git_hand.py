"""Somebody who works with git by hand: an agent in its work tree, a person with a clone."""

import os
import subprocess
from pathlib import Path

_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "maintenance.auto",  # a process more for each commit
    "GIT_CONFIG_VALUE_0": "false",
    "GIT_AUTHOR_NAME": "Hand",
    "GIT_AUTHOR_EMAIL": "hand@example.org",
    "GIT_COMMITTER_NAME": "Hand",
    "GIT_COMMITTER_EMAIL": "hand@example.org",
}


def git(folder: Path, *arguments: str) -> str:
    """What git prints, run in `folder`."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=_ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write(folder: Path, path: str, text: str | bytes = "text\n", *, executable: bool = False) -> None:
    """A file with its folders."""
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    place.chmod(0o755 if executable else 0o644)


def commit(folder: Path, path: str, text: str | bytes = "text\n", *, executable: bool = False) -> str:
    """A commit that adds or changes one file; returns its id."""
    write(folder, path, text, executable=executable)
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--no-verify", "--message", f"Write {path}")
    return git(folder, "rev-parse", "HEAD")


def repository(folder: Path, path: str = "README.md", text: str = "Welcome\n") -> Path:
    """A repository of somebody, with one commit on main."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, path, text)
    return folder


def clone(source: Path, folder: Path) -> Path:
    """A person's clone."""
    git(source, "clone", "--quiet", str(source), str(folder))
    return folder


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(place.name for place in folder.iterdir())
