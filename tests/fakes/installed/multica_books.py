"""What a Multica knows: issues and comments of workspaces, and the rules that both its doors share.

Standard library only. Source: spec contracts.md, section 2.
"""

import uuid
from datetime import UTC, datetime
from typing import Any

STATUSES = ["backlog", "todo", "in_progress", "in_review", "done", "blocked", "cancelled"]
CLOSED = ("done", "cancelled")
EMPTY: dict[str, Any] = {
    "token": "mul_0123456789abcdef", "workspace": "11111111-1111-4111-8111-111111111111", "number": 0,
    "custom": {}, "issues": [], "comments": [], "runs": [], "calls": [], "fault": "",
}  # fmt: skip
MOST = 100


class Trouble(Exception):
    """An HTTP status with its words."""

    def __init__(self, status: int, words: str, code: str = "") -> None:
        super().__init__(words)
        self.status, self.words, self.code = status, words, code


def stamp() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def create(state: dict[str, Any], title: str, **fields: Any) -> dict[str, Any]:
    """A new issue; fields as Multica has them."""
    state["number"] += 1
    issue = {
        "id": str(uuid.uuid4()), "workspace_id": state["workspace"], "number": state["number"],
        "identifier": f"MUL-{state['number']}", "title": title, "description": "", "status": "todo",
        "priority": "none", "assignee_type": None, "assignee_id": None, "creator_type": "member",
        "creator_id": "22222222-2222-4222-8222-222222222222", "parent_issue_id": None, "project_id": None,
        "created_at": stamp(), "updated_at": stamp(), "revision": 1, "metadata": {}, "labels": [],
    } | fields  # fmt: skip
    state["issues"].append(issue)
    return issue


def _told(state: dict[str, Any], issue: dict[str, Any]) -> dict[str, Any]:
    return issue | {"status_category": state["custom"].get(issue["status"], issue["status"])}


def find(state: dict[str, Any], identity: str) -> dict[str, Any]:
    for issue in state["issues"]:
        if identity in (issue["id"], issue["identifier"]):
            return issue
    raise Trouble(404, "issue not found")


def listed(state: dict[str, Any], asked: dict[str, str]) -> dict[str, Any]:
    found = [_told(state, issue) for issue in state["issues"]]
    if "status" in asked:
        found = [i for i in found if i["status"] == asked["status"]]
    if asked.get("open_only") == "true":
        found = [i for i in found if i["status_category"] not in CLOSED]
        return {"issues": found, "total": len(found)}
    if "assignee_id" in asked:
        _must_be_uuid(asked["assignee_id"])
        found = [i for i in found if i["assignee_id"] == asked["assignee_id"]]
    start, limit = int(asked.get("offset", 0)), min(int(asked.get("limit", MOST)), MOST)
    return {"issues": found[start : start + limit], "total": len(found)}


def _must_be_uuid(text: str) -> None:
    try:
        uuid.UUID(text)
    except ValueError:
        raise Trouble(400, "invalid assignee_id") from None


def update(state: dict[str, Any], identity: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Change an issue. Without `suppress_run` an agent that has it begins to work."""
    issue, changes = find(state, identity), dict(changes)
    suppressed = changes.pop("suppress_run", False)
    if "status" in changes and changes["status"] not in [*STATUSES, *state["custom"]]:
        raise Trouble(400, f"invalid status {changes['status']!r}")
    issue.update(changes, updated_at=stamp(), revision=issue["revision"] + 1)
    if issue["assignee_id"] and not suppressed:
        state["runs"].append(issue["id"])
    return _told(state, issue)


def comment(state: dict[str, Any], identity: str, content: str) -> dict[str, Any]:
    issue = find(state, identity)
    if not content.strip():
        raise Trouble(400, "content is required")
    if "](/" in content or "](file:" in content:
        raise Trouble(400, "local file links are not allowed")
    if "mention://agent" in content or "](mention:" in content:
        state["runs"].append(issue["id"])
    made = {"id": str(uuid.uuid4()), "issue_id": issue["id"], "author_type": "member", "content": content,
            "created_at": stamp(), "updated_at": stamp(), "parent_id": None}  # fmt: skip
    state["comments"].append(made)  # the issue itself is as it was
    return made


def comments(state: dict[str, Any], identity: str) -> list[dict[str, Any]]:
    issue = find(state, identity)
    return [c for c in state["comments"] if c["issue_id"] == issue["id"]]


def delete_comment(state: dict[str, Any], identity: str) -> None:
    found = [c for c in state["comments"] if c["id"] == identity]
    if not found:
        raise Trouble(404, "comment not found")
    state["comments"].remove(found[0])
