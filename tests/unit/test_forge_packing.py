"""Repositories are packed before their loose files slow every copy, and never while one is made."""

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from quarterdeck.forge import packing as packing_module
from quarterdeck.forge.bare import Repositories
from quarterdeck.forge.folders import locked
from quarterdeck.forge.git import Git
from quarterdeck.forge.local import LocalForge
from quarterdeck.forge.packing import Packed, pack_every
from quarterdeck.kernel import disk
from quarterdeck.kernel.database import Database
from tests.fakes import git_hand
from tests.fakes.git_hand import git

BRANCH = "item/ET-007"
MANY = 40


@pytest.fixture
async def forge(database: Database, tmp_path: Path) -> LocalForge:
    forge = LocalForge(database, tmp_path / "forge")
    await forge.ensure_repository("demo")
    return forge


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing_module, "LOOSE", MANY)


def bare(tmp_path: Path) -> Path:
    return tmp_path / "forge" / "demo.git"


def loose(repository: Path) -> int:
    return int(git(repository, "count-objects").split()[0])


def scatter(repository: Path, files: Path, count: int) -> None:
    """Objects that nothing refers to, each in a file of its own."""
    files.mkdir()
    for number in range(count):
        (files / str(number)).write_text(f"{number}\n")
    names = "\n".join(str(file) for file in files.iterdir())
    order = ["git", "hash-object", "-w", "--stdin-paths"]
    subprocess.run(order, cwd=repository, input=names, text=True, capture_output=True, check=True)


async def test_much_that_lies_loose_is_packed_and_nothing_is_lost(forge: LocalForge, tmp_path: Path):
    await forge.checkout("demo", BRANCH, "main", tmp_path / "work")
    git_hand.commit(tmp_path / "work", "hello.txt")
    head = await forge.publish("demo", BRANCH, tmp_path / "work")
    assert await forge.pack() == Packed(0), "a few loose files are left"
    scatter(bare(tmp_path), tmp_path / "files", MANY)
    lonely = git(bare(tmp_path), "hash-object", str(tmp_path / "files" / "7"))

    assert await forge.pack() == Packed(1)
    assert loose(bare(tmp_path)) == 0
    assert await forge.head("demo", BRANCH) == head
    assert await forge.read_file("demo", BRANCH, "hello.txt") == "text\n"
    assert git(bare(tmp_path), "cat-file", "blob", lonely) == "7", "somebody may be about to refer to it"
    assert await forge.pack() == Packed(0)


async def test_copies_of_others_repositories_are_packed_too(forge: LocalForge, tmp_path: Path):
    await forge.ensure_repository(str(git_hand.repository(tmp_path / "theirs")))
    (copy,) = (tmp_path / "forge" / "imported").iterdir()
    scatter(copy, tmp_path / "files", MANY)
    assert await forge.pack() == Packed(1)
    assert loose(copy) == 0


async def test_nothing_is_packed_while_a_work_tree_is_copied(forge: LocalForge, tmp_path: Path):
    scatter(bare(tmp_path), tmp_path / "files", MANY)
    another = Repositories(Git(tmp_path / "gitconfig"), tmp_path / "forge").find("demo")
    async with another.copied():
        packing = asyncio.create_task(forge.pack())
        await forge.checkout("demo", BRANCH, "main", tmp_path / "work")  # others may copy as well
        assert not packing.done()
        assert loose(bare(tmp_path)) >= MANY
    assert await packing == Packed(1)


async def test_a_copy_waits_until_packing_is_done(forge: LocalForge, tmp_path: Path):
    async with locked(bare(tmp_path) / "quarterdeck.lock"):
        copying = asyncio.create_task(forge.checkout("demo", BRANCH, "main", tmp_path / "work"))
        await forge.ensure_repository("other")  # takes longer than all that comes before the copying
        assert not (tmp_path / ".work.new").exists()
    await copying
    assert git(tmp_path / "work", "branch", "--show-current") == BRANCH


async def test_a_repository_that_is_copied_all_the_time_is_packed_another_time(
    forge: LocalForge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(packing_module, "_BUSY", 0.01)
    scatter(bare(tmp_path), tmp_path / "files", MANY)
    async with Repositories(Git(tmp_path / "gitconfig"), tmp_path / "forge").find("demo").copied():
        assert await forge.pack() == Packed(0)
    assert await forge.pack() == Packed(1)


async def test_a_pack_that_could_not_be_finished_leaves_nothing_behind(forge: LocalForge, tmp_path: Path):
    scatter(bare(tmp_path), tmp_path / "files", MANY)
    git_hand.write(
        tmp_path, "git", "#!/bin/sh\ntrap '' XFSZ\nulimit -f 2\nexec git \"$@\"\n", executable=True
    )
    short = Git(tmp_path / "gitconfig", program=str(tmp_path / "git"))
    packs = bare(tmp_path) / "objects" / "pack"
    git_hand.write(packs, "tmp_pack_theirs", "somebody is at it")
    git_hand.write(packs, "tmp_pack_old", "nobody is any more")
    os.utime(packs / "tmp_pack_old", (0, time.time() - 3700))

    assert await pack_every(Repositories(short, tmp_path / "forge").every()) == Packed(0, ("demo",))
    assert git_hand.names(packs) == ["tmp_pack_theirs"]
    assert await forge.pack() == Packed(1)


async def test_without_room_for_it_nothing_is_packed(
    forge: LocalForge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scatter(bare(tmp_path), tmp_path / "files", MANY)
    monkeypatch.setattr(disk, "RESERVE", 2**62)  # more than others can free meanwhile
    with capture_logs() as logs:
        assert await forge.pack() == Packed(0, ("demo",))
    (told,) = logs
    assert (told["log_level"], told["event"]) == ("warning", "repository_not_packed")
    assert told["reason"].startswith(f"There is no room to pack {bare(tmp_path)}: ")
    assert loose(bare(tmp_path)) >= MANY


async def test_a_broken_repository_does_not_keep_the_others_from_being_packed(
    forge: LocalForge, tmp_path: Path
):
    scatter(bare(tmp_path), tmp_path / "files", MANY)
    (tmp_path / "forge" / "nothing.git").mkdir()
    git_hand.write(tmp_path / "forge", "broken.git/HEAD", "rubbish")
    packed = await forge.pack()
    assert packed == Packed(1, ("broken",))
    assert packed.counts == {
        "repositories packed": 1,
        "repositories not packed, see the log (broken)": 1,
    }
    assert loose(bare(tmp_path)) == 0


async def test_git_packs_nothing_by_itself(forge: LocalForge, tmp_path: Path):
    scatter(bare(tmp_path), tmp_path / "files", 500)
    git(bare(tmp_path), "config", "gc.auto", "1")
    await forge.checkout("demo", BRANCH, "main", tmp_path / "work")
    git_hand.commit(tmp_path / "work", "hello.txt")
    await forge.publish("demo", BRANCH, tmp_path / "work")
    assert "packs: 0" in git(bare(tmp_path), "count-objects", "-v")


async def test_a_folder_for_tests_borrows_the_objects_however_many(forge: LocalForge, tmp_path: Path):
    await forge.checkout("demo", BRANCH, "main", tmp_path / "work")
    git_hand.commit(tmp_path / "work", ".quarterdeck.yaml", "test: git log\n")
    head = await forge.publish("demo", BRANCH, tmp_path / "work")
    scatter(bare(tmp_path), tmp_path / "files", MANY)
    order = await forge.ci.take("desk")
    assert order is not None
    job = await forge.ci.prepare(order)
    assert loose(job.folder) == 0
    assert git(job.folder, "log", "--format=%H", "-1") == head
    git(job.folder, "fsck", "--full")
