"""Bare repositories: the truth of the local forge. Branches move by compare-and-set, never by hand-over."""

import fcntl
import hashlib
import tempfile
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from quarterdeck.forge.folders import locked, remove_tree
from quarterdeck.forge.git import DESK, Git, Output, failed
from quarterdeck.forge.rules import FILE_LIMIT, Address, SourceFile, address
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound, Unavailable

_CLONE_LIMIT = 1800.0  # seconds; once per imported repository
_USAGE = 129  # git's exit code for an option it does not know


@dataclass(frozen=True)
class Entry:
    """A file of a commit; `size` in bytes."""

    blob: str
    size: int
    executable: bool


class Bare:
    """One bare repository. `name` is what tables and events call it."""

    def __init__(self, git: Git, name: str, path: Path) -> None:
        self.git = git
        self.name = name
        self.path = path

    async def head(self, branch: str) -> str | None:
        """The newest commit of a branch."""
        return await self.commit(f"refs/heads/{branch}")

    async def commit(self, revision: str) -> str | None:
        """The id of the commit that a revision names, if there is one."""
        names = ("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        return (await self.git.run(*names, at=self.path, accept=(0, 1))).text or None

    async def branches(self) -> list[str]:
        answer = await self.git.run(
            "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads", at=self.path
        )
        return answer.text.splitlines()

    async def must_head(self, branch: str) -> str:
        """The newest commit of a branch. Raises `NotFound` naming the branches there are."""
        if head := await self.head(branch):
            return head
        raise NotFound.among("branch", branch, await self.branches())

    async def contains(self, newer: str, older: str) -> bool:
        """Whether `older` is `newer` or one of its ancestors."""
        question = ("merge-base", "--is-ancestor", older, newer)
        return (await self.git.run(*question, at=self.path, accept=(0, 1))).code == 0

    async def move(self, branch: str, new: str, old: str, why: str) -> bool:
        """Set a branch to `new` if it is still at `old`; False if somebody else moved it."""
        order = ("update-ref", "-m", why, f"refs/heads/{branch}", new, old)
        answer = await self.git.run(*order, at=self.path, accept=(0, 1, 128))
        if answer.code == 0:
            return True
        if await self.head(branch) == old:
            raise failed("update-ref", answer)
        return False

    def copied(self) -> AbstractAsyncContextManager[None]:
        """While its files are copied, or packs put there, nobody packs: what is moved would be missed."""
        return locked(self._packing, fcntl.LOCK_SH)

    def packed(self) -> AbstractAsyncContextManager[None]:
        """Nobody copies its files meanwhile."""
        return locked(self._packing)

    @property
    def _packing(self) -> Path:
        return self.path / "quarterdeck.lock"

    async def files(self, commit: str, paths: Iterable[str]) -> dict[str, Entry]:
        """Which of these paths are files of the commit; links, folders and submodules are not."""
        tree = await self.git.run("ls-tree", "-z", "-l", "--full-tree", commit, "--", *paths, at=self.path)
        found = {}
        for line in tree.names:
            facts, _, path = line.partition("\t")
            mode, kind, blob, size = facts.split()
            if kind == "blob" and mode.startswith("100"):
                found[path] = Entry(blob, int(size), mode == "100755")
        return found

    async def text(self, path: str, entry: Entry) -> str:
        """A file's text; bytes that are not UTF-8 are marked. Raises `Conflict` if it is no text."""
        if entry.size > FILE_LIMIT:
            raise Conflict(
                f"{path} is too large: {entry.size:,} bytes, the limit is {FILE_LIMIT:,}.",
                "Make it smaller.",
                code="file_too_large",
            )
        content = (await self.git.run("cat-file", "blob", entry.blob, at=self.path)).out
        if b"\0" in content:
            raise Conflict(f"{path} is not a text.", "Write it as UTF-8 text.", code="file_not_text")
        return content.decode(errors="replace")

    async def sources(self, commit: str, paths: Iterable[str]) -> dict[str, SourceFile]:
        """The texts of those paths that are files of the commit."""
        found = await self.files(commit, paths)
        return {p: SourceFile(await self.text(p, entry), entry.executable) for p, entry in found.items()}

    async def merge_of(self, base: str, head: str) -> str | None:
        """The commit on `base` that merged exactly `head`, if it was merged."""
        history = ("log", "--first-parent", "--merges", "--format=%H %P", base, f"^{head}", "--")
        for line in (await self.git.run(*history, at=self.path)).text.splitlines():
            merge, *parents = line.split()
            if head in parents[1:]:
                return merge
        return None

    async def merged_head(self, merge: str) -> str | None:
        """The commit that a merge brought in; the commit itself if it was no merge."""
        return await self.commit(f"{merge}^2") or merge

    async def merge(self, base: str, head: str, message: str) -> str:
        """A commit that merges `head` into `base`; no branch moves. Raises `Conflict` naming the files."""
        tree = await self._merged_tree(base, head)
        order = ("commit-tree", tree, "-p", base, "-p", head, "-m", message)
        return (await self.git.run(*order, at=self.path)).text

    async def _merged_tree(self, base: str, head: str) -> str:
        if (await self.git.run("merge-base", base, head, at=self.path, accept=(0, 1))).code:
            raise Conflict(
                f"{head[:10]} cannot be merged: it has no history in common with {base[:10]}.",
                "Merge the base branch into this branch with --allow-unrelated-histories, push.",
                code="unrelated_histories",
            )
        order = ("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", base, head)
        answer = await self.git.run(*order, at=self.path, accept=(0, 1, _USAGE))
        if answer.code == _USAGE:  # before git 2.38
            return await self._merged_in_work_tree(base, head)
        tree, *files = answer.names
        if answer.code == 1:
            raise _conflicting(files)
        return tree.strip()

    async def _merged_in_work_tree(self, base: str, head: str) -> str:
        with tempfile.TemporaryDirectory(prefix="quarterdeck-merge-") as folder:
            tree = Path(folder) / "tree"
            await self.git.run("worktree", "add", "--detach", str(tree), base, at=self.path)
            try:
                return await self._tree_after_merge(tree, head)
            finally:
                await self.git.run("worktree", "remove", "--force", str(tree), at=self.path)

    async def _tree_after_merge(self, tree: Path, head: str) -> str:
        at = Path((tree / ".git").read_text().removeprefix("gitdir:").strip())

        async def run(*arguments: str, accept: tuple[int, ...] = (0,)) -> Output:
            return await self.git.run(*arguments, at=at, tree=tree, accept=accept)

        answer = await run("merge", "--no-ff", "--no-commit", head, accept=(0, 1))
        if answer.code == 0:
            return (await run("write-tree")).text
        files = (await run("diff", "--name-only", "--diff-filter=U", "-z")).names
        raise _conflicting(files) if files else failed("merge", answer)


def _conflicting(files: Iterable[str]) -> Conflict:
    names = sorted(set(files))
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return Conflict(
        f"It cannot be merged: both sides changed {shown}.",
        "Merge the base branch into this branch, settle the conflict, push.",
        code="merge_conflict",
        files=names,
    )


class Repositories:
    """All repositories of the forge: `<folder>/<name>.git`, imported ones in `<folder>/imported/`."""

    def __init__(self, git: Git, folder: Path) -> None:
        self._git = git
        self.folder = folder

    def find(self, repository: str) -> Bare:
        """Raises `NotFound` naming what there is, `Invalid` if it cannot be a name at all."""
        place = address(repository)
        path = self._path(place)
        if not (path / "HEAD").is_file():
            raise NotFound.among("repository", place.name, [p.stem for p in self.folder.glob("*.git")])
        return Bare(self._git, place.name, path)

    def exists(self, repository: str) -> bool:
        return (self._path(address(repository)) / "HEAD").is_file()

    async def create(self, repository: str, default_branch: str) -> Bare:
        """Make it: a copy of the branches and tags of its source, else empty with one commit.

        Two at once must be kept apart by the caller; a half-made one is made anew.
        """
        place = address(repository)
        path = self._path(place)
        draft = path.with_name(f".{path.name}.new")
        remove_tree(draft)
        draft.parent.mkdir(parents=True, exist_ok=True)
        bare = Bare(self._git, place.name, draft)
        if place.source:
            await self._import(Path(place.source), draft)
            await self._git.run("symbolic-ref", "HEAD", f"refs/heads/{default_branch}", at=draft)
        else:
            head = f"--initial-branch={default_branch}"
            await self._git.run("init", "--quiet", "--bare", "--template=", head, str(draft))
        if not (place.source and await bare.branches()):
            await self._first_commit(bare, default_branch)
        draft.rename(path)
        return Bare(self._git, place.name, path)

    async def _import(self, source: Path, draft: Path) -> None:
        # Not --mirror: that would also copy the stash and remote-tracking branches of somebody's work tree.
        order = ("clone", "--quiet", "--bare", "--no-hardlinks", "--template=", str(source), str(draft))
        try:
            await self._git.run(*order, limit_seconds=_CLONE_LIMIT)
        except Unavailable as error:
            if error.code == "disk_full":
                raise
            raise Invalid(
                f"{source} cannot be copied as a repository. {error.detail}",
                "Give the path of a git repository that this user can read.",
                field="repository",
            ) from error
        await self._git.run("config", "--remove-section", "remote.origin", at=draft)

    async def _first_commit(self, bare: Bare, branch: str) -> None:
        tree = (await self._git.run("hash-object", "-w", "-t", "tree", "--stdin", at=bare.path)).text
        order = ("commit-tree", tree, "-m", "Begin the repository")
        commit = (await self._git.run(*order, at=bare.path, identity=DESK)).text
        await self._git.run("update-ref", f"refs/heads/{branch}", commit, at=bare.path)

    def every(self) -> list[Bare]:
        """Those that there are, imported ones too."""
        paths = [*self.folder.glob("*.git"), *self.folder.glob("imported/*.git")]
        return [Bare(self._git, path.stem, path) for path in paths if (path / "HEAD").is_file()]

    def _path(self, place: Address) -> Path:
        if place.source is None:
            return self.folder / f"{place.name}.git"
        digest = hashlib.sha256(place.name.encode()).hexdigest()[:12]
        return self.folder / "imported" / f"{place.source.name}-{digest}.git"
