"""An answer in words becomes work: its files, its review, its pull request (docs/reference/text-agents.md).

An agent that only talks says what shall be in the work tree. Who talks may say anything, so nothing
leaves the work tree, and a link in it leads nowhere.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quarterdeck.kernel.errors import Invalid

MOST_ANSWER = 10_000_000
"""Bytes of an answer; longer ones are refused."""

MOST_FILE = 1_000_000
MOST_SENT = 20_000_000
"""Bytes of a file that an agent sends from its own workspace."""

MOST_FILES = 200
MOST_SUMMARY = 20_000

_HEAD = re.compile(r"^=== (\S.*?) ===\s*$")
_FENCE = re.compile(r"^```[\w-]*\s*$")
_REVIEW = re.compile(r"^review: *(approved|rejected)$", re.IGNORECASE)
_PROPOSAL = re.compile(r"^pull request: *(\S.*)$", re.IGNORECASE)
_END = "end"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Answer:
    """What an agent's words contain: files by path, and what `result.json` would say."""

    summary: str = ""
    files: dict[str, str] = field(default_factory=dict)
    review: dict[str, str] | None = None
    pull_request: dict[str, str] | None = None

    def report(self) -> dict[str, Any]:
        """As in `result.json`."""
        told = {"summary": self.summary, "review": self.review, "pull_request": self.pull_request}
        return {name: value for name, value in told.items() if value is not None}


def parse(text: str) -> Answer:
    """Take an answer apart. Raises `Invalid` for an empty one, and for a file that may not be there."""
    if not text.strip():
        raise Invalid("The agent answered nothing.", "Look at its log, then retry the item.")
    words: list[str] = []
    found: dict[str, Any] = {"files": {}}
    for head, body in _sections(text):
        if head in ("", _END):
            words.append(body.strip())
        elif review := _REVIEW.match(head):
            found["review"] = {"verdict": review[1].lower(), "comment": body.strip()}
        elif proposal := _PROPOSAL.match(head):
            found["pull_request"] = {"title": proposal[1][:300], "body": body.strip()}
        else:
            found["files"][checked(head)] = _content(head, body)
    if len(found["files"]) > MOST_FILES:
        raise Invalid(f"The answer has {len(found['files'])} files; {MOST_FILES} are the most.")
    summary = "\n\n".join(filter(None, words))
    return Answer(summary=summary[:MOST_SUMMARY], **found)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    head, lines = "", list[str]()
    for line in text.replace("\r\n", "\n").split("\n"):  # `splitlines` knows other ends, too
        if found := _HEAD.match(line):
            yield head, "\n".join(lines)
            head, lines = found[1], []
        else:
            lines.append(line)
    yield head, "\n".join(lines)


def _content(path: str, body: str) -> str:
    """A file's text; a fence around the whole of it is the model's habit, not the file's."""
    lines = body.strip("\n").split("\n")
    if len(lines) > 1 and _FENCE.match(lines[0]) and lines[-1].strip() == "```":
        lines = lines[1:-1]
    content = "\n".join(lines) + "\n"
    if len(content.encode("utf-8", "replace")) > MOST_FILE:
        raise Invalid(f"The answer's file {path} is larger than {MOST_FILE} bytes.")
    return content


def checked(path: str) -> str:
    """A path below the work tree. Raises `Invalid`, saying why it is none."""
    parts = path.split("/")
    reason = ""
    if path.startswith("/") or "\\" in path or ":" in parts[0]:
        reason = "is not relative to the work tree"
    elif any(part in ("", ".", "..") for part in parts):
        reason = "leads through `.`, `..` or nothing"
    elif any(part.lower().rstrip(". ") in (".git", "git~1") for part in parts):
        reason = "belongs to git"
    elif not path.isprintable() or len(path) > 1000 or any(len(part.encode()) > 200 for part in parts):
        reason = "is no name for a file"
    if reason:
        raise Invalid(
            f"The agent wanted to write {path[:200]!r}, which {reason}.",
            "Nothing was written.",
            code="bad_path",
        )
    return path


def write(tree: Path, files: Mapping[str, str | bytes]) -> None:
    """Write the files into a work tree. Raises `Invalid` where a link or something else is in the way."""
    with _opened(tree) as root:
        for path, content in files.items():
            try:
                raw = content.encode("utf-8", "replace") if isinstance(content, str) else content
                _write(root, path.split("/"), raw)
            except OSError as error:
                if error.errno in _IN_THE_WAY:
                    raise _in_the_way(path, error.strerror or "") from None
                raise


def _write(folder: int, parts: list[str], content: bytes) -> None:
    name, *rest = parts
    if rest:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        with _opened(name, folder) as inner:
            return _write(inner, rest, content)
    with suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "something that is no file is there")
    part = f".{name[:100]}.quarterdeck"
    with suppress(FileNotFoundError):
        os.unlink(part, dir_fd=folder)  # of a client that was killed
    with os.fdopen(os.open(part, _NEW, 0o644, dir_fd=folder), "wb") as file:
        file.write(content)
    os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    return None


_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


@contextmanager
def _opened(path: str | Path, folder: int | None = None) -> Iterator[int]:
    opened = os.open(path, _FOLDER, dir_fd=folder)
    try:
        yield opened
    finally:
        os.close(opened)


def _in_the_way(path: str, reason: str) -> Invalid:
    return Invalid(
        f"The agent's file {path!r} cannot be written: {reason}.",
        "A link, or a file where a folder should be, is in its way.",
        code="bad_path",
    )
