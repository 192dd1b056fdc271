"""Deliveries of Gitea are read leniently: each says of which commits and branches there is news."""

import copy
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.forge.gitea_answers import signed_review
from quarterdeck.forge.gitea_events import News, read
from quarterdeck.forge.protocol import Verdict

OLD, NEW, ZERO = "a" * 40, "b" * 40, "0" * 40
REPOSITORY = {"full_name": "acme/shop"}
PULL = {
    "number": 7,
    "head": {"ref": "item/ET-001", "sha": NEW, "repo_id": 1},
    "base": {"ref": "main", "sha": OLD, "repo_id": 1},
}


def pull(action: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "number": 7, "pull_request": PULL, "repository": REPOSITORY, **more}


EVENTS: list[tuple[str, dict[str, Any], set[str], set[str]]] = [
    ("push", {"ref": "refs/heads/item/ET-001", "before": OLD, "after": NEW}, {OLD, NEW}, {"item/ET-001"}),
    ("push", {"ref": "refs/heads/new", "before": ZERO, "after": NEW}, {NEW}, {"new"}),
    ("push", {"ref": "refs/tags/v1", "before": ZERO, "after": NEW}, set(), set()),
    ("delete", {"ref": "item/ET-001", "ref_type": "branch"}, set(), {"item/ET-001"}),
    ("delete", {"ref": "v1", "ref_type": "tag"}, set(), set()),
    ("create", {"ref": "item/ET-001", "ref_type": "branch", "sha": NEW}, set(), set()),
    ("status", {"sha": NEW, "state": "success", "context": "ci"}, {NEW}, set()),
    ("workflow_run", {"action": "completed", "workflow_run": {"head_sha": NEW}}, {NEW}, set()),
    ("workflow_job", {"action": "completed", "workflow_job": {"head_sha": NEW}}, set(), set()),
    ("issues", {"action": "opened"}, set(), set()),
    ("issue_comment", {"action": "created", "is_pull": True}, set(), set()),
    ("release", {"action": "published"}, set(), set()),
    ("", {}, set(), set()),
    *(
        ("pull_request", pull(action), {NEW}, {"item/ET-001"})
        for action in ("opened", "closed", "synchronized")
    ),
    *(("pull_request", pull(action), set(), set()) for action in ("assigned", "label_updated", "milestoned")),
    *(
        (f"pull_request_{word}", pull("reviewed"), {NEW}, {"item/ET-001"})
        for word in ("approved", "rejected", "comment")
    ),
]


@pytest.mark.parametrize(("event", "payload", "commits", "branches"), EVENTS)
def test_every_event_says_what_it_is_about(event: str, payload: Any, commits: set[str], branches: set[str]):
    news = read(event, {"repository": REPOSITORY, **payload})
    assert (set(news.commits), set(news.branches)) == (commits, branches)
    assert news.is_empty == (not commits and not branches)


@given(st.integers(), st.sampled_from(EVENTS))
def test_payloads_with_parts_missing_or_odd_make_less_news_and_never_an_error(seed: int, entry: Any):
    event, payload, commits, branches = entry
    chance = random.Random(seed)
    odd = _spoiled(copy.deepcopy({"repository": REPOSITORY, **payload}), chance)
    news = read(event, odd)
    assert isinstance(news, News)
    assert news.commits <= commits | {OLD, NEW}
    assert all(isinstance(branch, str) for branch in news.branches | branches)


@pytest.mark.parametrize(("state", "branch"), [("closed", "item/ET-001"), ("open", "refs/pull/7/head")])
def test_a_deleted_branch_is_known_by_the_label_of_what_was_made_of_it(state: str, branch: str):
    gone = {"ref": "refs/pull/7/head", "label": "item/ET-001", "sha": NEW, "repo_id": 1}
    told = pull("closed") | {"pull_request": PULL | {"state": state, "head": gone}}
    assert read("pull_request", told).branches == {branch}


def _spoiled(value: Any, chance: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    chance.shuffle(keys)
    spoiled = {}
    for key in keys:
        lot = chance.random()
        if lot < 0.1:
            continue
        spoiled[key] = (
            chance.choice([None, 3, [], "x", {}, "Z" * 40]) if lot < 0.3 else _spoiled(value[key], chance)
        )
    return spoiled


def test_a_pull_request_from_a_fork_is_no_news():
    foreign = PULL | {"head": {"ref": "item/ET-001", "sha": NEW, "repo_id": 2}}
    news = read("pull_request", pull("opened") | {"pull_request": foreign})
    assert news.is_empty
    assert "fork" in news.what


def test_a_review_that_the_desk_wrote_is_ours_and_anybody_elses_is_not():
    ours = signed_review("reviewer", Verdict.APPROVED, "fine")
    assert read("pull_request_comment", pull("reviewed", review={"content": ours})).is_ours
    quoted = f"> {ours}"
    assert not read("pull_request_comment", pull("reviewed", review={"content": quoted})).is_ours
