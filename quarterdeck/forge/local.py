"""The local forge: bare repositories in a folder, pull requests and reviews in our tables, a CI of its own.

Git is the truth. A row is written after the branch it speaks of was moved; a crash between the two is
found by looking at git, and mended, by the next call that asks.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel

from quarterdeck.forge import rules, store
from quarterdeck.forge.bare import Bare, Repositories
from quarterdeck.forge.ci import CI
from quarterdeck.forge.git import Git
from quarterdeck.forge.model import CIRun, PullRequest, Review
from quarterdeck.forge.packing import Packed, pack_every
from quarterdeck.forge.protocol import CombinedStatus, PullRequestInfo, ReviewInfo, Verdict
from quarterdeck.forge.worktree import WorkTree
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, NotFound, Stale
from quarterdeck.kernel.idempotency import Request, once

_ATTEMPTS = 10
"""How often a merge is made anew because the base branch moved meanwhile."""


class Tested(BaseModel):
    """The commit whose tests run anew."""

    commit: str


class LocalForge:
    """A `Forge` without a server. `folder` belongs to it; any number of processes may share it."""

    def __init__(self, database: Database, folder: Path, *, git: Git | None = None) -> None:
        self._database = database
        self._repositories = Repositories(git or Git(folder / "gitconfig"), folder)
        self.ci = CI(database, self._repositories, folder / "ci")

    async def ensure_repository(self, repository: str, default_branch: str = "main") -> None:
        """Create an empty one with one commit, or copy the existing one that `repository` is the path of."""
        rules.branch_name(default_branch)
        if not self._repositories.exists(repository):
            async with self._database.command("create repository") as unit:
                await store.lock_repository(unit.session, rules.address(repository).name)
                if not self._repositories.exists(repository):
                    bare = await self._repositories.create(repository, default_branch)
                    await self._queue(unit, bare, await bare.head(default_branch))
        await self._repositories.find(repository).must_head(default_branch)

    async def checkout(self, repository: str, branch: str, base: str, folder: Path) -> str:
        bare = self._find(repository, branch, base)
        head = await bare.head(branch)
        start = head or await bare.must_head(base)
        if head is None:
            rules.check_room(branch, await bare.branches())
        return await WorkTree(bare, folder).refresh(branch, start, is_new=head is None)

    async def publish(self, repository: str, branch: str, folder: Path) -> str:
        bare = self._find(repository, branch)
        head = await WorkTree(bare, folder).publish(branch)
        async with self._database.command("queue CI") as unit:
            await self._queue(unit, bare, head)
        return head

    async def head(self, repository: str, branch: str) -> str | None:
        return await self._find(repository, branch).head(branch)

    async def read_file(self, repository: str, branch: str, path: str) -> str | None:
        """Text of a regular file. Raises `Conflict` if it is over 1 MB or no text."""
        bare = self._find(repository, branch)
        rules.file_path(path)
        head = await bare.head(branch)
        entry = (await bare.files(head, [path])).get(path) if head else None
        return await bare.text(path, entry) if entry else None

    async def open_pull_request(
        self, repository: str, branch: str, base: str, title: str, body: str, author: str
    ) -> PullRequestInfo:
        bare = self._find(repository, branch, base)
        await self.pull_request(repository, branch, base)  # one that is merged in git is not open any more
        async with self._database.command("open pull request") as unit:
            await store.lock_repository(unit.session, bare.name)
            row = await store.newest_pull_request(unit.session, bare.name, branch, base)
            if row is None or not row.is_open:
                row = PullRequest(
                    repository=bare.name,
                    number=await store.next_number(unit.session, bare.name),
                    branch=branch,
                    base=base,
                    title=rules.one_line(title),
                    body=body,
                    author=author,
                    created_at=unit.now,
                )
                await _must_add_something(bare, branch, base)
                unit.session.add(row)
        return await self._info(bare, row)

    async def pull_request(self, repository: str, branch: str, base: str) -> PullRequestInfo | None:
        bare = self._find(repository, branch, base)
        async with self._database.read() as session:
            row = await store.newest_pull_request(session, bare.name, branch, base)
        if row is None:
            return None
        if row.is_open and await self._has_ended(bare, row):
            row = await self._settle(bare, row.number)
        return await self._info(bare, row)

    async def review(
        self, repository: str, number: int, reviewer: str, verdict: Verdict, comment: str, commit: str
    ) -> None:
        """Raises `Conflict` if the author votes on the own work, `NotFound` for an unknown commit."""
        bare = self._find(repository)
        if await bare.commit(rules.commit_id(commit)) is None:
            raise _unknown(bare, commit, "Review the branch's head.")
        async with self._database.command("review pull request") as unit:
            row = await self._locked(unit, bare, number)
            rules.check_review(row.author, reviewer, verdict)
            await store.put_review(
                unit.session,
                Review(
                    pull_request_id=row.id,
                    reviewer=reviewer,
                    verdict=verdict,
                    comment=comment,
                    commit=commit,
                    created_at=unit.now,
                ),
            )

    async def combined_status(self, repository: str, commit: str) -> CombinedStatus:
        """CI of a commit that was pushed by hand, or before a crash, is queued by the first to ask."""
        bare = self._find(repository)
        rules.commit_id(commit)
        runs = await self._runs(bare, commit)
        if not runs and await bare.commit(commit):
            async with self._database.command("queue CI") as unit:
                await self._queue(unit, bare, commit)
            runs = await self._runs(bare, commit)
        return CombinedStatus(
            commit=commit,
            state=rules.combined(run.state for run in runs),
            total=len(runs),
            summary=rules.summary([(run.context, run.summary or run.state.value) for run in runs]),
        )

    async def test_again(
        self, repository: str, what: str, by: str, item: str | None = None, asked: Request | None = None
    ) -> str:
        """Run the tests of a commit, or of a branch's newest one, anew, whatever came of them; the commit.

        When it was `asked` before, nothing changes. Raises `NotFound`, and `Conflict` when the commit names
        no tests that could be run.
        """
        async with self._database.command("run CI again") as unit:
            tested = await once(
                unit, asked, Tested, lambda: self._test_again(unit, repository, what, by, item)
            )
        return tested.commit

    async def _test_again(self, unit: Unit, repository: str, what: str, by: str, item: str | None) -> Tested:
        bare = self._find(repository, what)
        commit = await (bare.commit(what) if rules.is_commit_id(what) else bare.must_head(what))
        if commit is None:
            raise _unknown(bare, what, "Name a branch, or a commit that was pushed.")
        planned = await self.ci.plan(bare, commit)
        if planned is None or not planned.command:
            raise _untestable(commit, planned)
        await self.ci.again(unit, planned, by, item)
        return Tested(commit=commit)

    async def merge(self, repository: str, number: int, head: str, title: str) -> str:
        bare = self._find(repository)
        rules.commit_id(head)
        async with self._database.command("merge pull request") as unit:
            row = await self._locked(unit, bare, number)
            if row.merged_commit is None:
                await self._close(unit, bare, row, await self._merged(unit, bare, row, head, title))
        assert row.merged_commit is not None
        if head not in (row.merged_commit, await bare.merged_head(row.merged_commit)):
            raise Stale(
                f"Pull request {number} was merged already, at another commit than {head[:10]}.",
                "Read it again.",
                code="merged_elsewhere",
            )
        return row.merged_commit

    async def pack(self) -> Packed:
        """Upkeep: pack the repositories in which much lies loose."""
        return await pack_every(self._repositories.every())

    async def _merged(self, unit: Unit, bare: Bare, row: PullRequest, head: str, title: str) -> str:
        """The merge commit of `head`: the one that git has already, else a new one."""
        for _ in range(_ATTEMPTS):
            base, current = await bare.must_head(row.base), await bare.head(row.branch)
            if current == head and (done := await _merge_in_git(bare, base, head)):
                return done
            reviews = await store.reviews(unit.session, row.id)
            rules.check_merge(row.number, row.is_open, current, head, _said(reviews))
            message = f"{rules.one_line(title)}\n\nMerges pull request {row.number}, {row.branch} at {head}."
            commit = await bare.merge(base, head, message)
            if await bare.move(row.base, commit, base, f"merge pull request {row.number}"):
                return commit
        raise Conflict(
            f"{row.base} moves faster than it can be merged into.", "Try again.", code="base_moves"
        )

    async def _close(self, unit: Unit, bare: Bare, row: PullRequest, merged: str | None) -> None:
        row.is_open, row.merged_commit, row.closed_at = False, merged, unit.now
        await self._queue(unit, bare, merged)

    async def _has_ended(self, bare: Bare, row: PullRequest) -> bool:
        head, base = await bare.head(row.branch), await bare.head(row.base)
        return head is None or base is None or await bare.merge_of(base, head) is not None

    async def _settle(self, bare: Bare, number: int) -> PullRequest:
        """Write down what git knows already: that it was merged, or that its branch is gone."""
        async with self._database.command("settle pull request") as unit:
            row = await self._locked(unit, bare, number)
            if row.is_open and await self._has_ended(bare, row):
                head, base = await bare.head(row.branch), await bare.head(row.base)
                merged = await bare.merge_of(base, head) if base and head else None
                await self._close(unit, bare, row, merged)
        return row

    async def _queue(self, unit: Unit, bare: Bare, commit: str | None) -> None:
        await self.ci.queue(unit, await self.ci.plan(bare, commit) if commit else None)

    async def _runs(self, bare: Bare, commit: str) -> list[CIRun]:
        async with self._database.read() as session:
            return list(await store.ci_runs(session, bare.name, commit))

    async def _locked(self, unit: Unit, bare: Bare, number: int) -> PullRequest:
        if row := await store.pull_request(unit.session, bare.name, number, lock=True):
            return row
        known = await store.numbers(unit.session, bare.name)
        raise NotFound.among("pull request", str(number), map(str, known))

    async def _info(self, bare: Bare, row: PullRequest) -> PullRequestInfo:
        merged = row.merged_commit
        head = await (bare.merged_head(merged) if merged else bare.head(row.branch))
        async with self._database.read() as session:
            reviews = await store.reviews(session, row.id)
        return PullRequestInfo(
            number=row.number,
            branch=row.branch,
            base=row.base,
            head=head or "",
            title=row.title,
            is_open=row.is_open,
            is_merged=merged is not None,
            merged_commit=merged,
            reviews=_said(reviews),
        )

    def _find(self, repository: str, *branches: str) -> Bare:
        for branch in branches:
            rules.branch_name(branch)
        return self._repositories.find(repository)


async def _merge_in_git(bare: Bare, base: str, head: str) -> str | None:
    """How `base` came to contain `head`, if it does: a merge commit, or `head` itself (fast forward)."""
    return await bare.merge_of(base, head) or (head if await bare.contains(base, head) else None)


async def _must_add_something(bare: Bare, branch: str, base: str) -> None:
    head = await bare.must_head(branch)
    if await bare.contains(await bare.must_head(base), head):
        raise Conflict(
            f"{branch} has nothing that {base} lacks.",
            "Commit the work on the branch and publish it first.",
            code="nothing_to_merge",
        )


def _unknown(bare: Bare, commit: str, todo: str) -> NotFound:
    return NotFound(f"{bare.name} has no commit {commit}.", todo, code="unknown_commit")


def _untestable(commit: str, planned: CIRun | None) -> Conflict:
    why = planned.summary if planned else f"{commit[:10]} names no tests."
    return Conflict(why, "Mend it in a new commit: that one is tested.", code="no_tests")


def _said(reviews: Iterable[Review]) -> tuple[ReviewInfo, ...]:
    return tuple(ReviewInfo(r.reviewer, r.verdict, r.comment, r.commit) for r in reviews)
