"""Files between people and agents' workspaces: names, places, and what is refused.

A file from outside is created, never written over; a file of an agent is read only where the agent's
workspace really is, and copied, so that what was checked is what is sent.
"""

import errno
import mimetypes
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from quarterdeck.surfaces.protocol import Attachment

FALLBACK = "attachment.bin"
LONGEST_NAME = 200
"""Bytes; a file system takes 255, and a copy's number comes on top."""

LARGEST_PHOTO = 10_000_000
"""Bytes; Telegram takes a larger image as a document only (Bot API, `sendPhoto`)."""

CHUNK = 1 << 20
Kind = Literal["document", "photo", "audio", "video", "voice"]

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]+')
_STEMS = {"image": "image", "audio": "audio", "video": "video"}


class FileRefused(Exception):
    """A file that cannot be taken or sent; `why` is an entry of the catalogue."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def sanitised(name: str) -> str:
    """A name that is only a name; spaces and letters of all scripts stay."""
    last = name.replace("\\", "/").rpartition("/")[2]
    last = last.encode("utf-8", "replace").decode()
    return _shortened(_FORBIDDEN.sub("_", last).strip(" .")) or FALLBACK


def _shortened(name: str) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - no path, a name that a Path could misread
    suffix = suffix if len(suffix.encode()) <= LONGEST_NAME // 2 else ""
    stem = stem if suffix else name
    room = LONGEST_NAME - len(suffix.encode())
    return (stem.encode()[:room].decode("utf-8", "ignore") + suffix).strip(" .")


def name_of(attachment: Attachment) -> str:
    """The file's own name, else one made of its type."""
    if attachment.filename:
        return sanitised(attachment.filename)
    guessed = mimetypes.guess_extension(attachment.mime_type or "") or ""
    guessed = {".oga": ".ogg"}.get(guessed, guessed)
    return sanitised(f"{_STEMS.get(attachment.type, 'file')}{guessed or '.bin'}")


def candidates(name: str) -> Iterator[str]:
    """`report.pdf`, `report (1).pdf`, `report (2).pdf`, ..."""
    yield name
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    number = 1
    while True:
        yield f"{stem} ({number}){suffix}"
        number += 1


def place(source: Path, workspace: Path, name: str) -> str:
    """Copy a file into a workspace under the first free name; that name. Raises `FileRefused`.

    Created exclusively: two that arrive at once get two names, and nothing is written over or through a link.
    """
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        for free in candidates(name):
            try:
                target = os.open(
                    workspace / free,
                    os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
                    0o660,
                )
            except FileExistsError:
                continue
            return _filled(source, target, workspace / free)
    except OSError:
        raise FileRefused("why_disk") from None
    raise AssertionError("candidates never end")


def _filled(source: Path, target: int, path: Path) -> str:
    try:
        with os.fdopen(target, "wb") as writer, source.open("rb") as reader:
            while piece := reader.read(CHUNK):
                writer.write(piece)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path.name


def fetch(workspace: Path, relative: str, target: Path, limit: int) -> int:
    """Copy an agent's file to `target`; its size. Raises `FileRefused`.

    Only a regular file that lies inside the workspace when all links are followed.
    """
    root = workspace.resolve()
    try:
        real = (root / PurePosixPath(relative)).resolve(strict=True)
        if not real.is_relative_to(root):
            raise FileRefused("why_outside")
        file = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise FileRefused("why_outside" if _leads_out(relative) else "why_missing") from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        is_loop = isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ELOOP
        raise FileRefused("why_outside" if is_loop else "why_unreadable") from None
    try:
        _check(file, root, limit)
        return _copied(file, target, limit)
    finally:
        os.close(file)


def _check(file: int, root: Path, limit: int) -> None:
    """What was opened, whatever its path has become meanwhile."""
    opened = Path(f"/proc/self/fd/{file}")
    if opened.exists() and not opened.resolve().is_relative_to(root):
        raise FileRefused("why_outside")
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size == 0:
        raise FileRefused("why_unreadable")
    if facts.st_size > limit:
        raise FileRefused("why_too_large")


def _leads_out(relative: str) -> bool:
    return ".." in PurePosixPath(relative).parts or relative.startswith("/")


def _copied(file: int, target: Path, limit: int) -> int:
    """The copy; a file that grows meanwhile is not followed beyond the limit."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    size = 0
    with target.open("wb") as writer:
        while piece := os.read(file, CHUNK):
            size += len(piece)
            if size > limit:
                raise FileRefused("why_too_large")
            writer.write(piece)
    return size


def kind_of(attachment: Attachment, size: int) -> tuple[Kind, str]:
    """As what Telegram shows a file of so many bytes, and its MIME type."""
    name = attachment.filename or attachment.workspace_path or ""
    mime = attachment.mime_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
    if mime in ("image/jpeg", "image/png"):
        return ("photo" if size <= LARGEST_PHOTO else "document"), mime
    if mime in ("audio/mpeg", "audio/mp4", "audio/x-m4a"):
        return "audio", mime
    return ("video" if mime == "video/mp4" else "document"), mime
