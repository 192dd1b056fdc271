"""What the desk asks of a code host. `LocalForge` answers it today; a Gitea client will answer it too."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class CIState(StrEnum):
    """The combined state of a commit, in Gitea's words."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


class Verdict(StrEnum):
    """What a reviewer said."""

    APPROVED = "approved"
    REJECTED = "rejected"
    COMMENT = "comment"


@dataclass(frozen=True)
class CombinedStatus:
    """All CI results of one commit; `total` 0 means that no CI knows it."""

    commit: str
    state: CIState
    total: int
    summary: str = ""


@dataclass(frozen=True)
class ReviewInfo:
    """One review; it counts for the commit it was given on."""

    reviewer: str
    verdict: Verdict
    comment: str
    commit: str


@dataclass(frozen=True)
class PullRequestInfo:
    """A proposal to merge `branch` into `base`; `head` is the branch's newest commit."""

    number: int
    branch: str
    base: str
    head: str
    title: str
    is_open: bool
    is_merged: bool
    merged_commit: str | None
    reviews: tuple[ReviewInfo, ...] = ()


class Forge(Protocol):
    """A code host. Every method may raise `Unavailable` (down) or `Conflict` (refused)."""

    async def ensure_repository(self, repository: str, default_branch: str = "main") -> None:
        """Make the repository known (created empty with one commit where that is ours to do)."""
        ...

    async def checkout(self, repository: str, branch: str, base: str, folder: Path) -> str:
        """A clean work tree of `branch` in `folder` (the branch starts at `base` if it is new).

        Repeatable; leftovers of an earlier run are removed. Returns the head commit.
        """
        ...

    async def publish(self, repository: str, branch: str, folder: Path) -> str:
        """Push the commits of the work tree; returns the head. Uncommitted changes are committed first."""
        ...

    async def head(self, repository: str, branch: str) -> str | None:
        """The newest commit of a branch, or None if there is no such branch."""
        ...

    async def read_file(self, repository: str, branch: str, path: str) -> str | None:
        """A file's text on a branch, or None if it is not there (at most 1 MB)."""
        ...

    async def open_pull_request(
        self, repository: str, branch: str, base: str, title: str, body: str, author: str
    ) -> PullRequestInfo:
        """Open it, or return the one that is open already for this branch and base."""
        ...

    async def pull_request(self, repository: str, branch: str, base: str) -> PullRequestInfo | None:
        """The newest pull request of a branch into `base`, open or not; never one into another."""
        ...

    async def review(
        self, repository: str, number: int, reviewer: str, verdict: Verdict, comment: str, commit: str
    ) -> None:
        """Give a review on a commit; giving the same one again changes nothing."""
        ...

    async def combined_status(self, repository: str, commit: str) -> CombinedStatus:
        """What CI says of a commit."""
        ...

    async def merge(self, repository: str, number: int, head: str, title: str) -> str:
        """Merge at exactly `head`; returns the merge commit. Merged already = the same answer.

        Raises `Stale` if the branch moved on, `Conflict` if it cannot be merged.
        """
        ...
