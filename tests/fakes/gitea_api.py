"""The REST API of the fake Gitea: one function per resource."""

import base64
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tests.fakes import gitea_shapes as shapes
from tests.fakes.gitea_state import Hook, Pull, Refused, Repo, Review, Status

if TYPE_CHECKING:
    from tests.fakes.gitea import FakeGitea

Answer = tuple[int, Any]

_PATH = re.compile(r"/repos/([^/]+)/([^/]+)(?:/(.*))?")
STYLES = ("merge", "rebase", "rebase-merge", "squash", "fast-forward-only", "manually-merged")


async def answer(
    gitea: "FakeGitea", user: str, method: str, path: str, query: dict[str, str], body: Any
) -> Answer:
    """Status and content; a tuple as content brings headers along. Raises `Refused`."""
    if path == "/version":
        return 200, {"version": "1.26.3"}
    if path == "/user":
        return 200, shapes.user(user)
    found = _PATH.fullmatch(path)
    repo = gitea.repos.get(f"{found[1]}/{found[2]}".lower()) if found else None
    if found is None or repo is None:
        raise Refused(404, "The target couldn't be found.")
    if user not in repo.writers and method != "GET" and "reviews" not in path:
        raise Refused(403, "user should have a permission to write to this repository")
    if repo.archived and method != "GET":
        raise Refused(423, "repository is archived")
    head, _, rest = (found[3] or "").partition("/")
    handler = _RESOURCES.get(head)
    if handler is None:
        raise Refused(404)
    asked = _Asked(gitea, repo, user, method, rest, query, body or {})
    return await handler(asked)


class _Asked:
    def __init__(
        self,
        gitea: "FakeGitea",
        repo: Repo,
        user: str,
        method: str,
        rest: str,
        query: dict[str, str],
        body: dict[str, Any],
    ) -> None:
        self.gitea, self.repo, self.user = gitea, repo, user
        self.method, self.rest, self.query, self.body = method, rest, query, body

    def page(self, entries: Sequence[Any]) -> Answer:
        limit = min(int(self.query.get("limit", 30)), self.gitea.page_limit)
        start = (int(self.query.get("page", 1)) - 1) * limit
        return 200, (list(entries[start : start + limit]), {"X-Total-Count": str(len(entries))})

    async def shown(self, pull: Pull) -> Any:
        return shapes.pull(pull, self.repo, self.gitea.url, self.repo.head(pull.base))


async def _repository(asked: _Asked) -> Answer:
    return 200, shapes.repository(asked.repo, asked.gitea.url)


async def _branches(asked: _Asked) -> Answer:
    if not asked.rest:
        branches = asked.repo.branches()
        return asked.page([{"name": name, "commit": shapes.commit(sha)} for name, sha in branches.items()])
    head = asked.repo.head(asked.rest)
    if head is None:
        raise Refused(404, f"branch does not exist [name: {asked.rest}]")
    return 200, {
        "name": asked.rest,
        "commit": shapes.commit(head),
        "protected": asked.rest in asked.repo.protected,
    }


async def _contents(asked: _Asked) -> Answer:
    ref = await asked.repo.commit(asked.query.get("ref", "HEAD"))
    listing = await asked.repo.git("ls-tree", "-l", str(ref), "--", asked.rest) if ref else ""
    if not listing:
        raise Refused(404, "object does not exist")
    mode, kind, blob, length = listing.split("\t")[0].split()
    if kind == "tree":
        return 200, []
    what = {"120000": "symlink", "160000": "submodule"}.get(mode, "file")
    text = (await asked.repo.git("cat-file", "blob", blob) + "\n").encode() if what == "file" else b""
    size = 0 if length == "-" else int(length)
    content = base64.b64encode(text[:size]).decode()
    return 200, {"type": what, "encoding": "base64", "content": content, "size": size, "path": asked.rest}


async def _compare(asked: _Asked) -> Answer:
    base, _, head = asked.rest.partition("...")
    if not (await asked.repo.commit(base) and await asked.repo.commit(head)):
        raise Refused(404)
    ids = (await asked.repo.git("rev-list", f"{base}..{head}")).split()
    return 200, {"total_commits": len(ids), "commits": [shapes.commit(sha) for sha in ids]}


async def _git(asked: _Asked) -> Answer:
    if asked.rest.startswith("refs/pull/"):  # where a pull request stood when it was closed
        found = [p for p in asked.repo.pulls if f"refs/pull/{p.number}/head".startswith(asked.rest)]
        if not found:
            raise Refused(404)
        return 200, [_reference(f"refs/pull/{p.number}/head", p.head) for p in found]
    sha = asked.rest.removeprefix("commits/")
    if await asked.repo.commit(sha) is None:
        raise Refused(404)
    return 200, shapes.commit(sha)


def _reference(name: str, sha: str) -> dict[str, Any]:
    return {"ref": name, "url": "", "object": {"type": "commit", "sha": sha, "url": ""}}


async def _commits(asked: _Asked) -> Answer:
    ref, _, what = asked.rest.rpartition("/")
    sha = await asked.repo.commit(ref)
    if sha is None:
        raise Refused(404)
    if what == "status":  # the newest of each context; only those of the page are combined, and counted
        newest = {s.context: s for s in asked.repo.statuses if s.sha == sha}
        _, (page, headers) = asked.page([*newest.values()])
        return 200, (shapes.combined(page, asked.repo, sha, asked.gitea.url), headers)
    for pull in asked.repo.pulls:
        if sha in (pull.head, pull.merge_commit):
            return 200, await asked.shown(pull)
    raise Refused(404)


async def _statuses(asked: _Asked) -> Answer:
    known = [shapes.status(s) for s in asked.repo.statuses if s.sha == asked.rest]
    if asked.method == "GET":
        return asked.page(known)
    fields = {key: asked.body.get(key, "") for key in ("state", "context", "description", "target_url")}
    status = Status(asked.rest, **fields)
    asked.repo.statuses.append(status)
    asked.gitea.tell_status(asked.repo, status, asked.user)
    return 201, shapes.status(status)


async def _actions(asked: _Asked) -> Answer:
    if not asked.repo.has_actions:  # only administrators are told that there are none
        raise Refused(403, "user should have specific read permission or be a repo admin or a site admin")
    wanted = asked.query.get("head_sha", "")
    told = [run for run in asked.repo.runs if run.sha == wanted or not asked.gitea.filters_runs]
    _, (runs, headers) = asked.page([shapes.run(run, asked.gitea.url) for run in told])
    return 200, ({"total_count": len(told), "workflow_runs": runs}, headers)


async def _hooks(asked: _Asked) -> Answer:
    hooks, body = asked.repo.hooks, asked.body
    if asked.rest:
        [hook] = [hook for hook in hooks if hook.id == int(asked.rest)] or [None]
        if hook is None:
            raise Refused(404)
        if asked.method == "DELETE":
            hooks.remove(hook)
            return 204, None
        config = body.get("config", {})  # the secret is not among what can be edited
        hook.url, hook.content_type = (
            config.get("url", hook.url),
            config.get("content_type", hook.content_type),
        )
        hook.events, hook.active = body.get("events") or ["push"], body.get("active", hook.active)
        return 200, shapes.hook(hook)
    if asked.method == "GET":
        return asked.page([shapes.hook(hook) for hook in hooks])
    config = body["config"]
    if not {"url", "content_type"} <= set(config):
        raise Refused(422, "Missing config option")
    events = body.get("events") or ["push"]
    made = Hook(
        config["url"], config.get("secret", ""), config["content_type"], events, body.get("active", False)
    )
    hooks.append(made)
    return 201, shapes.hook(made)


async def _pulls(asked: _Asked) -> Answer:
    number, _, what = asked.rest.partition("/")
    if not number:
        return await (_list(asked) if asked.method == "GET" else _open(asked))
    pull = asked.repo.pull(int(number))
    match what, asked.method:
        case "", _:
            return 200, await asked.shown(pull)
        case "reviews", "GET":
            return asked.page([shapes.review(review, pull) for review in pull.reviews])
        case "reviews", _:
            return await _review(asked, pull)
        case "merge", "GET":
            return (204 if pull.merged else 404), None
        case "merge", _:
            return await _merge(asked, pull)
    raise Refused(404)


async def _list(asked: _Asked) -> Answer:
    state = asked.query.get("state", "open")
    chosen = [pull for pull in reversed(asked.repo.pulls) if state in ("all", pull.state)]
    return asked.page([await asked.shown(pull) for pull in chosen])


async def _open(asked: _Asked) -> Answer:
    branch, base = asked.body["head"], asked.body["base"]
    head = asked.repo.head(branch)
    if head is None or asked.repo.head(base) is None:
        raise Refused(404, "branch does not exist")
    for pull in asked.repo.pulls:
        if pull.state == "open" and (pull.branch, pull.base, pull.head_repo) == (branch, base, asked.repo):
            raise Refused(409, "pull request already exists for these targets")
    number = max((pull.number for pull in asked.repo.pulls), default=0) + 1
    title, body = asked.body["title"], asked.body.get("body", "")
    pull = Pull(
        number, branch, asked.repo, base, title, body, asked.user, head, computing=asked.gitea.computing
    )
    asked.repo.pulls.append(pull)
    await asked.gitea.tell_pull(asked.repo, pull, "opened", asked.user)
    return 201, await asked.shown(pull)


async def _review(asked: _Asked, pull: Pull) -> Answer:
    event, body = asked.body.get("event", ""), asked.body.get("body", "")
    if event in ("APPROVED", "REQUEST_CHANGES") and pull.user == asked.user:
        word = "approve" if event == "APPROVED" else "reject"
        raise Refused(422, f"{word} your own pull is not allowed")
    if event in ("REQUEST_CHANGES", "COMMENT") and not body:
        raise Refused(422, "body or comments required")
    official = asked.user in asked.repo.writers and event != "COMMENT"
    review = Review(asked.user, event, body, asked.body.get("commit_id") or pull.head, official)
    pull.reviews.append(review)
    await asked.gitea.tell_review(asked.repo, pull, review)
    return 200, shapes.review(review, pull)


async def _merge(asked: _Asked, pull: Pull) -> Answer:
    async with pull.merging:
        return await _merge_alone(asked, pull)


async def _merge_alone(asked: _Asked, pull: Pull) -> Answer:
    body, repo = asked.body, asked.repo
    if body.get("Do") not in STYLES:
        raise Refused(422, "[Do]: Required")
    if pull.merged:
        raise Refused(405)
    if pull.state != "open":
        raise Refused(404)
    if pull.draft or pull.title.startswith("WIP:"):
        raise Refused(405, "Work in progress PRs cannot be merged")
    if pull.computing > 0:
        pull.computing -= 1
        raise Refused(405, "Please try again later")
    if _approvals(pull) < repo.protected.get(pull.base, 0):
        raise Refused(405, "Does not have enough approvals")
    if body.get("head_commit_id", pull.head) != pull.head:
        raise Refused(409, "head out of date")
    if body["Do"] not in repo.styles:
        raise Refused(405, f"{body['Do']} is not allowed an allowed merge style for this repository")
    before = repo.branches()
    title = body.get("merge_title_field") or f"Merge pull request #{pull.number}"
    merged = await repo.merge(pull, title, body["Do"])
    if merged is None:
        raise Refused(405, "Please try again later")  # a conflict looks like a merge still being computed
    pull.state, pull.merged, pull.merge_commit = "closed", True, merged
    await asked.gitea.pushed(repo, before, asked.user)
    await asked.gitea.tell_pull(repo, pull, "closed", asked.user)
    return 200, None


def _approvals(pull: Pull) -> int:
    return sum(r.official and r.state == "APPROVED" and r.commit == pull.head for r in pull.reviews)


_RESOURCES = {
    "": _repository,
    "branches": _branches,
    "contents": _contents,
    "compare": _compare,
    "git": _git,
    "commits": _commits,
    "statuses": _statuses,
    "actions": _actions,
    "hooks": _hooks,
    "pulls": _pulls,
}
