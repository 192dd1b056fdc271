"""What the desk decides about issues of a tracker and what is said in them. Pure."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from quarterdeck.board.model import State
from quarterdeck.forge.tracker import CLOSED, SOURCE, Group, Issue

APPROVED, REJECTED = ":approved:", ":rejected:"
LONGEST_REMARK = 4_000

OVERLAP = timedelta(minutes=2)
"""A change may become visible that much later than it was made."""

_MARKER = re.compile(rf"(?<![\w:])({APPROVED}|{REJECTED})(?![\w:])", re.IGNORECASE)


@dataclass(frozen=True)
class Said:
    """A decision in a comment, and what else the comment says."""

    approved: bool
    remark: str

    @property
    def word(self) -> str:
        return "approved" if self.approved else "rejected"


def said(text: str) -> Said | None:
    """The decision in a comment (tags, quotes and code taken out before); None = it decides nothing.

    A comment that says both is a rejection: nothing goes on that somebody may not have wanted.
    """
    markers = {found.lower() for found in _MARKER.findall(text)}
    if not markers:
        return None
    remark = " ".join(_MARKER.sub(" ", text).split())[:LONGEST_REMARK].strip()
    return Said(REJECTED not in markers, remark)


def group_of(state: State, *, has_begun: bool) -> Group:
    """In which kind of state an issue should be while its item is in this one."""
    if state is State.DONE:
        return Group.COMPLETED
    if state is State.CANCELLED:
        return Group.CANCELLED
    return Group.STARTED if has_begun or state is not State.QUEUED else Group.UNSTARTED


def why_not_taken(issue: Issue, takes_from: datetime, myself: str) -> str:
    """Why an issue does not become an item; empty = it does."""
    if issue.external_source == SOURCE or issue.author == myself:
        return "it was made with the desk's own key"
    if issue.is_draft:
        return "it is a draft or archived"
    if issue.group in CLOSED:
        return "it is closed"
    if issue.group is Group.TRIAGE:
        return "it waits for triage"
    if issue.created_at < takes_from:
        return "it is older than the link"
    return ""


def content(issue: Issue, before: Mapping[str, Any]) -> dict[str, Any]:
    """What is remembered of an issue, to know a change by; what it does not tell stays as it was."""
    return {
        "title": issue.title,
        "description": hashlib.sha256(issue.description.encode()).hexdigest(),
        "priority": issue.priority,
        "labels": list(issue.labels) if issue.labels is not None else before.get("labels", []),
        "group": issue.group.value if issue.group else before.get("group", ""),
    }


def changes(issue: Issue, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that changed in the tracker since it was last looked at, in the board's words.

    What changed only on our side stays.
    """
    told = {
        "title": issue.title,
        "description": issue.description,
        "priority": issue.priority,
        "labels": issue.labels or (),
    }
    return {name: value for name, value in told.items() if before and before.get(name) != after.get(name)}


def was_cancelled(issue: Issue, before: Mapping[str, Any]) -> bool:
    """Did somebody just put the issue among the cancelled?"""
    return issue.group is Group.CANCELLED and before.get("group") != Group.CANCELLED.value
