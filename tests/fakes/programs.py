"""Programs of tests, put into a folder as if they were installed: they start fast and share a state file."""

import shlex
import sys
from pathlib import Path

HERE = Path(__file__).parent / "installed"


def installed(folder: Path, name: str, script: str, state: Path) -> Path:
    """A program `name` in a folder, which is a script of this package with its state beside it."""
    return written(
        folder,
        name,
        f"exec {shlex.quote(sys.executable)} -S -E {HERE / script} {shlex.quote(str(state))} " + '"$@"',
    )


def written(folder: Path, name: str, body: str) -> Path:
    """A program of the shell."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return program
