"""Secrets that we make ourselves, each in a file of its own that only this user can read."""

import os
import secrets
from pathlib import Path

from quarterdeck.kernel import folders
from quarterdeck.kernel.errors import Misconfigured


def kept(file: Path, fresh: str) -> str:
    """The secret in `file`, or `fresh`, stored there unless another process was first.

    Raises `OSError`, and `Misconfigured` for a file that is empty: nobody may come in with nothing.
    """
    folders.make(file.parent)
    if not file.exists():
        _store(file, fresh)
    secret = file.read_text(encoding="utf-8").strip()
    if not secret:
        raise Misconfigured(
            f"The secret in {file} is empty.",
            "Put it back from a backup, or delete the file: the next start makes another one.",
            code="secret_empty",
        )
    return secret


def _store(file: Path, secret: str) -> None:
    """Complete or not at all; whoever is first wins."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as writer:
            writer.write(secret + "\n")
            writer.flush()
            os.fsync(writer.fileno())
        file.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    folders.sync(file.parent)
