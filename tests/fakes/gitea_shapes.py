"""The JSON of the fake Gitea, in API answers and in deliveries."""

from collections.abc import Sequence
from typing import Any

from tests.fakes.gitea_state import Hook, Pull, Repo, Review, Run, Status

Json = dict[str, Any]


def user(login: str) -> Json:
    return {"id": sum(login.encode()), "login": login, "username": login, "full_name": "", "email": ""}


def repository(repo: Repo, base: str) -> Json:
    return {
        "id": repo.id,
        "owner": user(repo.owner),
        "name": repo.name,
        "full_name": repo.full_name,
        "private": True,
        "fork": repo.fork_of is not None,
        "empty": False,
        "archived": repo.archived,
        "default_branch": repo.default_branch,
        "allow_merge_commits": "merge" in repo.styles,
        "allow_squash_merge": "squash" in repo.styles,
        "default_merge_style": repo.styles[0],
        "html_url": f"{base}/{repo.full_name}",
        "clone_url": f"{base}/{repo.full_name}.git",
        "permissions": {"admin": True, "push": True, "pull": True},
    }


def commit(sha: str, message: str = "") -> Json:
    who = {"name": "Somebody", "email": "somebody@example.org", "username": ""}
    return {
        "id": sha,
        "sha": sha,
        "message": message,
        "url": f"commit/{sha}",
        "author": who,
        "committer": who,
        "timestamp": "2026-01-01T00:00:00Z",
        "added": [],
        "removed": [],
        "modified": [],
    }


def pull(pull: Pull, repo: Repo, base: str, base_head: str | None) -> Json:
    """Its head is the branch and where that stands now, also after a merge, while the branch exists.

    Then it is the reference of the pull request itself; the label keeps the branch's name.
    """
    heads = pull.head_repo.branches()
    return {
        "id": 1000 + pull.number,
        "number": pull.number,
        "user": user(pull.user),
        "title": pull.title,
        "body": pull.body,
        "state": pull.state,
        "draft": pull.draft,
        "html_url": f"{base}/{repo.full_name}/pulls/{pull.number}",
        "mergeable": pull.state == "open" and not pull.computing,
        "merged": pull.merged,
        "merged_at": pull.at if pull.merged else None,
        "merge_commit_sha": pull.merge_commit,
        "merged_by": user(repo.owner) if pull.merged else None,
        "base": {
            "label": pull.base,
            "ref": pull.base,
            "sha": base_head or "",
            "repo_id": repo.id,
            "repo": repository(repo, base),
        },
        "head": {
            "label": pull.branch,
            "ref": pull.branch if pull.branch in heads else f"refs/pull/{pull.number}/head",
            "sha": heads.get(pull.branch, pull.head),
            "repo_id": pull.head_repo.id,
            "repo": repository(pull.head_repo, base),
        },
        "created_at": pull.at,
        "updated_at": pull.at,
    }


def review(review: Review, pull: Pull) -> Json:
    return {
        "id": review.id,
        "user": user(review.user),
        "state": review.state,
        "body": review.body,
        "commit_id": review.commit,
        "stale": review.commit != pull.head,
        "official": review.official,
        "dismissed": review.dismissed,
        "submitted_at": review.at,
    }


def status(status: Status) -> Json:
    return {
        "id": status.id,
        "status": status.state,
        "context": status.context,
        "description": status.description,
        "target_url": status.target_url,
        "created_at": status.at,
        "updated_at": status.at,
    }


def combined(page: Sequence[Status], repo: Repo, sha: str, base: str) -> Json:
    """What one page of statuses comes to; none at all is pending, and so is a lone pending one."""
    states = {s.state for s in page}
    if states & {"error", "failure", "warning"}:
        state = "failure"
    else:
        state = "success" if states and states <= {"success", "skipped"} else "pending"
    return {
        "state": state,
        "sha": sha,
        "total_count": len(page),
        "statuses": [status(s) for s in page] or None,
        "repository": repository(repo, base),
        "commit_url": "",
        "url": "",
    }


def run(run: Run, base: str) -> Json:
    return {
        "id": run.id,
        "head_sha": run.sha,
        "head_branch": run.branch,
        "event": "push",
        "run_number": run.number,
        "run_attempt": 1,
        "status": run.status,
        "conclusion": run.conclusion,
        "path": run.path,
        "display_title": run.path,
        "html_url": f"{base}/actions/runs/{run.id}",
    }


def hook(hook: Hook) -> Json:
    """Without the secret: Gitea never shows it."""
    return {
        "id": hook.id,
        "type": "gitea",
        "config": {"url": hook.url, "content_type": hook.content_type},
        "events": hook.events,
        "active": hook.active,
        "authorization_header": "",
    }
