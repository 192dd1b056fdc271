"""Both forges keep the same promises: one suite over the protocol, against real repositories."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from quarterdeck.forge.gitea import GiteaForge
from quarterdeck.forge.local import LocalForge
from quarterdeck.forge.protocol import CIState, Forge, PullRequestInfo, Verdict
from quarterdeck.kernel.connections import Connections, Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound, Stale
from quarterdeck.kernel.keyring import Keyring
from tests.fakes import git_hand
from tests.fakes.git_hand import git
from tests.fakes.gitea import FakeGitea

BRANCH = "item/ET-007"


@dataclass
class Shop:
    """A forge with one repository, and somebody who works in it."""

    forge: Forge
    repository: str
    folder: Path
    bare: Path

    def work_tree(self, branch: str = BRANCH) -> Path:
        return self.folder / branch.replace("/", "-")

    async def checkout(self, branch: str = BRANCH) -> str:
        return await self.forge.checkout(self.repository, branch, "main", self.work_tree(branch))

    async def push(self, path: str = "hello.txt", text: str = "text\n", branch: str = BRANCH) -> str:
        await self.checkout(branch)
        git_hand.commit(self.work_tree(branch), path, text)
        return await self.forge.publish(self.repository, branch, self.work_tree(branch))

    async def open(self, branch: str = BRANCH) -> PullRequestInfo:
        return await self.forge.open_pull_request(
            self.repository, branch, "main", "Greet", "Hello.", "developer"
        )

    async def say(self, number: int, verdict: Verdict, commit: str, comment: str = "") -> None:
        await self.forge.review(self.repository, number, "reviewer", verdict, comment, commit)

    async def info(self, branch: str = BRANCH) -> PullRequestInfo:
        info = await self.forge.pull_request(self.repository, branch, "main")
        assert info
        return info


async def connected(database: Database, folder: Path, value: dict[str, str]) -> Connections:
    connections = Connections(database, Keyring(folder / "keys"))
    async with database.command("connect") as unit:
        await connections.put(unit, "gitea", "default", value, Source.API)
    return connections


@pytest.fixture(params=["local", "gitea"])
async def shop(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        if request.param == "local":
            forge: Forge = LocalForge(database, tmp_path / "forge")
            name, bare = "shop", tmp_path / "forge" / "shop.git"
        else:
            gitea = await stack.enter_async_context(FakeGitea(tmp_path / "gitea"))
            bare = (await gitea.create("acme/shop")).path
            connections = await connected(database, tmp_path, gitea.connection)
            forge = GiteaForge(connections, tmp_path / "mirrors", pause=0)
            stack.push_async_callback(forge.close)
            name = "gitea:acme/shop"
        await forge.ensure_repository(name)
        yield Shop(forge, name, tmp_path / "work", bare)


async def test_a_repository_is_there_as_often_as_one_asks(shop: Shop):
    await shop.forge.ensure_repository(shop.repository)
    assert await shop.forge.head(shop.repository, "main") == git(shop.bare, "rev-parse", "main")


async def test_a_missing_default_branch_is_told(shop: Shop):
    with pytest.raises(NotFound):
        await shop.forge.ensure_repository(shop.repository, "trunk")


async def test_a_new_branch_starts_at_the_base_and_exists_once_it_is_published(shop: Shop):
    base = await shop.forge.head(shop.repository, "main")
    assert await shop.checkout() == base
    assert await shop.forge.head(shop.repository, BRANCH) is None
    head = await shop.push()
    assert await shop.forge.head(shop.repository, BRANCH) == head == git(shop.bare, "rev-parse", BRANCH)


async def test_checking_out_again_brings_what_is_published_and_nothing_of_what_is_not(shop: Shop):
    head = await shop.push()
    git_hand.commit(shop.work_tree(), "unpublished.txt")
    git_hand.write(shop.work_tree(), "litter.txt")
    assert await shop.checkout() == head
    assert git_hand.names(shop.work_tree()) == [
        ".git",
        *git(shop.bare, "ls-tree", "--name-only", head).split(),
    ]


async def test_uncommitted_work_is_published_too(shop: Shop):
    await shop.checkout()
    git_hand.write(shop.work_tree(), "left.txt", "left over\n")
    await shop.forge.publish(shop.repository, BRANCH, shop.work_tree())
    assert await shop.forge.read_file(shop.repository, BRANCH, "left.txt") == "left over\n"


async def test_publishing_again_changes_nothing(shop: Shop):
    head = await shop.push()
    assert await shop.forge.publish(shop.repository, BRANCH, shop.work_tree()) == head


async def test_work_of_somebody_else_on_the_branch_is_never_overwritten(shop: Shop, tmp_path: Path):
    await shop.push()
    await shop.checkout()
    git_hand.commit(shop.work_tree(), "mine.txt")
    other = git_hand.clone(shop.bare, tmp_path / "other")
    git(other, "checkout", "-q", BRANCH)
    theirs = git_hand.commit(other, "theirs.txt")
    git(other, "push", "-q", "origin", BRANCH)
    for _ in range(2):
        with pytest.raises(Conflict) as refused:
            await shop.forge.publish(shop.repository, BRANCH, shop.work_tree())
        assert refused.value.code == "branch_moved"
    assert await shop.forge.head(shop.repository, BRANCH) == theirs
    assert await shop.checkout() == theirs


async def test_rewritten_history_is_refused(shop: Shop):
    await shop.push()
    await shop.checkout()
    git(shop.work_tree(), "commit", "-q", "--amend", "-m", "Other words")
    with pytest.raises(Conflict) as refused:
        await shop.forge.publish(shop.repository, BRANCH, shop.work_tree())
    assert refused.value.code == "history_rewritten"


async def test_files_are_read_as_text_and_missing_ones_are_none(shop: Shop):
    await shop.push("docs/ä b.md", "Grüße\n")
    assert await shop.forge.read_file(shop.repository, BRANCH, "docs/ä b.md") == "Grüße\n"
    assert await shop.forge.read_file(shop.repository, BRANCH, "docs") is None
    assert await shop.forge.read_file(shop.repository, BRANCH, "nothing.md") is None
    assert await shop.forge.read_file(shop.repository, "no-branch", "docs/a.md") is None


@pytest.mark.parametrize("text", [b"\0binary", b"x" * 1_000_001], ids=["binary", "too large"])
async def test_files_that_are_no_text_of_a_megabyte_are_refused(shop: Shop, text: bytes):
    await shop.checkout()
    git_hand.commit(shop.work_tree(), "blob", text)
    await shop.forge.publish(shop.repository, BRANCH, shop.work_tree())
    with pytest.raises(Conflict):
        await shop.forge.read_file(shop.repository, BRANCH, "blob")


async def test_unknown_branches_cannot_be_checked_out(shop: Shop, tmp_path: Path):
    with pytest.raises(NotFound, match="main"):
        await shop.forge.checkout(shop.repository, BRANCH, "mian", tmp_path / "work")


async def test_a_branch_below_another_is_refused(shop: Shop):
    await shop.push(branch="item")
    with pytest.raises(Conflict) as refused:
        await shop.checkout("item/ET-001")
    assert refused.value.code == "branch_in_the_way"


@pytest.mark.parametrize("name", ["--upload-pack=x", "a..b", "", "a\nb", "@{u}"])
async def test_hostile_branches_reach_no_git(shop: Shop, tmp_path: Path, name: str):
    for asking in (
        shop.forge.head(shop.repository, name),
        shop.forge.checkout(shop.repository, name, "main", tmp_path / "x"),
        shop.forge.publish(shop.repository, name, tmp_path / "x"),
        shop.forge.pull_request(shop.repository, name, "main"),
        shop.forge.open_pull_request(shop.repository, name, "main", "t", "b", "a"),
        shop.forge.read_file(shop.repository, name, "README.md"),
    ):
        with pytest.raises(Invalid):
            await asking


async def test_the_life_of_a_pull_request(shop: Shop):
    head = await shop.push()
    assert await shop.forge.pull_request(shop.repository, BRANCH, "main") is None
    opened = await shop.open()
    assert opened == PullRequestInfo(1, BRANCH, "main", head, "Greet", True, False, None)
    await shop.say(1, Verdict.APPROVED, head, "fine")
    [review] = (await shop.info()).reviews
    assert (review.reviewer, review.verdict, review.comment, review.commit) == (
        "reviewer", Verdict.APPROVED, "fine", head,
    )  # fmt: skip
    merged = await shop.forge.merge(shop.repository, 1, head, "ET-007: Greet")
    assert git(shop.bare, "rev-parse", "main") == merged
    assert git(shop.bare, "show", "main:hello.txt") == "text"
    info = await shop.info()
    assert (info.is_open, info.is_merged, info.merged_commit, info.head) == (False, True, merged, head)


@pytest.mark.parametrize("bases", [("main", "release"), ("release", "main")])
async def test_of_the_pull_requests_of_a_branch_those_into_another_base_count_for_nothing(
    shop: Shop, bases: tuple[str, str]
):
    git(shop.bare, "branch", "release", "main")
    head = await shop.push()
    opened = {
        base: await shop.forge.open_pull_request(shop.repository, BRANCH, base, "Greet", "", "developer")
        for base in bases
    }
    assert [opened[base].base for base in bases] == [*bases]
    assert await shop.info() == opened["main"]
    await shop.forge.merge(shop.repository, opened["release"].number, head, "Backport")
    assert await shop.info() == opened["main"]
    assert await shop.forge.pull_request(shop.repository, BRANCH, "trunk") is None


async def test_opening_again_gives_the_one_that_is_open(shop: Shop):
    await shop.push()
    assert await shop.open() == await shop.open()


async def test_a_branch_with_nothing_new_has_nothing_to_propose(shop: Shop):
    await shop.checkout()
    await shop.forge.publish(shop.repository, BRANCH, shop.work_tree())
    with pytest.raises(Conflict) as refused:
        await shop.open()
    assert refused.value.code == "nothing_to_merge"


async def test_the_author_has_no_vote(shop: Shop):
    head = await shop.push()
    number = (await shop.open()).number
    with pytest.raises(Conflict) as refused:
        await shop.forge.review(shop.repository, number, "developer", Verdict.APPROVED, "", head)
    assert refused.value.code == "own_pull_request"


async def test_the_same_review_twice_is_one_and_a_later_one_replaces_it(shop: Shop):
    head = await shop.push()
    number = (await shop.open()).number
    for _ in range(2):
        await shop.say(number, Verdict.REJECTED, head, "name it better")
    assert len((await shop.info()).reviews) == 1
    await shop.say(number, Verdict.APPROVED, head)
    assert [r.verdict for r in (await shop.info()).reviews] == [Verdict.APPROVED]


async def test_reviews_of_unknown_things_are_refused(shop: Shop):
    head = await shop.push()
    number = (await shop.open()).number
    with pytest.raises(NotFound):
        await shop.say(number + 1, Verdict.APPROVED, head)
    with pytest.raises(NotFound):
        await shop.say(number, Verdict.APPROVED, "0" * 39 + "1")
    with pytest.raises(Invalid):
        await shop.say(number, Verdict.APPROVED, head[:10])


async def test_an_approval_counts_for_its_commit_and_a_branch_that_moved_on_is_not_merged(shop: Shop):
    head = await shop.push()
    number = (await shop.open()).number
    await shop.say(number, Verdict.APPROVED, head)
    newer = await shop.push("more.txt")
    info = await shop.info()
    assert (info.head, [r.commit for r in info.reviews]) == (newer, [head])
    with pytest.raises(Stale):
        await shop.forge.merge(shop.repository, number, head, "Greet")


async def test_a_rejected_commit_is_not_merged(shop: Shop):
    head = await shop.push()
    number = (await shop.open()).number
    await shop.say(number, Verdict.REJECTED, head, "no")
    with pytest.raises(Conflict) as refused:
        await shop.forge.merge(shop.repository, number, head, "Greet")
    assert refused.value.code == "rejected"


async def test_merging_twice_merges_once(shop: Shop):
    head = await shop.push()
    number = (await shop.open()).number
    merging = [shop.forge.merge(shop.repository, number, head, "Greet") for _ in range(3)]
    assert len(set(await asyncio.gather(*merging))) == 1
    assert len(git(shop.bare, "log", "--merges", "--format=%H", "main").split()) == 1


async def test_a_conflict_names_the_files_at_once(shop: Shop):
    head = await shop.push("same.txt", "mine\n")
    number = (await shop.open()).number
    other = await shop.push("same.txt", "theirs\n", branch="item/ET-008")
    there = await shop.open("item/ET-008")
    await shop.forge.merge(shop.repository, there.number, other, "First")
    with pytest.raises(Conflict, match=r"same\.txt") as refused:
        await shop.forge.merge(shop.repository, number, head, "Second")
    assert refused.value.code == "merge_conflict"


async def test_after_a_merge_the_branch_may_be_proposed_again(shop: Shop):
    head = await shop.push()
    await shop.forge.merge(shop.repository, (await shop.open()).number, head, "Greet")
    await shop.push("more.txt")
    second = await shop.open()
    assert (second.number, second.is_open) == (2, True)
    assert (await shop.info()).number == 2


async def test_a_commit_that_no_ci_knows_has_no_results(shop: Shop):
    head = await shop.push()
    status = await shop.forge.combined_status(shop.repository, head)
    assert (status.state, status.total) == (CIState.PENDING, 0)


async def test_a_work_tree_knows_no_way_out(shop: Shop):
    await shop.push()
    assert git(shop.work_tree(), "remote") == ""
    assert "http" not in (shop.work_tree() / ".git" / "config").read_text()
