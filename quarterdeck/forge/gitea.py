"""Gitea as a forge: facts over its REST API, commits over git, through a copy of our own."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from quarterdeck.forge import gitea_answers as answers
from quarterdeck.forge import rules
from quarterdeck.forge.bare import Repositories
from quarterdeck.forge.git import Git
from quarterdeck.forge.gitea_address import Place
from quarterdeck.forge.gitea_address import place as place_of
from quarterdeck.forge.gitea_api import MEND, Answer, GiteaApi, refusal
from quarterdeck.forge.gitea_mirror import Mirror
from quarterdeck.forge.packing import Packed, pack_every
from quarterdeck.forge.protocol import CombinedStatus, PullRequestInfo, ReviewInfo, Verdict
from quarterdeck.forge.worktree import WorkTree
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.errors import Conflict, Forbidden, Misconfigured, NotFound, Stale, Unavailable

KIND = "gitea"
"""The kind of its connection: url, token, webhook_secret."""

MERGE_PATIENCE = 60.0
"""Seconds for which "try again later" is obeyed."""
MERGE_PAUSE = 1.0

TRY_LATER = "try again later"

ON_OUR_OWN = "COMMENT"
"""All that Gitea lets an account say about its own pull request."""


class GiteaForge:
    """A `Forge` for repositories of the connected Gitea. `folder` holds copies of them."""

    def __init__(
        self, connections: Connections, folder: Path, *, git: Git | None = None, pause: float = MERGE_PAUSE
    ) -> None:
        self._connections = connections
        self._folder = folder
        self._git = git or Git(folder / "gitconfig")
        self._pause = pause
        self._api: GiteaApi | None = None

    async def api(self) -> GiteaApi:
        """The client of the present connection. Raises `Misconfigured` if there is none."""
        value = await self._connections.get(KIND)
        url, token = (str((value or {}).get(key) or "") for key in ("url", "token"))
        if not url or not token:
            raise Misconfigured(
                "No Gitea is connected.",
                "Fill the block `Quarterdeck Gitea`, or set GITEA_URL and GITEA_TOKEN.",
                code="gitea_not_connected",
            )
        if self._api is None or (self._api.url, self._api.token) != (url.rstrip("/"), token):
            await self.close()
            self._api = GiteaApi(url, token)
        return self._api

    async def pack(self) -> Packed:
        """Upkeep: pack the copies in which much lies loose."""
        return await pack_every(Repositories(self._git, self._folder).every())

    async def is_connected(self) -> bool:
        value = await self._connections.get(KIND) or {}
        return bool(value.get("url") and value.get("token"))

    async def close(self) -> None:
        if self._api is not None:
            await self._api.close()
            self._api = None

    async def place(self, repository: str) -> Place | None:
        """Where in Gitea a repository is; None if it is elsewhere."""
        value = await self._connections.get(KIND) or {}
        return place_of(repository, str(value.get("url") or ""))

    async def ensure_repository(self, repository: str, default_branch: str = "main") -> None:
        """Look whether it is there; making one in Gitea is a person's work. Raises `NotFound`."""
        rules.branch_name(default_branch)
        api, place = await self._at(repository)
        await api.get(place.path)
        if await self.head(repository, default_branch) is None:
            raise NotFound(
                f"{place.full_name} has no branch {default_branch}.",
                "Push a first commit to it, or correct the project's branch.",
                code="unknown_branch",
            )

    async def checkout(self, repository: str, branch: str, base: str, folder: Path) -> str:
        mirror = await self._mirror(repository, branch, base)
        await mirror.fetch()
        heads = await mirror.heads()
        head = heads.get(branch)
        start = head or heads.get(base)
        if start is None:
            raise NotFound.among("branch", base, heads)
        if head is None:
            rules.check_room(branch, heads)
        await mirror.give(branch, base, heads)
        return await WorkTree(mirror.bare, folder).refresh(branch, start, is_new=head is None)

    async def publish(self, repository: str, branch: str, folder: Path) -> str:
        """First into our copy, then to Gitea; after a failure in between the second half is repeated."""
        mirror = await self._mirror(repository, branch)
        head = await WorkTree(mirror.bare, folder).publish(branch)
        await mirror.push(branch, head)
        return head

    async def head(self, repository: str, branch: str) -> str | None:
        rules.branch_name(branch)
        api, place = await self._at(repository)
        found = await api.find(f"{place.path}/branches/{branch}")
        if found is None:
            await api.get(place.path)  # an unknown repository is no unknown branch
            return None
        return str(found["commit"]["id"])

    async def read_file(self, repository: str, branch: str, path: str) -> str | None:
        """Text of a regular file. Raises `Conflict` if it is over 1 MB or no text."""
        rules.branch_name(branch)
        rules.file_path(path)
        api, place = await self._at(repository)
        entry = await api.find(f"{place.path}/contents/{path}", ref=branch)
        if not isinstance(entry, dict) or entry.get("type") != "file":
            return None
        if (size := int(entry.get("size") or 0)) > rules.FILE_LIMIT:
            raise Conflict(
                f"{path} is too large: {size:,} bytes, the limit is {rules.FILE_LIMIT:,}.",
                "Make it smaller.",
                code="file_too_large",
            )
        content = answers.file_content(entry)
        if b"\0" in content:
            raise Conflict(f"{path} is not a text.", "Write it as UTF-8 text.", code="file_not_text")
        return content.decode(errors="replace")

    async def open_pull_request(
        self, repository: str, branch: str, base: str, title: str, body: str, author: str
    ) -> PullRequestInfo:
        rules.branch_name(branch)
        rules.branch_name(base)
        if (known := await self.pull_request(repository, branch, base)) and known.is_open:
            return known
        api, place = await self._at(repository)
        await self._must_add_something(api, place, branch, base)
        wish = {
            "head": branch,
            "base": base,
            "title": rules.one_line(title),
            "body": answers.signed_body(author, body),
        }
        answer = await api.ask("POST", f"{place.path}/pulls", body=wish, judge=(409,))
        if answer.status != 409:
            return answers.pull_request(answer.content, (), await api.login())
        known = await self.pull_request(repository, branch, base)  # somebody was faster
        if known is None or not known.is_open:
            raise refusal(409, answer.message)
        return known

    async def _must_add_something(self, api: GiteaApi, place: Place, branch: str, base: str) -> None:
        compared = await api.find(f"{place.path}/compare/{base}...{branch}")
        if compared is None:
            raise NotFound(f"There is no branch {branch} or {base}.", "Publish the work first.")
        if not compared.get("total_commits"):
            raise Conflict(
                f"{branch} has nothing that {base} lacks.",
                "Commit the work on the branch and publish it first.",
                code="nothing_to_merge",
            )

    async def pull_request(self, repository: str, branch: str, base: str) -> PullRequestInfo | None:
        """The open one of a branch, else the newest of those that are closed; those of forks never."""
        rules.branch_name(branch)
        rules.branch_name(base)
        api, place = await self._at(repository)
        for state in ("open", "closed"):
            async for pull in api.all(f"{place.path}/pulls", state=state, sort="recentupdate"):
                if answers.belongs(pull, branch) and answers.base_of(pull) == base:
                    return await self._info(api, place, pull)
        return None

    async def review(
        self, repository: str, number: int, reviewer: str, verdict: Verdict, comment: str, commit: str
    ) -> None:
        """Give it through our account, signed with the reviewer's name.

        Raises `Conflict` if the author votes on the own work, `NotFound` for an unknown commit.
        """
        api, place = await self._at(repository)
        await self._must_have_commit(api, place, rules.commit_id(commit))
        comment = comment.strip()
        pull, login = await self._pull(api, place, number), await api.login()
        rules.check_review(answers.author(pull, login), reviewer, verdict)
        given = ReviewInfo(reviewer, verdict, comment, commit)
        if given in (await self._info(api, place, pull)).reviews:
            return
        is_ours = str((pull.get("user") or {}).get("login")) == login
        event = ON_OUR_OWN if is_ours else answers.EVENTS[verdict]
        body = answers.signed_review(reviewer, verdict, comment)
        wish = {"event": event, "body": body, "commit_id": commit}
        await api.ask("POST", f"{place.path}/pulls/{number}/reviews", body=wish)

    async def combined_status(self, repository: str, commit: str) -> CombinedStatus:
        """Commit statuses and, where this Gitea shows them to us, workflow runs.

        Gitea combines the statuses of one page. It shows no runs to a user without administration where
        a repository has no Actions (403), and has a status for each of their jobs in any case.
        """
        rules.commit_id(commit)
        api, place = await self._at(repository)
        path = f"{place.path}/commits/{commit}/status"
        statuses = [page async for page in api.pages(path, answers.statuses_of, judge=(404,))]
        path = f"{place.path}/actions/runs"
        pages = api.pages(path, answers.runs_of, judge=(403, 404), head_sha=commit)
        runs = [run async for page in pages for run in answers.runs_of(page) if _is_of(run, commit)]
        return answers.combined(commit, statuses, runs)

    async def merge(self, repository: str, number: int, head: str, title: str) -> str:
        """Raises `Forbidden` where a person must act in Gitea: approvals, rights, an archived repository."""
        rules.commit_id(head)
        api, place = await self._at(repository)
        info = await self._info(api, place, await self._pull(api, place, number))
        if not info.is_merged:
            rules.check_merge(number, info.is_open, info.head, head, info.reviews)
            await self._merge(api, place, info, title)
            info = await self._info(api, place, await self._pull(api, place, number))
        if not info.is_merged or head not in (info.head, info.merged_commit):
            raise Stale(
                f"Pull request {number} was merged already, at another commit than {head[:10]}.",
                "Read it again.",
                code="merged_elsewhere",
            )
        return info.merged_commit or info.head

    async def _merge(self, api: GiteaApi, place: Place, info: PullRequestInfo, title: str) -> None:
        style = answers.merge_style(await api.get(place.path))
        wish = {"Do": style, "head_commit_id": info.head, "merge_title_field": rules.one_line(title)}
        clock = asyncio.get_running_loop()
        end = clock.time() + MERGE_PATIENCE
        while True:
            path = f"{place.path}/pulls/{info.number}/merge"
            answer = await api.ask("POST", path, body=wish, judge=(404, 405, 409))
            if answer.status < 300:
                return None
            if TRY_LATER not in answer.message.lower():
                return await self._refused(api, place, info, answer)
            await self._must_not_conflict(place, info)
            if clock.time() > end:
                raise Unavailable(
                    f"Gitea still computes whether #{info.number} can be merged.",
                    "It is tried again later.",
                    code="gitea_computing",
                )
            await asyncio.sleep(self._pause)

    async def _refused(self, api: GiteaApi, place: Place, info: PullRequestInfo, answer: Answer) -> None:
        """Why not? Raises, unless somebody else merged it just now."""
        now = await self._pull(api, place, info.number)
        if now.get("merged") is True:
            return
        if answer.status == 404:
            rules.check_merge(info.number, False, info.head, info.head, ())
        if answers.head_of(now) != info.head or "out of date" in answer.message.lower():
            raise Stale(
                f"The branch moved on: it is at {answers.head_of(now)[:10]}, not at {info.head[:10]}.",
                "Have the newest commit tested and reviewed, then merge that.",
                code="branch_moved",
            )
        if answer.status == 409:
            raise Conflict(
                f"It cannot be merged: {answer.message or 'both sides changed the same'}.",
                "Merge the base branch into this branch, settle the conflict, push.",
                code="merge_conflict",
            )
        raise Forbidden(
            f"Gitea does not let #{info.number} be merged: {answer.message or 'not allowed'}.",
            "Give in Gitea what it asks for: approvals, rights, or an end to the draft.",
            code="merge_not_allowed",
        )

    async def _must_not_conflict(self, place: Place, info: PullRequestInfo) -> None:
        """Gitea says "try again later" of a conflict too, for ever; our copy knows better."""
        mirror = await self._mirror(f"gitea:{place.full_name}")
        await mirror.fetch()
        base, head = (await mirror.heads()).get(info.base), await mirror.bare.commit(info.head)
        if base and head:
            await mirror.bare.merge(base, head, "a trial")

    async def _info(self, api: GiteaApi, place: Place, pull: dict[str, Any]) -> PullRequestInfo:
        path = f"{place.path}/pulls/{pull['number']}/reviews"
        reviews = [review async for review in api.all(path)]
        info = answers.pull_request(pull, reviews, await api.login())
        if not info.is_merged:
            return info
        ref = f"refs/pull/{info.number}/head"  # `head` is where the branch stands now
        merged = answers.reference(await api.find(f"{place.path}/git/{ref}"), ref)
        return replace(info, head=merged or info.head)

    async def _pull(self, api: GiteaApi, place: Place, number: int) -> dict[str, Any]:
        found = await api.find(f"{place.path}/pulls/{number}")
        if isinstance(found, dict):
            return found
        raise NotFound(
            f"{place.full_name} has no pull request {number}.",
            "Look at its list in Gitea.",
            code="unknown_pull_request",
        )

    async def _must_have_commit(self, api: GiteaApi, place: Place, commit: str) -> None:
        if await api.find(f"{place.path}/git/commits/{commit}") is None:
            raise NotFound(
                f"{place.full_name} has no commit {commit}.",
                "Review the branch's head.",
                code="unknown_commit",
            )

    async def _mirror(self, repository: str, *branches: str) -> Mirror:
        for branch in branches:
            rules.branch_name(branch)
        api, place = await self._at(repository)
        return Mirror(self._git, self._folder, api.url, api.token, place)

    async def _at(self, repository: str) -> tuple[GiteaApi, Place]:
        place = await self.place(repository)
        if place is None:
            raise Misconfigured(f"{repository[:80]!r} is not in the connected Gitea.", MEND)
        return await self.api(), place


def _is_of(run: dict[str, Any], commit: str) -> bool:
    return bool(run.get("head_sha", commit) == commit)
