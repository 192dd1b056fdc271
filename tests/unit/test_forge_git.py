"""git is run without a shell, without foreign configuration, and never longer than allowed."""

import asyncio
import os
from pathlib import Path

import pytest

from quarterdeck.forge.git import Git, Identity
from quarterdeck.kernel.errors import Misconfigured, Unavailable
from tests.fakes import git_hand
from tests.processes import is_alive
from tests.waiting import until


@pytest.fixture
def git(tmp_path: Path) -> Git:
    return Git(tmp_path / "forge" / "gitconfig")


def program(folder: Path, text: str) -> str:
    git_hand.write(folder, "program", f"#!/bin/sh\n{text}\n", executable=True)
    return str(folder / "program")


async def test_the_answer_and_the_exit_code_come_back(git: Git):
    answer = await git.run("hash-object", "--stdin", stdin=b"hello\n")
    assert answer.text == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert (await git.run("check-ref-format", "..", accept=(0, 1))).code == 1


async def test_an_unexpected_exit_code_is_told_with_gits_own_last_line(git: Git, tmp_path: Path):
    with pytest.raises(Unavailable, match="git log failed: fatal: not a git repository") as error:
        await git.run("log", at=tmp_path)
    assert error.value.code == "git_failed"


async def test_the_user_has_no_say_in_how_git_behaves(git: Git, tmp_path: Path, monkeypatch):
    git_hand.write(tmp_path, ".gitconfig", "[user]\n\tname = Somebody\n[alias]\n\tspy = !touch spied\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    assert (await git.run("config", "user.name", accept=(1,))).text == ""
    who = await git.run("var", "GIT_AUTHOR_IDENT", identity=Identity("Anna", "anna@example.org"))
    assert who.text.startswith("Anna <anna@example.org>")


async def test_hooks_and_watchers_that_a_repository_names_are_not_run(git: Git, tmp_path: Path):
    work = git_hand.repository(tmp_path / "work")
    trap = program(tmp_path, f"touch {tmp_path}/sprung")
    git_hand.write(work, "hooks/pre-commit", f"#!/bin/sh\nexec {trap}\n", executable=True)
    git_hand.git(work, "config", "core.hooksPath", str(work / "hooks"))
    git_hand.git(work, "config", "core.fsmonitor", trap)
    await git.run("add", "--all", at=work / ".git", tree=work)
    await git.run("commit", "--quiet", "--message", "More", at=work / ".git", tree=work)
    assert not (tmp_path / "sprung").exists()


async def test_only_local_repositories_are_spoken_to(git: Git):
    for url in ("https://127.0.0.1:1/x", "ssh://127.0.0.1/x", "ext::sh -c touch% /tmp/x"):
        with pytest.raises(Unavailable, match="not allowed"):
            await git.run("ls-remote", url)


async def test_a_repository_of_another_user_is_worked_on(git: Git, tmp_path: Path):
    if os.getuid():
        pytest.skip("only root can give files away")
    theirs = git_hand.repository(tmp_path / "theirs")
    for path in [theirs, *theirs.rglob("*")]:
        os.chown(path, 12345, 12345)
    await git.run("clone", "--quiet", str(theirs), str(tmp_path / "ours"))
    assert (tmp_path / "ours" / "README.md").is_file()


async def test_git_and_all_it_started_end_at_the_limit(tmp_path: Path):
    slow = program(tmp_path, f"echo $$ > {tmp_path}/pids; sleep 60 & echo $! >> {tmp_path}/pids; wait")
    with pytest.raises(Unavailable, match=r"git status took longer than 0\.5 s") as error:
        await Git(tmp_path / "config", program=slow, limit_seconds=0.5).run("status")
    assert error.value.code == "git_timed_out"
    await _ended(tmp_path / "pids")


async def test_git_ends_when_nobody_waits_for_it_any_more(tmp_path: Path):
    slow = program(
        tmp_path, f"sleep 60 & echo $! > {tmp_path}/draft; mv {tmp_path}/draft {tmp_path}/pids; wait"
    )
    call = asyncio.create_task(Git(tmp_path / "config", program=slow).run("status"))
    while not (tmp_path / "pids").exists():
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await _ended(tmp_path / "pids")


async def _ended(pids: Path) -> None:
    await until(lambda: not any(is_alive(int(pid)) for pid in pids.read_text().split()))


async def test_a_machine_without_git_is_told_what_to_install(tmp_path: Path):
    with pytest.raises(Misconfigured, match="Install git"):
        await Git(tmp_path / "config", program="git-that-is-not-there").run("status")


async def test_a_folder_that_is_gone_is_not_taken_for_a_missing_git(git: Git, tmp_path: Path):
    with pytest.raises(Unavailable, match="could not be started"):
        await git.run("status", at=tmp_path / "gone")
