"""Packing: files that lie loose in a bare repository are put into one, for each of them costs every copy.

Git is told to pack nothing by itself: a copy that is made at that moment would lack what was moved.
"""

import asyncio
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from quarterdeck.forge.bare import Bare
from quarterdeck.kernel import disk
from quarterdeck.kernel.errors import QuarterdeckError, Unavailable

log = structlog.get_logger(__name__)

LOOSE = 500
"""Objects, each in a file of its own, that are worth packing; an item makes about thirty."""

_LIMIT = 150.0  # seconds for one repository
_BEGUN_WITHIN = 30.0  # seconds; repositories that have no turn by then have one in the next upkeep
_BUSY = 10.0  # seconds for which those who copy are waited for
_OLD = 3600.0  # seconds; nothing is fetched for longer


@dataclass(frozen=True)
class Packed:
    """What came of it: how many repositories were packed, and the names of those that could not be."""

    count: int = 0
    failed: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """What was done and what was not, each with how many."""
        lost = f"repositories not packed, see the log ({', '.join(self.failed)})"
        return {"repositories packed": self.count, lost: len(self.failed)}

    def __add__(self, other: "Packed") -> "Packed":
        return Packed(self.count + other.count, self.failed + other.failed)


async def pack_every(repositories: Iterable[Bare]) -> Packed:
    """Pack those in which much lies loose; a trouble with one of them is logged, and the others go on."""
    count, failed, start = 0, [], time.monotonic()
    for bare in _in_any_order(repositories):
        if time.monotonic() - start > _BEGUN_WITHIN:
            break
        try:
            count += await pack(bare)
        except (QuarterdeckError, OSError) as error:
            log.warning("repository_not_packed", repository=str(bare.path), reason=str(error))
            failed.append(bare.name)
    return Packed(count, tuple(sorted(failed)))


def _in_any_order(repositories: Iterable[Bare]) -> list[Bare]:
    """One that always takes too long may not keep the same others from their turn."""
    known = list(repositories)
    random.shuffle(known)
    return known


async def pack(bare: Bare) -> bool:
    """False: little lies loose, or somebody copies it all the time.

    Raises `Unavailable`, with the code `disk_full` where there is no room for what is there and its copy.
    """
    packs = bare.path / "objects" / "pack"
    old = time.time() - _OLD
    _remove(half for half, written_at in _halves(packs).items() if written_at < old)
    facts = await _counted(bare)
    if facts["count"] < LOOSE:
        return False
    _must_have_room(bare.path, (facts["size"] + facts["size-pack"]) * 1024)
    try:
        async with asyncio.timeout(_BUSY) as waiting, bare.packed():
            waiting.reschedule(None)
            await _repack(bare, packs)
    except TimeoutError:
        return False
    return True


async def _counted(bare: Bare) -> dict[str, int]:
    """How many objects there are and how large, in KiB, by git's own names."""
    answer = await bare.git.run("count-objects", "-v", at=bare.path)
    facts = (line.partition(": ") for line in answer.text.splitlines())
    return {name: int(value) for name, _, value in facts if value.isdigit()}


def _must_have_room(path: Path, size: int) -> None:
    free = disk.free(path)
    if free < size + disk.RESERVE:
        raise Unavailable(
            f"There is no room to pack {path}: that may take {size:,} bytes, {free:,} are free.",
            f"Free some space on the disk of {path}; it is packed later by itself.",
            code="disk_full",
        )


async def _repack(bare: Bare, packs: Path) -> None:
    others = _halves(packs).keys()
    try:
        order = ("repack", "--geometric=2", "-d", "--quiet")
        await bare.git.run(*order, at=bare.path, limit_seconds=_LIMIT)
        await bare.git.run("pack-refs", "--all", at=bare.path)
    except BaseException:
        _remove(_halves(packs).keys() - others)
        raise


def _halves(packs: Path) -> dict[Path, float]:
    """Packs that somebody writes, or never finished: git leaves them. With the time of the last byte."""
    found = {}
    for half in [*packs.glob("tmp_*"), *packs.glob(".tmp-*")]:
        with suppress(FileNotFoundError):
            found[half] = half.stat().st_mtime
    return found


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
