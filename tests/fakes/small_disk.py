"""A small disk of one's own: it can really be full, and nothing else on the machine notices.

It is a file system in memory that exists only in a mount namespace; that lives as long as the process that
holds it, which ends at the latest with us. Programs that are to see it are started through `entrance`, and
we look at it through `path`.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HOLD = 'mount -t tmpfs -o size="$2",mode=0755 none "$1" && echo there && exec cat'
PIECE = b"\0" * (1 << 16)


class NoSmallDisk(Exception):
    """This machine does not let us mount one."""


@dataclass(frozen=True)
class SmallDisk:
    """`inside`: where its programs see it. `path`: the same folder as seen from here."""

    inside: Path
    holder: int

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self.holder}/root", *self.inside.parts[1:])

    @property
    def entrance(self) -> list[str]:
        """What comes before a command that is to see the disk."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self.holder), *user, "--mount", "--wd=."]

    @property
    def free(self) -> int:
        """Bytes."""
        return shutil.disk_usage(self.path).free

    def fill(self, *, leaving: int = 0) -> None:
        """Take all room there is but some bytes, and all that somebody gave back since."""
        with (self.path / "ballast").open("ab", buffering=0) as ballast, suppress(OSError):
            while self.free > leaving:
                ballast.write(PIECE)

    def make_room(self) -> None:
        (self.path / "ballast").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """A disk of that size in place of `folder`. Raises `NoSmallDisk` with the machine's reason."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--mount", "sh", "-c", HOLD, "sh", str(folder), size]
    try:
        holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise NoSmallDisk(str(error)) from error
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stderr is not None
        if not holder.stdout.readline():
            raise NoSmallDisk(holder.stderr.read().decode(errors="replace").strip())
        yield SmallDisk(folder, holder.pid)
        holder.stdin.close()
