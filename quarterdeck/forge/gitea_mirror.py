"""Our copy of a repository of Gitea, from which work trees are made and into which they publish.

Only we speak git to Gitea, from here: the token goes to git in its environment, as a header for exactly
that address, and stands in no file, no argument and no work tree. `refs/gitea/*` is what Gitea had when we
last looked; `refs/heads/*` are the branches that were given out.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from quarterdeck.forge.bare import Bare
from quarterdeck.forge.folders import locked, remove_tree
from quarterdeck.forge.git import Git, Output
from quarterdeck.forge.gitea_address import Place
from quarterdeck.forge.gitea_api import MEND
from quarterdeck.kernel import log
from quarterdeck.kernel.errors import (
    Conflict,
    Forbidden,
    Misconfigured,
    NotFound,
    QuarterdeckError,
    Unavailable,
)

FETCH_LIMIT = 1800.0
PUSH_LIMIT = 110.0
"""Seconds that git may speak to Gitea."""

THERE = "refs/gitea"
_GIVEN = "refs/given"
"""The heads at which work on a branch began."""

_PASSED_ON = (
    "http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "GIT_SSL_CAINFO", "SSL_CERT_FILE",
)  # fmt: skip
_REFS = (f"+refs/heads/*:{THERE}/*", "+refs/tags/*:refs/tags/*")


class Mirror:
    """One repository of Gitea, here. `base` is Gitea's address; any number of processes may share it."""

    def __init__(self, git: Git, folder: Path, base: str, token: str, place: Place) -> None:
        digest = hashlib.sha256(f"{base} {place.full_name.lower()}".encode()).hexdigest()[:12]
        path = folder / f"{place.name.lower()}-{digest}.git"
        self.bare = Bare(git, place.full_name, path)
        self._git = git
        self._address = f"{base}/{place.full_name}.git"
        self._base = base
        self._token = token

    async def fetch(self) -> None:
        """Look at what Gitea has now. Raises `Unavailable`, `Misconfigured`, `Forbidden`, `NotFound`."""
        path = self.bare.path
        async with locked(path.with_name(f"{path.name}.lock")):  # two at once would trip over git's own locks
            await self._make()
            order = ("fetch", "--quiet", "--prune", "--no-tags", self._address, *_REFS)
            async with self.bare.copied():
                answer = await self._remote(order, FETCH_LIMIT)
            if answer.code:
                raise refusal(answer)

    async def heads(self) -> dict[str, str]:
        """The branches that Gitea had when we last looked, each with its newest commit."""
        names = ("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", THERE)
        lines = (await self._git.run(*names, at=self.bare.path)).text.splitlines()
        return {branch: commit for branch, _, commit in (line.partition(" ") for line in lines)}

    async def give(self, branch: str, base: str, heads: Mapping[str, str]) -> None:
        """Let `branch` and `base` here be what they are in Gitea; what was not pushed is dropped."""
        here = {f"refs/heads/{name}": heads.get(name) for name in (branch, base)}
        await self._set(here | {f"{_GIVEN}/{branch}": heads.get(branch)})

    async def push(self, branch: str, head: str) -> None:
        """Move Gitea's branch to `head`, if it is still where the work began.

        Raises `Conflict` when somebody else moved it or Gitea does not take it.
        """
        start = await self.bare.commit(f"{_GIVEN}/{branch}") or ""
        ref = f"refs/heads/{branch}"
        order = ("push", "--quiet", f"--force-with-lease={ref}:{start}", self._address, f"{head}:{ref}")
        answer = await self._remote(order, PUSH_LIMIT)
        if answer.code == 0:
            await self._set({f"{_GIVEN}/{branch}": head})
            return
        if b"[rejected]" in answer.err:
            raise Conflict(
                f"Somebody else moved {branch} meanwhile.",
                "Check it out again and repeat the work on top of that.",
                code="branch_moved",
            )
        if b"[remote rejected]" in answer.err:
            raise Conflict(
                f"Gitea does not take {branch}: {answer.reason}.",
                "Mend what Gitea complains about, then publish again.",
                code="push_refused",
            )
        raise refusal(answer)

    async def _set(self, refs: Mapping[str, str | None]) -> None:
        """Each to its commit, or away; all of them or none."""
        lines = [f"update {ref} {commit}" if commit else f"delete {ref}" for ref, commit in refs.items()]
        told = "".join(f"{line}\n" for line in lines).encode()
        await self._git.run("update-ref", "--stdin", at=self.bare.path, stdin=told)

    async def _make(self) -> None:
        path = self.bare.path
        if (path / "HEAD").is_file():
            return
        draft = path.with_name(f".{path.name}.new")
        remove_tree(draft)
        draft.parent.mkdir(parents=True, exist_ok=True)
        await self._git.run("init", "--quiet", "--bare", "--template=", str(draft))
        draft.rename(path)

    async def _remote(self, order: Iterable[str], limit: float) -> Output:
        return await self._git.run(
            *order,
            at=self.bare.path,
            accept=range(256),
            limit_seconds=limit,
            environment=self._environment(),
        )

    def _environment(self) -> dict[str, str]:
        login = base64.b64encode(f"quarterdeck:{self._token}".encode()).decode()
        log.hide(login)
        settings = {
            f"http.{self._base}/.extraHeader": f"Authorization: Basic {login}",
            "http.followRedirects": "false",  # the header is meant for this address and no other
            "http.lowSpeedLimit": "1000",
            "http.lowSpeedTime": "30",
            "credential.helper": "",
        }
        told = {"GIT_ALLOW_PROTOCOL": "http:https", "GIT_CONFIG_COUNT": str(len(settings))}
        for number, (name, value) in enumerate(settings.items()):
            told |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | told


def refusal(answer: Output) -> QuarterdeckError:
    """What git's complaint about a remote means."""
    said = answer.err.decode(errors="replace")
    if "Authentication failed" in said or "could not read Username" in said or "error: 401" in said:
        return Misconfigured("Gitea does not know the token.", MEND, code="gitea_token")
    if "error: 403" in said:
        todo = "Let the token's user write to the repository, or unarchive it."
        return Forbidden(f"Gitea refused: {answer.reason}.", todo, code="gitea_forbidden")
    if "not found" in said.lower():
        todo = "Look whether it exists, and whether the token's user may see it."
        return NotFound(f"Gitea has no such repository: {answer.reason}.", todo, code="gitea_not_found")
    return Unavailable(
        f"git could not reach Gitea: {answer.reason}.", "It is tried again later.", code="gitea_unreachable"
    )
