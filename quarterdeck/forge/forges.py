"""One forge out of two: each repository is asked for where it lives."""

from pathlib import Path

from quarterdeck.forge.ci import CI
from quarterdeck.forge.gitea import GiteaForge
from quarterdeck.forge.local import LocalForge
from quarterdeck.forge.packing import Packed
from quarterdeck.forge.protocol import CombinedStatus, Forge, PullRequestInfo, Verdict
from quarterdeck.forge.rules import address
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.idempotency import Request


class Forges:
    """A `Forge`: what `gitea:owner/name` or an address in Gitea names is there, everything else is local."""

    def __init__(self, local: LocalForge, gitea: GiteaForge) -> None:
        self._local = local
        self.gitea = gitea

    @property
    def ci(self) -> CI:
        """The CI of the local forge; Gitea brings its own."""
        return self._local.ci

    async def test_again(
        self, repository: str, what: str, by: str, item: str | None = None, asked: Request | None = None
    ) -> str:
        """See `LocalForge.test_again`. Raises `Conflict` for what is tested in Gitea."""
        if await self.gitea.place(repository) is not None:
            raise Conflict(
                f"{repository} is tested in Gitea.", "Run its tests again there.", code="tested_elsewhere"
            )
        return await self._local.test_again(repository, what, by, item, asked)

    async def close(self) -> None:
        await self.gitea.close()

    async def pack(self) -> Packed:
        """Upkeep: pack the repositories, and copies of Gitea's, in which much lies loose."""
        return await self._local.pack() + await self.gitea.pack()

    async def has_people(self, repository: str) -> bool:
        """Can people review there? The local forge knows reviews of agents alone."""
        return await self.gitea.place(repository) is not None

    async def check(self, repository: str) -> None:
        """Could a project live there? Raises `Invalid` for what is no address, `Conflict` without a Gitea."""
        if await self.gitea.place(repository) is None:
            address(repository)
        elif not await self.gitea.is_connected():
            raise Conflict(
                "No Gitea is connected.",
                "Fill the block `Quarterdeck Gitea`, or set GITEA_URL and GITEA_TOKEN; then try again.",
                code="gitea_not_connected",
            )

    async def _of(self, repository: str) -> Forge:
        return self._local if await self.gitea.place(repository) is None else self.gitea

    async def ensure_repository(self, repository: str, default_branch: str = "main") -> None:
        await (await self._of(repository)).ensure_repository(repository, default_branch)

    async def checkout(self, repository: str, branch: str, base: str, folder: Path) -> str:
        return await (await self._of(repository)).checkout(repository, branch, base, folder)

    async def publish(self, repository: str, branch: str, folder: Path) -> str:
        return await (await self._of(repository)).publish(repository, branch, folder)

    async def head(self, repository: str, branch: str) -> str | None:
        return await (await self._of(repository)).head(repository, branch)

    async def read_file(self, repository: str, branch: str, path: str) -> str | None:
        return await (await self._of(repository)).read_file(repository, branch, path)

    async def open_pull_request(
        self, repository: str, branch: str, base: str, title: str, body: str, author: str
    ) -> PullRequestInfo:
        forge = await self._of(repository)
        return await forge.open_pull_request(repository, branch, base, title, body, author)

    async def pull_request(self, repository: str, branch: str, base: str) -> PullRequestInfo | None:
        return await (await self._of(repository)).pull_request(repository, branch, base)

    async def review(
        self, repository: str, number: int, reviewer: str, verdict: Verdict, comment: str, commit: str
    ) -> None:
        forge = await self._of(repository)
        await forge.review(repository, number, reviewer, verdict, comment, commit)

    async def combined_status(self, repository: str, commit: str) -> CombinedStatus:
        return await (await self._of(repository)).combined_status(repository, commit)

    async def merge(self, repository: str, number: int, head: str, title: str) -> str:
        return await (await self._of(repository)).merge(repository, number, head, title)
