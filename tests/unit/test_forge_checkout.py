"""Repositories are made or copied, and agents get clean work trees that lose nobody's work."""

import asyncio
from pathlib import Path

import pytest

from quarterdeck.forge.local import LocalForge
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound, QuarterdeckError
from tests.fakes import git_hand
from tests.fakes.git_hand import git, write

BRANCH = "item/ET-007"


@pytest.fixture
async def forge(database: Database, tmp_path: Path) -> LocalForge:
    """A forge with the repository `demo`."""
    forge = LocalForge(database, tmp_path / "forge")
    await forge.ensure_repository("demo")
    return forge


@pytest.fixture
async def work(forge: LocalForge, tmp_path: Path) -> Path:
    """A work tree of a new branch."""
    await forge.checkout("demo", BRANCH, "main", tmp_path / "work")
    return tmp_path / "work"


def bare(tmp_path: Path, name: str = "demo") -> Path:
    return tmp_path / "forge" / f"{name}.git"


async def test_a_new_repository_has_one_commit_on_its_default_branch(forge: LocalForge, tmp_path: Path):
    await forge.ensure_repository("other", "trunk")
    await forge.ensure_repository("other", "trunk")
    assert (
        git(bare(tmp_path, "other"), "log", "--format=%an|%s", "trunk") == "Quarterdeck|Begin the repository"
    )
    assert git(bare(tmp_path, "other"), "symbolic-ref", "HEAD") == "refs/heads/trunk"


async def test_a_repository_made_by_many_at_once_is_made_once(forge: LocalForge, tmp_path: Path):
    await asyncio.gather(*(forge.ensure_repository("new") for _ in range(5)))
    assert git(bare(tmp_path, "new"), "rev-list", "--count", "main") == "1"


async def test_a_half_made_repository_is_made_anew(forge: LocalForge, tmp_path: Path):
    write(tmp_path / "forge" / ".new.git.new", "HEAD", "half")
    await forge.ensure_repository("new")
    assert await forge.head("new", "main")


async def test_an_existing_repository_is_copied_and_never_touched(forge: LocalForge, tmp_path: Path):
    source = git_hand.repository(tmp_path / "theirs")
    write(source, "secret", "stashed")
    git(source, "stash", "--include-untracked")
    before = git(source, "for-each-ref")
    await forge.ensure_repository(str(source))
    await forge.ensure_repository(source.as_uri())
    assert await forge.read_file(str(source), "main", "README.md") == "Welcome\n"
    await forge.checkout(str(source), BRANCH, "main", tmp_path / "work")
    git_hand.commit(tmp_path / "work", "new.txt")
    head = await forge.publish(str(source), BRANCH, tmp_path / "work")
    assert await forge.head(source.as_uri(), BRANCH) == head
    assert git(source, "for-each-ref") == before
    [copy] = (tmp_path / "forge" / "imported").iterdir()
    assert "stash" not in git(copy, "for-each-ref")


async def test_an_existing_repository_without_commits_gets_its_first_one(forge: LocalForge, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "--quiet")
    await forge.ensure_repository(str(tmp_path / "empty"))
    assert await forge.head(str(tmp_path / "empty"), "main")


async def test_a_default_branch_that_is_not_there_is_told_with_those_that_are(
    forge: LocalForge, tmp_path: Path
):
    source = git_hand.repository(tmp_path / "theirs")
    with pytest.raises(NotFound, match="There is: main"):
        await forge.ensure_repository(str(source), "trunk")
    await forge.ensure_repository(str(source), "main")


@pytest.mark.parametrize("name", ["nothing", "plain"])
async def test_a_path_that_is_no_repository_is_refused(forge: LocalForge, tmp_path: Path, name: str):
    (tmp_path / "plain").mkdir()
    with pytest.raises(Invalid, match="cannot be copied") as error:
        await forge.ensure_repository(str(tmp_path / name))
    assert error.value.data["field"] == "repository"


async def test_unknown_repositories_and_branches_are_told_with_what_exists(forge: LocalForge, tmp_path: Path):
    with pytest.raises(NotFound, match="There is: demo"):
        await forge.head("dmeo", "main")
    with pytest.raises(NotFound, match="There is: main"):
        await forge.checkout("demo", BRANCH, "mian", tmp_path / "work")
    assert await forge.head("demo", "other") is None


@pytest.mark.parametrize("name", ["--upload-pack=touch x", "../x", "a\nb", "x.lock", ""])
async def test_hostile_names_reach_no_git(forge: LocalForge, tmp_path: Path, name: str):
    folder = tmp_path / "work"
    for call in (
        forge.ensure_repository(name),
        forge.ensure_repository("new", name),
        forge.head(name, "main"),
        forge.head("demo", name),
        forge.checkout("demo", name, "main", folder),
        forge.checkout("demo", BRANCH, name, folder),
        forge.publish("demo", name, folder),
        forge.open_pull_request("demo", name, "main", "", "", "developer"),
        forge.pull_request("demo", name, "main"),
        forge.combined_status("demo", name),
        forge.merge("demo", 1, name, ""),
    ):
        with pytest.raises(Invalid):
            await call
    assert not folder.exists()
    assert not (tmp_path / "forge" / "new.git").exists()


async def test_a_new_branch_starts_at_its_base_and_appears_when_it_is_published(
    forge: LocalForge, work: Path, tmp_path: Path
):
    base = await forge.head("demo", "main")
    assert git(work, "rev-parse", "HEAD") == base
    assert git(work, "branch", "--show-current") == BRANCH
    assert await forge.head("demo", BRANCH) is None
    made = git_hand.commit(work, "a.txt")
    assert await forge.publish("demo", BRANCH, work) == made
    assert await forge.publish("demo", BRANCH, work) == made
    assert await forge.head("demo", BRANCH) == made
    assert await forge.checkout("demo", BRANCH, "main", tmp_path / "elsewhere") == made
    assert (tmp_path / "elsewhere" / "a.txt").is_file()


async def test_what_was_left_uncommitted_is_committed_under_the_branchs_name(forge: LocalForge, work: Path):
    write(work, "late.txt")
    write(work, "ignored.log")
    write(work, ".gitignore", "*.log\n")
    head = await forge.publish("demo", BRANCH, work)
    assert (
        git(work, "log", "-1", "--format=%an|%s") == f"Quarterdeck|{BRANCH}: keep what was left uncommitted"
    )
    assert git(work, "show", "--name-only", "--format=", head).split() == [".gitignore", "late.txt"]


async def test_leftovers_of_an_earlier_round_are_removed_and_the_clone_is_kept(forge: LocalForge, work: Path):
    head = git_hand.commit(work, "kept.txt")
    await forge.publish("demo", BRANCH, work)
    clone = (work / ".git").stat().st_ino
    git_hand.commit(work, "unpublished.txt")
    write(work, "kept.txt", "changed")
    write(work, "left/over.txt")
    write(work, "cache.log")
    write(work, ".git/info/exclude", "*.log\n")
    write(work, ".git/index.lock", "")
    git_hand.repository(work / "nested")
    (work / "left").chmod(0o555)
    assert await forge.checkout("demo", BRANCH, "main", work) == head
    assert git_hand.names(work) == [".git", "kept.txt"]
    assert (work / "kept.txt").read_text() == "text\n"
    assert (work / ".git").stat().st_ino == clone


def _remove_head(work: Path) -> None:
    (work / ".git" / "HEAD").unlink()


def _empty_objects(work: Path) -> None:
    for blob in (work / ".git" / "objects").rglob("*"):
        if blob.is_file():
            blob.unlink()


def _start_a_rebase(work: Path) -> None:
    (work / ".git" / "rebase-merge").mkdir()


def _speak_for_another(work: Path) -> None:
    write(work, ".git/commondir", "/nowhere\n")


def _be_a_file(work: Path) -> None:
    git_hand.git(work, "init", "--quiet", "--separate-git-dir", str(work.parent / "moved"))


def _be_a_link(work: Path) -> None:
    work.rename(work.parent / "moved")
    work.symlink_to(work.parent / "moved")


def _leave_no_commit(work: Path) -> None:
    git(work, "checkout", "--quiet", "--orphan", "elsewhere")
    git(work, "rm", "-r", "--force", "--quiet", ".")


def _break_the_index(work: Path) -> None:
    write(work, ".git/index", "no index")


def _block_the_settings(work: Path) -> None:
    write(work, ".git/index.lock/file", "")


@pytest.mark.parametrize(
    "harm", [_leave_no_commit, _break_the_index, _remove_head, _empty_objects, _block_the_settings]
)
async def test_what_an_agent_broke_is_refused_as_its_work_and_not_waited_for(
    forge: LocalForge, work: Path, harm
):
    git_hand.commit(work, "a.txt")
    head = await forge.publish("demo", BRANCH, work)
    harm(work)
    with pytest.raises(Conflict, match=r"cannot be used any more|cannot be committed"):
        await forge.publish("demo", BRANCH, work)
    assert await forge.head("demo", BRANCH) == head
    assert await forge.checkout("demo", BRANCH, "main", work) == head


@pytest.mark.parametrize(
    "harm", [_remove_head, _empty_objects, _start_a_rebase, _speak_for_another, _be_a_file, _be_a_link]
)
async def test_a_broken_work_tree_is_made_anew(forge: LocalForge, work: Path, harm):
    git_hand.commit(work, "a.txt")
    head = await forge.publish("demo", BRANCH, work)
    harm(work)
    assert await forge.checkout("demo", BRANCH, "main", work) == head
    assert git(work, "status", "--porcelain=v2", "--branch").splitlines()[:2] == [
        f"# branch.oid {head}",
        f"# branch.head {BRANCH}",
    ]
    assert (work / "a.txt").is_file()


async def test_a_folder_without_a_repository_never_leads_git_to_one_further_up(
    forge: LocalForge, tmp_path: Path
):
    outer = git_hand.repository(tmp_path / "outer")
    write(outer, "precious.txt")
    (outer / "work").mkdir()
    await forge.checkout("demo", BRANCH, "main", outer / "work")
    (outer / "work" / ".git").rename(tmp_path / "moved")
    with pytest.raises(Conflict, match="not the work tree"):
        await forge.publish("demo", BRANCH, outer / "work")
    await forge.checkout("demo", BRANCH, "main", outer / "work")
    assert (outer / "precious.txt").is_file()


@pytest.mark.parametrize("name", ["commondir", "info/grafts", "objects/info/alternates"])
async def test_a_work_tree_that_speaks_for_another_repository_is_not_published(
    forge: LocalForge, work: Path, tmp_path: Path, name: str
):
    other = git_hand.repository(tmp_path / "other")
    write(work, f".git/{name}", f"{other}/.git\n")
    with pytest.raises(Conflict, match="not the work tree"):
        await forge.publish("demo", BRANCH, work)


async def test_a_branch_that_was_moved_meanwhile_is_not_overwritten(
    forge: LocalForge, work: Path, tmp_path: Path
):
    git_hand.commit(work, "a.txt")
    await forge.publish("demo", BRANCH, work)
    person = git_hand.clone(bare(tmp_path), tmp_path / "person")
    git(person, "checkout", "--quiet", BRANCH)
    theirs = git_hand.commit(person, "b.txt")
    git(person, "push", "--quiet", "origin", BRANCH)
    git_hand.commit(work, "c.txt")
    with pytest.raises(Conflict, match="Somebody else moved item/ET-007 meanwhile") as error:
        await forge.publish("demo", BRANCH, work)
    assert error.value.code == "branch_moved"
    assert await forge.head("demo", BRANCH) == theirs


async def test_a_branch_that_was_forced_back_meanwhile_stays_where_it_was_put(
    forge: LocalForge, work: Path, tmp_path: Path
):
    first = git_hand.commit(work, "a.txt")
    git_hand.commit(work, "b.txt")
    await forge.publish("demo", BRANCH, work)
    git(bare(tmp_path), "update-ref", f"refs/heads/{BRANCH}", first)
    git_hand.commit(work, "c.txt")
    with pytest.raises(Conflict, match="moved"):
        await forge.publish("demo", BRANCH, work)
    assert await forge.head("demo", BRANCH) == first


async def test_a_branch_that_appeared_meanwhile_is_not_overwritten(
    forge: LocalForge, work: Path, tmp_path: Path
):
    git(bare(tmp_path), "update-ref", f"refs/heads/{BRANCH}", "main")
    git_hand.commit(work, "a.txt")
    with pytest.raises(Conflict, match="moved"):
        await forge.publish("demo", BRANCH, work)


async def test_history_that_was_published_is_not_rewritten(forge: LocalForge, work: Path):
    head = git_hand.commit(work, "a.txt")
    await forge.publish("demo", BRANCH, work)
    git(work, "commit", "--quiet", "--amend", "--message", "Another")
    with pytest.raises(Conflict, match="rewritten") as error:
        await forge.publish("demo", BRANCH, work)
    assert error.value.code == "history_rewritten"
    assert await forge.head("demo", BRANCH) == head


async def test_a_merge_that_was_left_unfinished_is_not_published(forge: LocalForge, work: Path):
    git_hand.commit(work, "a.txt", "one\n")
    git(work, "checkout", "--quiet", "-b", "side", "HEAD~1")
    git_hand.commit(work, "a.txt", "two\n")
    with pytest.raises(AssertionError):
        git(work, "merge", BRANCH)
    with pytest.raises(Conflict, match=r"unfinished: a\.txt"):
        await forge.publish("demo", BRANCH, work)


async def test_what_git_cannot_commit_is_told_in_gits_words(forge: LocalForge, work: Path):
    (work / "nested").mkdir()
    git(work / "nested", "init", "--quiet")
    with pytest.raises(Conflict, match="cannot be committed: fatal: adding files failed"):
        await forge.publish("demo", BRANCH, work)


async def test_a_branch_below_another_branch_is_refused_at_once(forge: LocalForge, tmp_path: Path):
    with pytest.raises(Conflict, match="main/sub while there is main"):
        await forge.checkout("demo", "main/sub", "main", tmp_path / "work")


async def test_a_branch_that_came_into_the_way_is_told_in_gits_words(
    forge: LocalForge, work: Path, tmp_path: Path
):
    git(bare(tmp_path), "update-ref", "refs/heads/item", "main")
    git_hand.commit(work, "a.txt")
    with pytest.raises(Conflict, match=f"does not take {BRANCH}"):
        await forge.publish("demo", BRANCH, work)


async def test_nothing_that_an_agent_put_into_its_repository_is_run(
    forge: LocalForge, work: Path, tmp_path: Path
):
    trap = f"#!/bin/sh\ntouch {tmp_path}/sprung\ncat\n"
    write(tmp_path, "trap", trap, executable=True)
    for hook in (
        "pre-commit",
        "post-commit",
        "pre-push",
        "post-checkout",
        "reference-transaction",
        "post-index-change",
    ):
        write(work, f".git/hooks/{hook}", trap, executable=True)
        write(work, f"hooks/{hook}", trap, executable=True)
    write(work, ".gitattributes", "* filter=trap\n")
    git(work, "config", "core.hooksPath", "hooks")
    for key in (
        "core.fsmonitor",
        "filter.trap.clean",
        "filter.trap.smudge",
        "core.sshCommand",
        "gpg.program",
    ):
        git(work, "config", key, str(tmp_path / "trap"))
    git(work, "config", "commit.gpgSign", "true")
    head = await forge.publish("demo", BRANCH, work)
    assert await forge.checkout("demo", BRANCH, "main", work) == head
    assert not (tmp_path / "sprung").exists()


async def test_hooks_of_the_forges_own_repositories_are_not_run(
    forge: LocalForge, work: Path, tmp_path: Path
):
    for hook in ("pre-receive", "update", "post-receive", "reference-transaction"):
        write(bare(tmp_path), f"hooks/{hook}", f"#!/bin/sh\ntouch {tmp_path}/sprung\n", executable=True)
    git_hand.commit(work, "a.txt")
    await forge.publish("demo", BRANCH, work)
    assert not (tmp_path / "sprung").exists()


async def test_an_agent_can_commit_but_has_nowhere_to_push_to(forge: LocalForge, work: Path):
    assert git(work, "config", "user.name") == "Quarterdeck"
    assert git(work, "remote") == ""
    assert git(work, "rev-parse", "origin/main") == await forge.head("demo", "main")


async def test_files_are_read_from_a_branch(forge: LocalForge, work: Path):
    write(work, "docs/дело.md", "Привет\n")
    write(work, "latin.txt", "caf\xe9".encode("latin-1"))
    (work / "link.md").symlink_to("docs/дело.md")
    git_hand.commit(work, "empty.md", "")
    await forge.publish("demo", BRANCH, work)
    assert await forge.read_file("demo", BRANCH, "docs/дело.md") == "Привет\n"
    assert await forge.read_file("demo", BRANCH, "latin.txt") == "caf\N{REPLACEMENT CHARACTER}"
    assert await forge.read_file("demo", BRANCH, "empty.md") == ""
    for path in ("missing.md", "docs", "link.md", "docs/*", ":(glob)**"):
        assert await forge.read_file("demo", BRANCH, path) is None, path
    assert await forge.read_file("demo", "no-such-branch", "empty.md") is None


@pytest.mark.parametrize(
    ("content", "code"), [(b"a\0b", "file_not_text"), (b"x" * 1_000_001, "file_too_large")]
)
async def test_files_that_are_no_text_are_refused(forge: LocalForge, work: Path, content: bytes, code: str):
    git_hand.commit(work, "big", content)
    await forge.publish("demo", BRANCH, work)
    with pytest.raises(Conflict) as error:
        await forge.read_file("demo", BRANCH, "big")
    assert error.value.code == code


async def test_a_path_that_leaves_the_repository_is_refused(forge: LocalForge):
    with pytest.raises(Invalid):
        await forge.read_file("demo", "main", "../../etc/passwd")


async def test_a_repository_that_breaks_is_told_and_not_taken_for_an_empty_one(
    forge: LocalForge, tmp_path: Path
):
    (bare(tmp_path) / "objects").rename(bare(tmp_path) / "objects-gone")
    with pytest.raises(QuarterdeckError):
        await forge.read_file("demo", "main", "README.md")
