"""A full disk is told from every other trouble: it passes, and is nobody's fault."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.parts import PORTS
from deployments.supervisor import ROOT
from quarterdeck.crew.folder import RunFolder
from quarterdeck.kernel import disk
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.kernel.postgres.explain import explain
from tests.fakes.small_disk import NoSmallDisk, SmallDisk, small_disk

WORK_ON = """
import asyncio, sys
from pathlib import Path
from quarterdeck.forge.git import Git
from quarterdeck.kernel.errors import Unavailable

async def tell(*arguments):
    tree = Path(sys.argv[1])
    try:
        done = await git.run(*arguments, at=tree / ".git", tree=tree, accept=range(256))
        print(done.code)
    except Unavailable as error:
        print(error.code)

git = Git(Path(sys.argv[2]))
for order in sys.argv[3:]:
    asyncio.run(tell(*order.split()))
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    (tmp_path / "disk").mkdir()
    try:
        with small_disk(tmp_path / "disk", "4m") as small:
            yield small
    except NoSmallDisk as reason:
        pytest.skip(f"this machine does not let us mount a small disk: {reason}")


def git(small: SmallDisk, *orders: str) -> list[str]:
    """What each order comes to: git's exit code, or the code of the error."""
    tree, config = small.inside / "work", small.inside.parent / "gitconfig"
    command = [*small.entrance, sys.executable, "-c", WORK_ON, str(tree), str(config), *orders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_git_without_room_is_no_refusal_of_the_work(small: SmallDisk) -> None:
    work = small.path / "work"
    work.mkdir()
    assert git(small, "init -q .") == ["0"]
    (work / "large").write_bytes(os.urandom(200_000))
    small.fill()
    assert git(small, "add --all", "add --all") == ["disk_full", "disk_full"]
    assert git(small, "rev-parse --verify --quiet HEAD") == ["1"], "an answer stays one"
    small.make_room()
    assert git(small, "add --all", "commit -q -m more") == ["0", "0"]


def test_a_file_of_a_run_that_could_not_be_written_leaves_nothing_behind(small: SmallDisk) -> None:
    small.fill()
    with pytest.raises(OSError, match="No space left"):
        RunFolder(small.path).write("job.json", {"note": "long" * 10_000})
    assert [file.name for file in small.path.iterdir()] == ["ballast"]


def test_a_server_that_could_not_even_log_why_is_explained_by_the_disk(small: SmallDisk) -> None:
    small.fill()
    error = explain("start", "pg_ctl: could not start server", small.path, small.path / "no.log", None)
    assert error.code == "disk_full"


def test_a_desk_that_cannot_be_opened_for_lack_of_room_says_so(small: SmallDisk) -> None:
    small.fill()
    told = {
        "QUARTERDECK_HOME": str(small.inside / "home"),
        "QUARTERDECK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/elsewhere",
        **dict.fromkeys(PORTS, "0"),
    }
    command = [*small.entrance, sys.executable, "-m", "deployments.cli", "up"]
    done = subprocess.run(command, env=os.environ | told, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"The disk of {small.inside / 'home'} is full." in done.stderr
    assert "Free some space" in done.stderr


def test_only_the_lack_of_room_counts_as_a_full_disk() -> None:
    assert disk.is_full(OSError(errno.ENOSPC, "no room"))
    assert disk.is_full(OSError(errno.EDQUOT, "no quota"))
    assert not disk.is_full(PermissionError(errno.EACCES, "forbidden"))
    assert not disk.is_full(ValueError("no room"))


def test_room_is_looked_for_where_a_folder_will_be(tmp_path: Path, small: SmallDisk) -> None:
    disk.must_have_room(tmp_path / "not" / "made" / "yet")
    with pytest.raises(Unavailable, match=r"is full\.") as caught:
        disk.must_have_room(small.path / "home")
    assert "Free some space" in caught.value.instruction
