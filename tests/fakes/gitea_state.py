"""What the fake Gitea keeps: repositories (real bare ones), pull requests, reviews, statuses, hooks."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

ids = count(101)
ZERO = "0" * 40

_WHO = {
    "GIT_AUTHOR_NAME": "Gitea",
    "GIT_AUTHOR_EMAIL": "gitea@noreply.localhost",
    "GIT_COMMITTER_NAME": "Gitea",
    "GIT_COMMITTER_EMAIL": "gitea@noreply.localhost",
}
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    **_WHO,
}


class Refused(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


async def git(at: Path, *arguments: str, stdin: bytes = b"", accept: tuple[int, ...] = (0,)) -> str:
    """What git prints there."""
    process = await asyncio.create_subprocess_exec(
        "git", *arguments, cwd=at, env=ENVIRONMENT, stdin=-1, stdout=-1, stderr=-1
    )
    out, err = await process.communicate(stdin)
    if process.returncode not in accept:
        raise AssertionError(f"git {arguments}: {err.decode()}")
    return out.decode(errors="replace").strip()


@dataclass
class Status:
    """One result of one CI for a commit; the list shows its value as `status`."""

    sha: str
    state: str
    context: str
    description: str
    target_url: str = ""
    id: int = field(default_factory=lambda: next(ids))
    at: str = field(default_factory=now)


@dataclass
class Run:
    """A workflow run."""

    sha: str
    branch: str
    status: str
    conclusion: str
    path: str
    number: int
    id: int = field(default_factory=lambda: next(ids))


@dataclass
class Review:
    """A review; `commit` is what it was given on."""

    user: str
    state: str
    body: str
    commit: str
    official: bool
    dismissed: bool = False
    id: int = field(default_factory=lambda: next(ids))
    at: str = field(default_factory=now)


@dataclass
class Pull:
    """A pull request. `computing`: how often a merge is still answered "Please try again later"."""

    number: int
    branch: str
    head_repo: "Repo"
    base: str
    title: str
    body: str
    user: str
    head: str
    state: str = "open"
    merged: bool = False
    merge_commit: str | None = None
    draft: bool = False
    computing: int = 0
    reviews: list[Review] = field(default_factory=list)
    at: str = field(default_factory=now)
    merging: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    """Held by whoever merges it, so that it is merged once."""


@dataclass
class Hook:
    """A hook of a repository, with whatever secret it was made with."""

    url: str
    secret: str
    content_type: str
    events: list[str]
    active: bool
    id: int = field(default_factory=lambda: next(ids))


@dataclass
class Repo:
    """A repository. `protected`: branch -> how many official approvals a merge into it needs.

    `has_actions`: does it have that unit, or is its CI elsewhere? `styles`: how it may be merged, the usual
    way first.
    """

    owner: str
    name: str
    path: Path
    default_branch: str = "main"
    archived: bool = False
    has_actions: bool = True
    styles: tuple[str, ...] = ("merge", "rebase", "rebase-merge", "squash", "fast-forward-only")
    fork_of: "Repo | None" = None
    protected: dict[str, int] = field(default_factory=dict)
    writers: set[str] = field(default_factory=set)
    pulls: list[Pull] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    hooks: list[Hook] = field(default_factory=list)
    id: int = field(default_factory=lambda: next(ids))

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    async def git(self, *arguments: str, stdin: bytes = b"", accept: tuple[int, ...] = (0,)) -> str:
        return await git(self.path, *arguments, stdin=stdin, accept=accept)

    def head(self, branch: str) -> str | None:
        return self.branches().get(branch)

    async def commit(self, revision: str) -> str | None:
        if head := self.head(revision):
            return head
        names = ("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        return await self.git(*names, accept=(0, 1, 128)) or None

    def branches(self) -> dict[str, str]:
        """Branch -> newest commit. Read as git keeps it: nothing here packs references."""
        heads = self.path / "refs" / "heads"
        found = (place for place in sorted(heads.rglob("*")) if place.is_file() and place.suffix != ".lock")
        return {str(place.relative_to(heads)): place.read_text().strip() for place in found}

    async def write(
        self, branch: str, files: Mapping[str, str], message: str, parents: list[str] | None = None
    ) -> str:
        """A commit that adds files, made by hand; `parents` other than the head rewrite history."""
        head = self.head(branch)
        parents = ([head] if head else []) if parents is None else parents
        told = _told(branch, files, message, parents)
        return await self.git("fast-import", "--quiet", "--force", "--date-format=now", stdin=told)

    async def merge(self, pull: Pull, title: str, style: str = "merge") -> str | None:
        """The merge commit, or None if both sides changed the same."""
        base = self.head(pull.base)
        await self.git("fetch", "--quiet", str(pull.head_repo.path), pull.head)
        order = ("merge-tree", "--write-tree", "--name-only", str(base), pull.head)
        said = await self.git(*order, accept=(0, 1))
        tree, *rest = said.splitlines()
        if rest:
            return None
        message = f"{title}\n\nReviewed-on: {self.full_name}/pulls/{pull.number}"
        parents = [str(base)] if style == "squash" else [str(base), pull.head]
        ties = [word for parent in parents for word in ("-p", parent)]
        commit = await self.git("commit-tree", tree, *ties, "-m", message)
        await self.git("update-ref", f"refs/heads/{pull.base}", commit)
        return commit

    def pull(self, number: int) -> Pull:
        for pull in self.pulls:
            if pull.number == number:
                return pull
        raise Refused(404, "pull request does not exist")


def _told(branch: str, files: Mapping[str, str], message: str, parents: list[str]) -> bytes:
    """A commit in git-fast-import's words; it answers with the commit's id."""
    ties = [f"{word} {parent}" for word, parent in zip(("from", "merge"), parents, strict=False)]
    begin = [f"commit refs/heads/{branch}", "mark :1", "committer Gitea <gitea@noreply.localhost> now"]
    told = [line.encode() for line in (*begin, f"data {len(message.encode())}", message, *ties)]
    for path, text in files.items():
        mode, content = "100755" if text.startswith("#!") else "100644", text.encode()
        told += [f"M {mode} inline {path}\ndata {len(content)}".encode(), content]
    return b"\n".join([*told, b"get-mark :1", b"done\n"])
