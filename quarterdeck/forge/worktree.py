"""Work trees: folders in which agents and tests work on a commit.

What git reads from such a folder may have been changed by whoever worked there. So its configuration is
written anew before git is used in it, a folder in an unusual state is made anew, and it knows no remote:
commits leave it only through `publish`.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from quarterdeck.forge.bare import Bare
from quarterdeck.forge.folders import remove_tree
from quarterdeck.forge.git import DESK, Output
from quarterdeck.kernel import disk
from quarterdeck.kernel.errors import Conflict, Unavailable

_START = "refs/quarterdeck/start"
"""The branch's head when the work began; missing = the branch was new."""

_FOREIGN = ("commondir", "info/grafts", "objects/info/alternates")
"""Files with which the folder would speak for another repository, or lie about history."""

_UNFINISHED = ("rebase-merge", "rebase-apply", "sequencer", "worktrees", "info/sparse-checkout", "shallow")
"""Files that a forced checkout does not take away."""


class WorkTree:
    """A folder with a clone of `bare`."""

    def __init__(self, bare: Bare, folder: Path) -> None:
        self.bare = bare
        self.folder = folder
        self._at = folder / ".git"

    async def refresh(self, branch: str, start: str, *, is_new: bool) -> str:
        """The branch at `start`, without anything of earlier work; keeps the clone if it is sound."""
        try:
            if self._is_sound() and not self._has(_UNFINISHED):
                return await self._reset(branch, start, is_new=is_new)
        except (Unavailable, OSError):
            pass  # half-made or broken: what is wrong with it does not matter, a new one is cheap
        await self.make()
        return await self._reset(branch, start, is_new=is_new)

    async def make(self, commit: str | None = None) -> None:
        """A new clone in place of whatever is there; with `commit` at that, for as long as a test takes."""
        draft = self.folder.with_name(f".{self.folder.name}.new")
        remove_tree(draft)
        draft.parent.mkdir(parents=True, exist_ok=True)
        order = ["clone", "--quiet", "--no-checkout", "--template=", str(self.bare.path), str(draft)]
        if commit:
            order.insert(1, "--shared")  # it reads the repository's objects where they are, however many
        async with self.bare.copied():
            await self.bare.git.run(*order)
        remove_tree(self.folder)
        draft.rename(self.folder)
        self._configure()
        if commit:
            await self._git("checkout", "--quiet", "--force", "--detach", commit)

    async def publish(self, branch: str) -> str:
        """Move the forge's branch to what was made here.

        Raises `Conflict` if that loses anybody's work, or git cannot use what is left of the repository.
        """
        self._prepare()
        await self._commit_leftovers(branch)
        head = await self._head()
        start = (await self._ask("rev-parse", "--verify", "--quiet", _START, accept=(0, 1))).text
        if await self.bare.head(branch) != head:
            await self._must_follow(branch, start, head)
            await self._push(branch, start, head)
        await self._ask("update-ref", _START, head)
        return head

    def _prepare(self) -> None:
        try:
            self._must_be_sound()
            self._configure()
        except OSError as error:
            if disk.is_full(error):
                raise disk.full(self.folder) from error
            raise _unusable(str(error)) from error

    async def _head(self) -> str:
        answer = await self._ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}", accept=(0, 1))
        if answer.code:
            raise _unusable("HEAD names no commit")
        return answer.text

    async def _reset(self, branch: str, start: str, *, is_new: bool) -> str:
        self._configure()
        refs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        await self._git("fetch", "--quiet", "--prune", "--no-tags", str(self.bare.path), *refs)
        await self._git("checkout", "--quiet", "--force", "--no-track", "-B", branch, start)
        await self._git("reset", "--quiet", "--hard", start)
        await self._git("clean", "--quiet", "-ffdx")
        await self._git("update-ref", *(("-d", _START) if is_new else (_START, start)))
        return start

    async def _commit_leftovers(self, branch: str) -> None:
        entries = (await self._ask("ls-files", "--unmerged", "-z")).names
        if entries:
            unmerged = sorted({entry.partition("\t")[2] for entry in entries})
            raise Conflict(
                f"A merge was left unfinished: {', '.join(unmerged[:10])}.",
                "Settle the conflict and commit.",
                code="unfinished_merge",
            )
        await self._commit("add", "--all")
        if (await self._ask("diff", "--cached", "--quiet", accept=(0, 1))).code == 1:
            message = f"{branch}: keep what was left uncommitted"
            await self._commit("commit", "--quiet", "--no-verify", "-m", message)

    async def _commit(self, *arguments: str) -> None:
        answer = await self._git(*arguments, accept=range(256))
        if answer.code:
            raise Conflict(
                f"The changes cannot be committed: {answer.reason}.",
                "Remove or mend what git complains about.",
                code="cannot_commit",
            )

    async def _must_follow(self, branch: str, start: str, head: str) -> None:
        follows = ("merge-base", "--is-ancestor", start, head)
        if start and (await self._ask(*follows, accept=(0, 1))).code:
            raise Conflict(
                f"Commits that {branch} has already are missing here: its history was rewritten.",
                "Add commits on top of the published ones; merge instead of rebasing.",
                code="history_rewritten",
            )

    async def _push(self, branch: str, start: str, head: str) -> None:
        ref = f"refs/heads/{branch}"
        order = ("push", "--quiet", f"--force-with-lease={ref}:{start}", str(self.bare.path), f"{head}:{ref}")
        answer = await self._git(*order, accept=range(256))
        if answer.code == 0:
            return
        current = await self.bare.head(branch) or ""
        if current != start:
            raise _moved(branch, current)
        raise Conflict(
            f"The forge does not take {branch}: {answer.reason}.",
            "Mend what git complains about, then publish again.",
            code="push_refused",
        )

    async def _ask(self, *arguments: str, accept: Collection[int] = (0,)) -> Output:
        """What git answers in a folder that somebody may have broken: tried again, it would say the same."""
        answer = await self._git(*arguments, accept=range(256))
        if answer.code not in accept:
            raise _unusable(answer.reason)
        return answer

    async def _git(self, *arguments: str, accept: Iterable[int] = (0,)) -> Output:
        return await self.bare.git.run(
            *arguments, at=self._at, tree=self.folder, identity=DESK, accept=tuple(accept)
        )

    def _configure(self) -> None:
        text = (self.bare.path / "config").read_text(encoding="utf-8").replace("bare = true", "bare = false")
        remove_tree(self._at / "config")
        (self._at / "config").write_text(
            f"{text}[user]\n\tname = {DESK.name}\n\temail = {DESK.email}\n", encoding="utf-8"
        )
        for lock in [*self._at.glob("*.lock"), *(self._at / "refs").rglob("*.lock")]:
            lock.unlink()  # of a git that was killed; nobody works here now

    def _is_sound(self) -> bool:
        return (
            self._at.is_dir()
            and not any(p.is_symlink() for p in (self.folder, self._at))
            and not self._has(_FOREIGN)
        )

    def _has(self, names: Iterable[str]) -> bool:
        return any((self._at / name).exists() for name in names)

    def _must_be_sound(self) -> None:
        if not self._is_sound():
            raise Conflict(
                f"{self.folder} is not the work tree that was given out.",
                "Check it out again; what was not published from it is lost.",
                code="work_tree_broken",
            )


def _unusable(why: str) -> Conflict:
    return Conflict(
        f"The repository in the work tree cannot be used any more: {why}.",
        "Leave .git alone but through git, and leave the work committed on the branch that was given.",
        code="work_tree_broken",
    )


def _moved(branch: str, current: str) -> Conflict:
    where = f"it is at {current[:10]} now" if current else "it is gone"
    return Conflict(
        f"Somebody else moved {branch} meanwhile: {where}.",
        "Check it out again and repeat the work on top of that.",
        code="branch_moved",
    )
