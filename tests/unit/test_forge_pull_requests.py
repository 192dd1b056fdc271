"""Pull requests are opened, reviewed per commit, and merged once, at exactly the commit that was meant."""

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

from quarterdeck.forge.git import Git
from quarterdeck.forge.local import LocalForge
from quarterdeck.forge.protocol import Forge, PullRequestInfo, ReviewInfo, Verdict
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound, Stale
from tests.fakes import git_hand
from tests.fakes.forking import Forks
from tests.fakes.git_hand import git, write

BRANCH = "item/ET-007"


class Workshop:
    """A forge with the repository `demo`, and somebody who works in it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.forge: Forge = LocalForge(database, folder / "forge")
        self.bare = folder / "forge" / "demo.git"

    async def push(self, path: str, text: str = "text\n", branch: str = BRANCH) -> str:
        """A commit on a branch."""
        work = self.folder / branch.replace("/", "-")
        await self.forge.checkout("demo", branch, "main", work)
        git_hand.commit(work, path, text)
        return await self.forge.publish("demo", branch, work)

    async def open(self, branch: str = BRANCH, title: str = "Greet") -> PullRequestInfo:
        return await self.forge.open_pull_request("demo", branch, "main", title, "Hello.", "developer")

    async def merge(self, number: int, head: str, title: str = "Greet") -> str:
        return await self.forge.merge("demo", number, head, title)

    def merges(self) -> int:
        return len(git(self.bare, "log", "--merges", "--format=%H", "main").split())


@pytest.fixture
async def shop(database: Database, tmp_path: Path) -> Workshop:
    shop = Workshop(database, tmp_path)
    await shop.forge.ensure_repository("demo")
    return shop


async def test_the_life_of_a_pull_request(shop: Workshop):
    head = await shop.push("hello.txt")
    assert await shop.forge.pull_request("demo", BRANCH, "main") is None
    opened = await shop.open()
    assert opened == PullRequestInfo(1, BRANCH, "main", head, "Greet", True, False, None)
    await shop.forge.review("demo", 1, "reviewer", Verdict.REJECTED, "No greeting.", head)
    better = await shop.push("hello.txt", "Hello!\n")
    await shop.forge.review("demo", 1, "reviewer", Verdict.APPROVED, "Good.", better)
    seen = await shop.forge.pull_request("demo", BRANCH, "main")
    assert seen is not None
    assert (seen.head, seen.is_open) == (better, True)
    assert seen.reviews == (
        ReviewInfo("reviewer", Verdict.REJECTED, "No greeting.", head),
        ReviewInfo("reviewer", Verdict.APPROVED, "Good.", better),
    )
    merged = await shop.merge(1, better, "ET-007: greet\nthe world")
    assert await shop.forge.head("demo", "main") == merged
    assert await shop.forge.read_file("demo", "main", "hello.txt") == "Hello!\n"
    assert git(shop.bare, "log", "-1", "--format=%s|%an", "main") == "ET-007: greet the world|Quarterdeck"
    after = await shop.forge.pull_request("demo", BRANCH, "main")
    assert after is not None
    assert (after.is_open, after.is_merged, after.merged_commit, after.head) == (False, True, merged, better)


async def test_opening_again_gives_the_one_that_is_open(shop: Workshop):
    await shop.push("a.txt")
    opened = await asyncio.gather(*(shop.open() for _ in range(4)))
    assert {pr.number for pr in opened} == {1}
    await shop.push("b.txt", branch="other")
    assert (await shop.open("other")).number == 2


async def test_numbers_are_counted_per_repository(shop: Workshop):
    await shop.push("a.txt")
    await shop.open()
    await shop.forge.ensure_repository("second")
    work = shop.folder / "second"
    await shop.forge.checkout("second", BRANCH, "main", work)
    write(work, "a.txt")
    await shop.forge.publish("second", BRANCH, work)
    opened = await shop.forge.open_pull_request("second", BRANCH, "main", "Greet", "", "developer")
    assert opened.number == 1


async def test_a_branch_with_nothing_new_has_nothing_to_propose(shop: Workshop):
    await shop.forge.checkout("demo", BRANCH, "main", shop.folder / "work")
    with pytest.raises(NotFound, match="There is: main"):
        await shop.open()
    await shop.forge.publish("demo", BRANCH, shop.folder / "work")
    with pytest.raises(Conflict, match="has nothing that main lacks"):
        await shop.open()
    assert await shop.forge.pull_request("demo", BRANCH, "main") is None


async def test_the_author_has_no_vote(shop: Workshop):
    head = await shop.push("a.txt")
    await shop.open()
    with pytest.raises(Conflict) as error:
        await shop.forge.review("demo", 1, "developer", Verdict.APPROVED, "", head)
    assert error.value.code == "own_pull_request"
    await shop.forge.review("demo", 1, "developer", Verdict.COMMENT, "Please look.", head)


async def test_a_later_review_of_the_same_commit_replaces_the_earlier_one(shop: Workshop):
    head = await shop.push("a.txt")
    await shop.open()
    for verdict in (Verdict.REJECTED, Verdict.APPROVED, Verdict.APPROVED):
        await shop.forge.review("demo", 1, "reviewer", verdict, "", head)
    seen = await shop.forge.pull_request("demo", BRANCH, "main")
    assert seen is not None
    assert [r.verdict for r in seen.reviews] == [Verdict.APPROVED]


async def test_reviews_of_unknown_things_are_refused(shop: Workshop):
    head = await shop.push("a.txt")
    await shop.open()
    with pytest.raises(NotFound, match="no commit"):
        await shop.forge.review("demo", 1, "reviewer", Verdict.APPROVED, "", "a" * 40)
    with pytest.raises(NotFound, match="There is: 1"):
        await shop.forge.review("demo", 2, "reviewer", Verdict.APPROVED, "", head)


async def test_a_branch_that_moved_on_is_not_merged(shop: Workshop):
    approved = await shop.push("a.txt")
    await shop.open()
    newer = await shop.push("b.txt")
    before = await shop.forge.head("demo", "main")
    with pytest.raises(Stale, match="moved on"):
        await shop.merge(1, approved)
    with pytest.raises(Stale):
        await shop.merge(1, "a" * 40)
    with pytest.raises(Stale):  # main has it, but it is not what this pull request proposes
        await shop.merge(1, before or "")
    assert await shop.forge.head("demo", "main") == before
    assert await shop.merge(1, newer) == await shop.forge.head("demo", "main")


async def test_a_rejected_commit_is_not_merged(shop: Workshop):
    head = await shop.push("a.txt")
    await shop.open()
    await shop.forge.review("demo", 1, "reviewer", Verdict.REJECTED, "No.", head)
    with pytest.raises(Conflict, match="rejected by reviewer"):
        await shop.merge(1, head)


async def test_both_sides_of_a_merge_are_kept(shop: Workshop):
    head = await shop.push("ours.txt")
    await shop.open()
    await shop.push("theirs.txt", branch="main")
    await shop.merge(1, head)
    assert await shop.forge.read_file("demo", "main", "ours.txt")
    assert await shop.forge.read_file("demo", "main", "theirs.txt")


async def conflicting(shop: Workshop) -> str:
    """A pull request that cannot be merged; returns its head."""
    head = await shop.push("same.txt", "ours\n")
    await shop.open()
    await shop.push("same.txt", "theirs\n", branch="main")
    return head


async def test_a_conflict_names_the_files_and_changes_nothing(shop: Workshop):
    head = await conflicting(shop)
    before = await shop.forge.head("demo", "main")
    with pytest.raises(Conflict, match=r"both sides changed same\.txt") as error:
        await shop.merge(1, head)
    assert error.value.code == "merge_conflict"
    assert await shop.forge.head("demo", "main") == before
    seen = await shop.forge.pull_request("demo", BRANCH, "main")
    assert seen is not None
    assert seen.is_open


async def test_a_conflict_can_be_settled_in_the_work_tree(shop: Workshop):
    await conflicting(shop)
    work = shop.folder / "item-ET-007"
    await shop.forge.checkout("demo", BRANCH, "main", work)
    git(work, "merge", "--quiet", "--strategy-option=ours", "origin/main")
    head = await shop.forge.publish("demo", BRANCH, work)
    await shop.merge(1, head)
    assert await shop.forge.read_file("demo", "main", "same.txt") == "ours\n"


async def test_a_branch_that_was_begun_anew_cannot_be_merged_and_says_so(shop: Workshop):
    work = shop.folder / "work"
    await shop.forge.checkout("demo", BRANCH, "main", work)
    git(work, "checkout", "--quiet", "--orphan", "anew")
    git_hand.commit(work, "a.txt")
    head = await shop.forge.publish("demo", BRANCH, work)
    await shop.open()
    with pytest.raises(Conflict, match="no history in common") as error:
        await shop.merge(1, head)
    assert error.value.code == "unrelated_histories"


async def test_many_merges_at_once_merge_once(shop: Workshop):
    head = await shop.push("a.txt")
    await shop.open()
    merged = await asyncio.gather(*(shop.merge(1, head) for _ in range(4)))
    assert len(set(merged)) == 1
    assert shop.merges() == 1
    assert await shop.merge(1, head) == merged[0]


async def test_different_pull_requests_merged_at_once_are_all_in(shop: Workshop):
    branches = [f"item/ET-{n:03d}" for n in range(5)]
    heads = [await shop.push(f"{branch}.txt", branch=branch) for branch in branches]
    numbers = [(await shop.open(branch)).number for branch in branches]
    await asyncio.gather(*(shop.merge(n, head) for n, head in zip(numbers, heads, strict=True)))
    assert shop.merges() == 5
    for branch in branches:
        assert await shop.forge.read_file("demo", "main", f"{branch}.txt")


async def test_a_pull_request_that_was_merged_at_another_commit_is_told(shop: Workshop):
    head = await shop.push("a.txt")
    await shop.open()
    await shop.merge(1, head)
    with pytest.raises(Stale, match="merged already, at another commit"):
        await shop.merge(1, "a" * 40)


async def test_after_a_merge_the_branch_may_be_proposed_again(shop: Workshop):
    first = await shop.push("a.txt")
    await shop.open()
    merged = await shop.merge(1, first)
    second = await shop.push("b.txt")
    assert (await shop.open()).number == 2
    assert await shop.merge(1, first) == merged
    await shop.merge(2, second)
    assert shop.merges() == 2


async def test_a_merge_made_by_hand_is_seen(shop: Workshop):
    head = await shop.push("a.txt")
    await shop.open()
    person = git_hand.clone(shop.bare, shop.folder / "person")
    git(person, "merge", "--quiet", "--no-ff", f"origin/{BRANCH}")
    git(person, "push", "--quiet", "origin", "main")
    seen = await shop.forge.pull_request("demo", BRANCH, "main")
    assert seen is not None
    assert (seen.is_open, seen.merged_commit) == (False, git(person, "rev-parse", "HEAD"))
    assert await shop.merge(1, head) == seen.merged_commit


async def test_a_base_that_was_moved_to_the_branch_by_hand_needs_no_merge(shop: Workshop):
    head = await shop.push("a.txt")
    await shop.open()
    git(shop.bare, "update-ref", "refs/heads/main", head)
    assert await shop.merge(1, head) == head
    assert await shop.merge(1, head) == head


async def test_a_pull_request_without_its_branch_is_closed(shop: Workshop):
    head = await shop.push("a.txt")
    await shop.open()
    git(shop.bare, "update-ref", "-d", f"refs/heads/{BRANCH}")
    seen = await shop.forge.pull_request("demo", BRANCH, "main")
    assert seen is not None
    assert (seen.is_open, seen.is_merged, seen.head) == (False, False, "")
    with pytest.raises(Conflict, match="closed"):
        await shop.merge(1, head)


_MERGE = """
import asyncio, sys
from pathlib import Path
from quarterdeck.forge.local import LocalForge
from quarterdeck.kernel.database import Database
url, folder, head = sys.argv[1:]
asyncio.run(LocalForge(Database(url), Path(folder)).merge("demo", 1, head, "Greet"))
"""


async def merge_and_die(forks: Forks, shop: Workshop, head: str, url: str) -> None:
    """A merge by a process that is killed when git has it and the table does not."""
    folder, point = str(shop.folder / "forge"), "before merge pull request"
    dead = await forks.run(_MERGE, url, folder, head, QUARTERDECK_CRASH_AT=point)
    assert dead.code == -signal.SIGKILL
    assert shop.merges() == 1


@pytest.mark.parametrize("first", ["merge", "look", "open"])
async def test_a_crash_between_git_and_the_table_is_mended_by_the_next_call(
    forks: Forks, shop: Workshop, database_url: str, first: str
):
    head = await shop.push("a.txt")
    await shop.open()
    await merge_and_die(forks, shop, head, database_url)
    if first == "look":
        seen = await shop.forge.pull_request("demo", BRANCH, "main")
        assert seen is not None
        assert seen.is_merged
    if first == "open":
        with pytest.raises(Conflict, match="has nothing that main lacks"):
            await shop.open()
    assert await shop.merge(1, head) == await shop.forge.head("demo", "main")
    assert shop.merges() == 1


class OldGit(Git):
    """A git from before 2.38."""

    def __init__(self, folder: Path) -> None:
        program = f"""#!/bin/sh
case " $* " in *" --write-tree "*) echo "usage: git merge-tree" >&2; exit 129;; esac
exec {shutil.which("git")} "$@"
"""
        write(folder, "old-git", program, executable=True)
        super().__init__(folder / "forge" / "gitconfig", program=str(folder / "old-git"))


async def test_an_older_git_merges_in_a_folder_that_is_removed_afterwards(shop: Workshop):
    shop.forge = LocalForge(shop.database, shop.folder / "forge", git=OldGit(shop.folder))
    head = await shop.push("ours.txt")
    await shop.open()
    await shop.push("theirs.txt", branch="main")
    await shop.merge(1, head)
    assert await shop.forge.read_file("demo", "main", "ours.txt")
    assert await shop.forge.read_file("demo", "main", "theirs.txt")
    assert len(git(shop.bare, "worktree", "list").splitlines()) == 1


async def test_an_older_git_names_the_files_of_a_conflict_too(shop: Workshop):
    shop.forge = LocalForge(shop.database, shop.folder / "forge", git=OldGit(shop.folder))
    head = await conflicting(shop)
    with pytest.raises(Conflict, match=r"both sides changed same\.txt"):
        await shop.merge(1, head)
