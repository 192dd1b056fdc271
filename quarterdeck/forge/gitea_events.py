"""Gitea's deliveries, read: of which commits and branches there is news. Pure and lenient.

A delivery is a reason to look, never the fact itself: gates ask Gitea. So what is missing or odd in a
payload only makes less news, and the order in which deliveries come does not matter.
"""

import re
from dataclasses import dataclass
from typing import Any

from quarterdeck.forge import gitea_answers as answers

Json = dict[str, Any]

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LONGEST = 250
_HEADS = "refs/heads/"

REVIEWS = frozenset({"pull_request_approved", "pull_request_rejected", "pull_request_comment"})
_TELLING = frozenset({"opened", "closed", "reopened", "synchronized", "reviewed", "edited"})
"""Actions on a pull request after which a gate may answer differently."""


@dataclass(frozen=True)
class News:
    """What a delivery is about. `is_ours`: the desk wrote it; `pushed` is the commit that a push left."""

    what: str
    repository: str = ""
    commits: frozenset[str] = frozenset()
    branches: frozenset[str] = frozenset()
    is_ours: bool = False
    pushed: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.repository and (self.commits or self.branches))


def read(event: str, payload: Json) -> News:
    """What a delivery says; `event` is its `X-Gitea-Event`. Nothing of interest is empty news."""
    repository = _text(_part(payload, "repository"), "full_name")
    if event == "push":
        return _push(repository, payload)
    if event == "delete":
        branch = _text(payload, "ref") if payload.get("ref_type") == "branch" else ""
        return News(f"branch {branch} was deleted", repository, branches=_branches(branch))
    if event == "status":
        what = f"{_text(payload, 'context') or 'CI'}: {_text(payload, 'state')}"
        return News(what, repository, _commits(payload.get("sha")))
    if event == "workflow_run":
        run = _part(payload, "workflow_run")
        what = f"workflow run {_text(run, 'status')} {_text(run, 'conclusion')}".strip()
        return News(what, repository, _commits(run.get("head_sha")))
    if event == "pull_request" or event in REVIEWS:
        return _pull_request(event, repository, payload)
    return News(f"{event or 'nameless'}: no gate asks about it")


def _push(repository: str, payload: Json) -> News:
    ref = _text(payload, "ref")
    if not ref.startswith(_HEADS):
        return News(f"push to {ref[:100] or 'nothing'}: no branch")
    branch = ref.removeprefix(_HEADS)
    before, after = _commits(payload.get("before")), _commits(payload.get("after"))
    return News(f"push to {branch}", repository, before | after, _branches(branch), pushed="".join(after))


def _pull_request(event: str, repository: str, payload: Json) -> News:
    action = _text(payload, "action") or ("reviewed" if event in REVIEWS else "")
    pull = _part(payload, "pull_request")
    branch = answers.branch_of(pull)
    what = f"pull request {pull.get('number', '?')} {action}"
    if not answers.belongs(pull, branch):
        return News(f"{what}: it comes from a fork")
    if action not in _TELLING:
        return News(f"{what}: no gate asks about it")
    is_ours = answers.is_signed(_text(_part(payload, "review"), "content"))
    commits = _commits(_part(pull, "head").get("sha"))
    pushed = "".join(commits) if action == "synchronized" else ""
    return News(what, repository, commits, _branches(branch), is_ours, pushed)


def _commits(*found: Any) -> frozenset[str]:
    return frozenset(c for c in found if isinstance(c, str) and _COMMIT.fullmatch(c) and c.strip("0"))


def _branches(branch: str) -> frozenset[str]:
    return frozenset({branch} if 0 < len(branch) <= _LONGEST else ())


def _part(value: Json, key: str) -> Json:
    part = value.get(key)
    return part if isinstance(part, dict) else {}


def _text(value: Json, key: str) -> str:
    text = value.get(key)
    return text if isinstance(text, str) else ""
