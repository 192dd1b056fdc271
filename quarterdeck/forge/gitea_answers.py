"""Gitea's answers in our words: pure functions over its JSON, lenient about what is missing.

Who reviewed cannot always be Gitea's user: all agents speak through one account, which may not approve its
own pull requests. So what the desk writes carries who said it, in a first line that Gitea does not show.
"""

import base64
import re
from collections.abc import Iterable
from typing import Any

from quarterdeck.forge import rules
from quarterdeck.forge.protocol import CIState, CombinedStatus, PullRequestInfo, ReviewInfo, Verdict

Json = dict[str, Any]

VERDICTS = {"APPROVED": Verdict.APPROVED, "REQUEST_CHANGES": Verdict.REJECTED, "COMMENT": Verdict.COMMENT}
EVENTS = {verdict: word for word, verdict in VERDICTS.items()}

_STATES = {
    "success": CIState.SUCCESS,
    "skipped": CIState.SUCCESS,
    "neutral": CIState.SUCCESS,
    "pending": CIState.PENDING,
    "error": CIState.ERROR,
}
_REVIEW = re.compile(r"<!-- quarterdeck review: (\S+) (approved|rejected|comment) -->")
_AUTHOR = re.compile(r"<!-- quarterdeck author: (\S+) -->")


def signed_review(reviewer: str, verdict: Verdict, comment: str) -> str:
    """The text of a review by one of ours."""
    mark = f"<!-- quarterdeck review: {_word(reviewer)} {verdict.value} -->"
    return f"{mark}\n**{reviewer}**: {verdict.value}\n\n{comment}".rstrip()


def is_signed(text: str) -> bool:
    """Is this the text of a review by one of ours?"""
    return _REVIEW.match(text) is not None


def signed_body(author: str, body: str) -> str:
    """The text of a pull request by one of ours."""
    return f"<!-- quarterdeck author: {_word(author)} -->\n{body}"


def author(pull: Json, login: str) -> str:
    """Who opened it: one of ours if our account did and it says so."""
    user = _login(pull)
    found = _AUTHOR.match(_text(pull, "body")) if user == login else None
    return found[1] if found else user


def _word(name: str) -> str:
    return re.sub(r"\s+", "-", name) or "somebody"


def belongs(pull: Json, branch: str) -> bool:
    """Is it of that branch of the repository itself? A fork may have a branch of the same name."""
    head, base = _part(pull, "head"), _part(pull, "base")
    return branch_of(pull) == branch and head.get("repo_id") == base.get("repo_id")


def branch_of(pull: Json) -> str:
    """The branch it was made of, also once that was deleted: then only the label keeps its name.

    Gitea closes a pull request with its branch. An open one without a branch came by push to `refs/for`,
    and its label is a word that whoever pushed chose. (Gitea, services/convert/pull.go)
    """
    head = _part(pull, "head")
    ref = _text(head, "ref")
    is_deleted = ref == f"refs/pull/{pull.get('number')}/head" and pull.get("state") == "closed"
    return _text(head, "label") if is_deleted else ref


def pull_request(pull: Json, reviews: Iterable[Json], login: str) -> PullRequestInfo:
    """A pull request with what counts of its reviews; `login` is our own account."""
    is_merged = pull.get("merged") is True
    return PullRequestInfo(
        number=int(pull["number"]),
        branch=branch_of(pull),
        base=base_of(pull),
        head=head_of(pull),
        title=_text(pull, "title"),
        is_open=pull.get("state") == "open" and not is_merged,
        is_merged=is_merged,
        merged_commit=(_text(pull, "merge_commit_sha") or None) if is_merged else None,
        reviews=counted(reviews, login),
    )


def base_of(pull: Json) -> str:
    """The branch it is to be merged into."""
    return _text(_part(pull, "base"), "ref")


def merge_style(repository: Json) -> str:
    """How it is merged: by a commit of its own or, where that is not allowed, as is usual there."""
    allows_commits = repository.get("allow_merge_commits") is not False
    return "merge" if allows_commits else _text(repository, "default_merge_style") or "merge"


def reference(told: Any, name: str) -> str:
    """Where a reference stands: Gitea answers with one, or with all whose names begin so. Empty = nowhere."""
    found = [entry for entry in (told if isinstance(told, list) else [told]) if isinstance(entry, dict)]
    return next((_text(_part(entry, "object"), "sha") for entry in found if entry.get("ref") == name), "")


def head_of(pull: Json) -> str:
    return _text(_part(pull, "head"), "sha")


def counted(reviews: Iterable[Json], login: str) -> tuple[ReviewInfo, ...]:
    """The last word of each reviewer on each commit, oldest first; a remark withdraws no verdict."""
    last: dict[tuple[str, str], ReviewInfo] = {}
    for review in reviews:
        if review.get("dismissed") is True or review.get("state") not in VERDICTS:
            continue
        info = _review(review, login)
        known = last.pop((info.reviewer, info.commit), None)
        keeps = known and info.verdict is Verdict.COMMENT and known.verdict is not Verdict.COMMENT
        last[info.reviewer, info.commit] = known if known and keeps else info
    return tuple(last.values())


def _review(review: Json, login: str) -> ReviewInfo:
    user, body, commit = _login(review), _text(review, "body"), _text(review, "commit_id")
    found = _REVIEW.match(body) if user == login else None
    if found:
        comment = body[found.end() :].partition("\n\n")[2]
        return ReviewInfo(found[1], Verdict(found[2]), comment, commit)
    # Anybody who may read a public repository can approve; "official" are those whose word counts there.
    verdict = VERDICTS[review["state"]] if review.get("official") is True else Verdict.COMMENT
    return ReviewInfo(user, verdict, body, commit)


def entries_of(content: Any, name: str = "") -> list[dict[str, Any]]:
    """The entries of a list, which may stand under a name; of anything else there are none."""
    if name:
        content = content.get(name) if isinstance(content, dict) else None
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []


def statuses_of(page: Any) -> list[Json]:
    """The statuses on a page of a commit's combined status."""
    return entries_of(page, "statuses")


def runs_of(page: Any) -> list[Json]:
    """The workflow runs on a page of their list."""
    return entries_of(page, "workflow_runs")


def combined(commit: str, statuses: Iterable[Json], runs: Iterable[Json]) -> CombinedStatus:
    """What all CI says of a commit: pages of commit statuses, and workflow runs that are not among those."""
    pages = [page for page in statuses if statuses_of(page)]
    entries = [entry for page in pages for entry in statuses_of(page)]
    results = [_run(run) for run in _newest(runs)]
    states = [_state(_text(page, "state")) for page in pages] + [state for _, state in results]
    bad = [
        (_text(entry, "context"), _text(entry, "description") or _text(entry, "status"))
        for entry in entries
        if _state(_text(entry, "status")) in (CIState.FAILURE, CIState.ERROR)
    ]
    bad += [(name, state.value) for name, state in results if state is CIState.FAILURE]
    summary = rules.one_line(rules.summary(bad))
    return CombinedStatus(commit, rules.combined(states), len(entries) + len(results), summary)


def _state(word: str) -> CIState:
    return _STATES.get(word, CIState.FAILURE)


def _newest(runs: Iterable[Json]) -> list[Json]:
    """The last run of each workflow: an earlier one was run again."""
    last: dict[str, Json] = {}
    for run in runs:
        name = _text(run, "path")
        if name not in last or _number(run) >= _number(last[name]):
            last[name] = run
    return list(last.values())


def _number(run: Json) -> tuple[int, int]:
    return (int(run.get("run_number") or 0), int(run.get("run_attempt") or 0))


def _run(run: Json) -> tuple[str, CIState]:
    name = _text(run, "path").partition("@")[0] or "workflow"
    if run.get("status") != "completed":
        return name, CIState.PENDING
    return name, _state(_text(run, "conclusion"))


def file_content(entry: Json) -> bytes:
    """The bytes of a file in Gitea's answer."""
    return base64.b64decode(_text(entry, "content"))


def _part(value: Json, key: str) -> Json:
    part = value.get(key)
    return part if isinstance(part, dict) else {}


def _text(value: Json, key: str) -> str:
    text = value.get(key)
    return text if isinstance(text, str) else ""


def _login(value: Json) -> str:
    return _text(_part(value, "user"), "login")
