"""Lines that wait to be written, in files: what is in them survives the death of this process.

    <folder>/calls.v1.000000000007      one line per thing, the oldest file first, at most about 1 MB each

A line that was being written when a process died has no end; it is left out. Should the disk refuse, lines
wait in memory, and when that is full too, they are lost: `lost` counts them.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

log = structlog.get_logger(__name__)

PIECE_BYTES = 1_000_000
MOST_BYTES = 500_000_000
"""What may wait in files: about two million calls."""

MOST_IN_MEMORY = 8_000_000


@dataclass(slots=True)
class Piece:
    """Some lines: in a file, or (the disk refused) in memory."""

    path: Path | None
    size: int = 0
    lines: bytes = b""


class Spool:
    """A queue of pieces. `name` tells kinds of lines in one folder apart."""

    def __init__(self, folder: Path, name: str) -> None:
        """Takes up what a former process left. Raises nothing: a folder that cannot be made is a bad disk."""
        self._folder = folder
        self._name = name
        self._file: BinaryIO | None = None
        self._pieces: deque[Piece] = deque(_found(folder, name))
        self._next = max((_number(piece.path) for piece in self._pieces if piece.path), default=0) + 1
        self.lost = 0

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return sum(piece.size for piece in self._pieces)

    def add(self, lines: bytes) -> None:
        """Keep whole lines, each with its end."""
        if self.size + len(lines) > MOST_BYTES:
            self._lose(lines, "too much waits already")
            return
        try:
            file, piece = self._newest()
            file.write(lines)
            file.flush()
            piece.size += len(lines)
        except OSError as error:
            self._keep_in_memory(lines, error)

    def oldest(self) -> Piece | None:
        """The next to be written; it gets no more lines."""
        if not self._pieces:
            return None
        if len(self._pieces) == 1:
            self._seal()
        return self._pieces[0]

    def read(self, piece: Piece) -> bytes:
        """Its whole lines. Raises `OSError`."""
        if piece.path is None:
            return piece.lines
        try:
            found = piece.path.read_bytes()
        except FileNotFoundError:
            log.error("spool_file_gone", file=piece.path.name, bytes=piece.size)
            return b""
        end = found.rfind(b"\n") + 1
        if end < len(found):
            log.warning("spool_line_cut", file=piece.path.name, bytes=len(found) - end)
        return found[:end]

    def done(self, piece: Piece) -> None:
        """It is written: forget it."""
        self._pieces.remove(piece)
        if piece.path is not None:
            piece.path.unlink(missing_ok=True)

    def reject(self, line: bytes) -> None:
        """Put a line aside that nobody will ever take."""
        try:
            with self._open(self._folder / f"{self._name}.rejected", "ab") as file:
                file.write(line + b"\n")
        except OSError as error:
            self._lose(line + b"\n", str(error))

    def close(self) -> None:
        """Make sure that what waits is on the disk."""
        self._seal(sync=True)

    def _newest(self) -> tuple[BinaryIO, Piece]:
        if self._file is None or self._pieces[-1].size >= PIECE_BYTES:
            self._seal()
            path = self._folder / f"{self._name}.{self._next:012d}"
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._open(path, "xb")
            self._next += 1
            self._pieces.append(Piece(path))
        return self._file, self._pieces[-1]

    @staticmethod
    def _open(path: Path, mode: str) -> BinaryIO:
        """Readable for this user alone."""
        return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))  # type: ignore[return-value]

    def _seal(self, *, sync: bool = False) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            with file:
                if sync:
                    os.fsync(file.fileno())
        except OSError as error:
            log.error("spool_not_synced", reason=str(error))

    def _keep_in_memory(self, lines: bytes, error: OSError) -> None:
        log.error("spool_not_written", reason=str(error), bytes=len(lines))
        self._seal()
        if sum(len(piece.lines) for piece in self._pieces) + len(lines) > MOST_IN_MEMORY:
            self._lose(lines, "the disk refuses, and memory is full")
            return
        self._pieces.append(Piece(None, len(lines), lines))

    def _lose(self, lines: bytes, reason: str) -> None:
        count = lines.count(b"\n")
        self.lost += count
        log.error("spool_lost_lines", count=count, lost=self.lost, reason=reason)


def _found(folder: Path, name: str) -> Iterator[Piece]:
    for path in sorted(folder.glob(f"{name}.[0-9]*")):
        yield Piece(path, path.stat().st_size)


def _number(path: Path) -> int:
    return int(path.suffix[1:])
