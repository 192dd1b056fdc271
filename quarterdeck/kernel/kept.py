"""Secrets that we make ourselves, each in a file of its own that only this user can read."""

import os
import secrets
from pathlib import Path


def kept(file: Path, fresh: str) -> str:
    """The secret in `file`, or `fresh`, stored there unless another process was first. Raises `OSError`."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not file.exists():
        draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as writer:
            writer.write(fresh + "\n")
        try:
            file.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_text(encoding="utf-8").strip()
