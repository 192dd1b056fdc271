"""A small working Gitea on a loopback port, in the test's own event loop.

    async with FakeGitea(tmp_path / "gitea") as gitea:
        repo = await gitea.create("acme/shop")          # a real bare repository
        ...                                             # point GITEA_URL at gitea.url
        await gitea.report(repo, sha, "success")        # somebody's CI; hooks are told
        await gitea.settled()

Its REST API wants `Authorization: token …` or `Bearer …`, git over HTTP wants the token as a password. It
has the surprises of the real one: a merge is refused with 405 while it is "being computed", one's own pull
requests cannot be approved, hooks are tried once, editing a hook leaves its secret as it was.
"""

import asyncio
import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx

from tests.fakes import gitea_shapes as shapes
from tests.fakes.gitea_api import answer as answer_api
from tests.fakes.gitea_hooks import Post, Sent
from tests.fakes.gitea_state import ENVIRONMENT, ZERO, Pull, Refused, Repo, Review, Run, Status, git
from tests.fakes.provider_wire import Broken, Wire

BOT, ANNA, STRANGER = "quarterdeck", "anna", "stranger"
TOKEN = "gta_0123456789abcdef0123456789abcdef01234567"
SETTINGS = "[http]\n\treceivepack = true\n[receive]\n\tautogc = false\n"
TOKENS = {TOKEN: BOT, "annas-token": ANNA, "strangers-token": STRANGER}


@dataclass(frozen=True)
class Call:
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    user: str
    status: int


class FakeGitea:
    """Repositories lie in `folder`. `transport` replaces the network for deliveries."""

    def __init__(self, folder: Path, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.folder = folder
        self.repos: dict[str, Repo] = {}
        self.calls: list[Call] = []
        self.computing = 0
        self.page_limit = 50
        self.filters_runs = True
        self.fail: list[tuple[int, dict[str, str]]] = []
        self.port = 0
        self.post = Post(transport)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], Wire] = {}

    # For tests

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connection(self) -> dict[str, str]:
        """What the desk is told of it."""
        return {"url": self.url, "token": TOKEN, "webhook_secret": "hook-secret-0123456789"}

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True)
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.post.close()
        await self.down()

    async def up(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Stop listening and break every connection."""
        if self._server is not None:
            self._server.close()
            for wire in self._connections.values():
                wire.abort()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def settled(self) -> None:
        """Until every delivery was tried."""
        await self.post.settled()

    @property
    def sent(self) -> list[Sent]:
        return self.post.sent

    async def create(
        self, full_name: str, files: Mapping[str, str] | None = None, *, fork_of: Repo | None = None
    ) -> Repo:
        """A repository with one commit on `main`, or a fork."""
        owner, _, name = full_name.partition("/")
        path = self.folder / owner / f"{name}.git"
        path.mkdir(parents=True)
        await git(path, "init", "--quiet", "--bare", "--initial-branch=main", "--template=")
        with (path / "config").open("a") as config:
            config.write(SETTINGS)
        repo = Repo(owner, name, path, fork_of=fork_of, writers={BOT, ANNA, owner})
        if fork_of:
            await repo.git("fetch", "--quiet", str(fork_of.path), "+refs/heads/*:refs/heads/*")
        else:
            await repo.write("main", files or {"README.md": "Welcome\n"}, "Begin")
        self.repos[full_name.lower()] = repo
        return repo

    async def push(
        self,
        repo: Repo,
        branch: str,
        files: Mapping[str, str],
        *,
        user: str = ANNA,
        parents: list[str] | None = None,
    ) -> str:
        """Somebody pushes a commit; with other `parents` it is a force-push."""
        before = repo.branches()
        commit = await repo.write(branch, files, "By hand", parents)
        await self.pushed(repo, before, user)
        return commit

    async def delete_branch(self, repo: Repo, branch: str, user: str = ANNA) -> None:
        before = repo.branches()
        await repo.git("update-ref", "-d", f"refs/heads/{branch}")
        await self.pushed(repo, before, user)

    async def report(
        self, repo: Repo, sha: str, state: str, context: str = "ci/tests", description: str = ""
    ) -> Status:
        """A CI says something about a commit."""
        status = Status(sha, state, context, description)
        repo.statuses.append(status)
        self.tell_status(repo, status, BOT)
        return status

    async def workflow(
        self, repo: Repo, sha: str, branch: str, status: str, conclusion: str = "", path: str = "ci.yaml"
    ) -> Run:
        """A workflow run changes."""
        for run in repo.runs:
            if (run.sha, run.path) == (sha, path):
                run.status, run.conclusion = status, conclusion
                break
        else:
            run = Run(sha, branch, status, conclusion, path, len(repo.runs) + 1)
            repo.runs.append(run)
        action = {"completed": "completed", "in_progress": "in_progress"}.get(status, "requested")
        self.tell(
            repo, "workflow_run", BOT, action=action, workflow={}, workflow_run=shapes.run(run, self.url)
        )
        return run

    async def review(
        self, repo: Repo, number: int, state: str, body: str = "", *, user: str = ANNA, commit: str = ""
    ) -> Review:
        """Somebody reviews a pull request."""
        pull = repo.pull(number)
        review = Review(user, state, body, commit or pull.head, user in repo.writers and state != "COMMENT")
        pull.reviews.append(review)
        await self.tell_review(repo, pull, review)
        return review

    async def propose(
        self, repo: Repo, branch: str, *, head_repo: Repo | None = None, user: str = ANNA
    ) -> Pull:
        """Somebody opens a pull request, possibly from a fork."""
        source = head_repo or repo
        head = source.head(branch)
        assert head
        pull = Pull(_next(repo), branch, source, "main", f"Take {branch}", "", user, head)
        repo.pulls.append(pull)
        await self.tell_pull(repo, pull, "opened", user)
        return pull

    async def merge(self, repo: Repo, number: int, user: str = ANNA, title: str = "By hand") -> str:
        """Somebody presses the button."""
        pull = repo.pull(number)
        before = repo.branches()
        merged = await repo.merge(pull, title)
        assert merged
        pull.state, pull.merged, pull.merge_commit = "closed", True, merged
        await self.pushed(repo, before, user)
        await self.tell_pull(repo, pull, "closed", user)
        return merged

    async def close(self, repo: Repo, number: int, user: str = ANNA) -> None:
        """Somebody closes it without a merge."""
        pull = repo.pull(number)
        pull.state = "closed"
        await self.tell_pull(repo, pull, "closed", user)

    # Telling

    def tell(self, repo: Repo, kind: str, user: str, **more: Any) -> None:
        who = {"repository": shapes.repository(repo, self.url), "sender": shapes.user(user)}
        self.post.tell(repo, kind, {**more, **who})

    def tell_status(self, repo: Repo, status: Status, user: str) -> None:
        facts = shapes.status(status)
        facts["state"] = facts.pop("status")
        self.tell(repo, "status", user, **facts, sha=status.sha, commit=shapes.commit(status.sha))

    async def tell_pull(
        self, repo: Repo, pull: Pull, action: str, user: str, kind: str = "pull_request", **more: Any
    ) -> None:
        shown = shapes.pull(pull, repo, self.url, repo.head(pull.base))
        facts = {"action": action, "number": pull.number, "pull_request": shown, "commit_id": "", **more}
        self.tell(repo, kind, user, **facts)

    async def tell_review(self, repo: Repo, pull: Pull, review: Review) -> None:
        word = {"APPROVED": "approved", "REQUEST_CHANGES": "rejected"}.get(review.state, "comment")
        kind = f"pull_request_review_{word}"
        told = {"type": kind, "content": review.body}
        await self.tell_pull(repo, pull, "reviewed", review.user, kind, review=told)

    async def pushed(self, repo: Repo, before: Mapping[str, str], user: str) -> None:
        """Branches moved: pull requests follow, hooks are told; a merge is computed anew."""
        after = repo.branches()
        for branch in {*before, *after}:
            old, new = before.get(branch, ZERO), after.get(branch, ZERO)
            if old == new:
                continue
            if old == ZERO:
                self.tell(repo, "create", user, ref=branch, ref_type="branch", sha=new)
            if new == ZERO:
                self.tell(repo, "delete", user, ref=branch, ref_type="branch", pusher_type="user")
            else:
                commits = [shapes.commit(new, "By hand")]
                facts = {"ref": f"refs/heads/{branch}", "before": old, "after": new, "compare_url": ""}
                more = {"commits": commits, "total_commits": 1, "head_commit": commits[0]}
                self.tell(repo, "push", user, **facts, **more, pusher=shapes.user(user))
            await self._follow(repo, branch, new, user)

    async def _follow(self, repo: Repo, branch: str, new: str, user: str) -> None:
        for target in self.repos.values():
            for pull in target.pulls:
                if pull.state != "open" or (pull.head_repo, pull.branch) != (repo, branch):
                    continue
                if new == ZERO:
                    pull.state = "closed"
                    await self.tell_pull(target, pull, "closed", user)
                else:
                    pull.head, pull.computing = new, self.computing
                    await self.tell_pull(target, pull, "synchronized", user, "pull_request_sync")

    # HTTP

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        wire = self._connections[task] = Wire(reader, writer)
        with suppress(Broken, asyncio.IncompleteReadError, ConnectionError):
            while request := await wire.read():
                await self._answer(wire, *request)
        del self._connections[task]
        await wire.close()

    async def _answer(
        self, wire: Wire, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        parts = urlsplit(target)
        path, query, told = unquote(parts.path), dict(parse_qsl(parts.query)), dict(headers)
        if self.fail:
            status, more = self.fail.pop(0)
            self.calls.append(Call(method, path, query, None, "", status))
            await wire.send(status, list(more.items()), b"a proxy's page")
            return
        if not path.startswith("/api/v1/"):
            await self._git(wire, method, path, parts.query, told, body)
            return
        parsed = json.loads(body) if body else None
        user = _api_user(told.get("authorization", ""))
        try:
            if user is None:
                raise Refused(401, "invalid username, password or token")
            status, content = await answer_api(
                self, user, method, path.removeprefix("/api/v1"), query, parsed
            )
            shown, more = content if isinstance(content, tuple) else (content, {})
        except Refused as refusal:
            status, more = refusal.status, {}
            shown = {"message": refusal.message, "url": f"{self.url}/api/swagger"}
        self.calls.append(Call(method, path, query, parsed, user or "", status))
        data = b"" if shown is None else json.dumps(shown).encode()
        await wire.send(status, [("Content-Type", "application/json;charset=utf-8"), *more.items()], data)

    async def _git(
        self, wire: Wire, method: str, path: str, query: str, headers: dict[str, str], body: bytes
    ) -> None:
        user = _git_user(headers.get("authorization", ""))
        name = path.split(".git/")[0].strip("/").lower()
        repo = self.repos.get(name)
        self.calls.append(Call(method, path, dict(parse_qsl(query)), None, user or "", 0))
        if user is None:
            await wire.send(401, [("WWW-Authenticate", 'Basic realm="Gitea"')], b"Unauthorized\n")
        elif repo is None:
            await wire.send(404, [], b"Not found.\n")
        elif "receive-pack" in path + query and (user not in repo.writers or repo.archived):
            await wire.send(403, [], b"User permission denied\n")
        else:
            before = repo.branches()
            status, out, content = await _backend(self.folder, repo, method, path, query, headers, body, user)
            await wire.send(status, out, content)
            await self.pushed(repo, before, user)


def _next(repo: Repo) -> int:
    return max((pull.number for pull in repo.pulls), default=0) + 1


def _api_user(header: str) -> str | None:
    kind, _, token = header.partition(" ")
    return TOKENS.get(token) if kind.lower() in ("token", "bearer") else None


def _git_user(header: str) -> str | None:
    kind, _, value = header.partition(" ")
    if kind != "Basic":
        return None
    with suppress(ValueError):
        return TOKENS.get(base64.b64decode(value).decode().partition(":")[2])
    return None


async def _backend(
    folder: Path,
    repo: Repo,
    method: str,
    path: str,
    query: str,
    headers: dict[str, str],
    body: bytes,
    user: str,
) -> tuple[int, list[tuple[str, str]], bytes]:
    """git's own CGI program."""
    rest = path.split(".git/", 1)[1]
    environment = ENVIRONMENT | {
        "GIT_PROJECT_ROOT": str(folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{repo.owner}/{repo.name}.git/{rest}",
        "QUERY_STRING": query,
        "REQUEST_METHOD": method,
        "CONTENT_TYPE": headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
        "HTTP_GIT_PROTOCOL": headers.get("git-protocol", ""),
        "GIT_PROTOCOL": headers.get("git-protocol", ""),
        "REMOTE_USER": user,
        "REMOTE_ADDR": "127.0.0.1",
    }
    process = await asyncio.create_subprocess_exec(
        "git", "http-backend", env=environment, stdin=-1, stdout=-1, stderr=-1
    )
    out, _ = await process.communicate(body)
    head, _, content = out.partition(b"\r\n\r\n")
    lines = [line.decode().partition(": ") for line in head.split(b"\r\n")]
    told = [(name, value) for name, _, value in lines if name.lower() != "status"]
    status = next((int(value.split()[0]) for name, _, value in lines if name.lower() == "status"), 200)
    return status, told, content
