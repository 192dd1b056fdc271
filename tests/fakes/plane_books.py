"""What the fake Plane knows: people, projects, issues and comments, and what it tells when they change."""

import re
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from uuid import uuid4

from tests.fakes.plane_hooks import Hook, first_version, second_version

GROUPS = {
    "Triage": "triage",
    "Backlog": "backlog",
    "Todo": "unstarted",
    "In Progress": "started",
    "In Review": "started",
    "Done": "completed",
    "Cancelled": "cancelled",
}


class Books:
    """The workspace. Every change says who makes it; `tell` gets the deliveries that it causes."""

    def __init__(self, tell: Callable[[Hook], None], *, version: int = 1) -> None:
        self.version = version
        self.workspace = str(uuid4())
        self.people: dict[str, dict[str, Any]] = {}
        self.projects: dict[str, dict[str, Any]] = {}
        self.states: dict[str, dict[str, Any]] = {}
        self.labels: dict[str, dict[str, Any]] = {}
        self.issues: dict[str, dict[str, Any]] = {}
        self.comments: dict[str, dict[str, Any]] = {}
        self._tell = tell
        self._last = datetime.now(UTC)

    # People and projects

    def person(self, name: str) -> str:
        """Their id."""
        row: dict[str, Any] = {
            "id": str(uuid4()),
            "first_name": name.capitalize(),
            "last_name": "",
            "email": f"{name}@example.com",
            "avatar": "",
            "avatar_url": None,
            "display_name": name,
        }
        self.people[row["id"]] = row
        return str(row["id"])

    def project(self, identifier: str, name: str = "") -> str:
        """Its id; it gets the usual states."""
        row = {"id": str(uuid4()), "identifier": identifier, "name": name or identifier}
        self.projects[row["id"]] = row
        for place, (title, group) in enumerate(GROUPS.items()):
            state: dict[str, Any] = {"id": str(uuid4()), "name": title, "group": group, "color": "#60646C"}
            state |= {"project": row["id"], "sequence": 15000.0 * place, "default": title == "Backlog"}
            self.states[state["id"]] = state
        return row["id"]

    def label(self, project: str, name: str) -> str:
        row = {"id": str(uuid4()), "name": name, "color": "#fff", "project": project}
        self.labels[row["id"]] = row
        return row["id"]

    def state_named(self, project: str, name: str) -> str:
        return next(i for i, s in self.states.items() if (s["project"], s["name"]) == (project, name))

    # Issues

    def file(self, project: str, actor: str, name: str, **fields: Any) -> str:
        """A new issue; its id."""
        now = self._now()
        number = 1 + sum(issue["project"] == project for issue in self.issues.values())
        row: dict[str, Any] = {
            "id": str(uuid4()),
            "name": name,
            "description": {},
            "description_html": "<p></p>",
            "priority": "none",
            "state": self.state_named(project, "Backlog"),
            "labels": [],
            "assignees": [],
            "sequence_id": number,
            "parent": None,
            "is_draft": False,
            "archived_at": None,
            "completed_at": None,
            "external_source": None,
            "external_id": None,
            "created_at": now,
            "updated_at": now,
            "created_by": actor,
            "updated_by": None,
            "project": project,
            "workspace": self.workspace,
        } | fields
        self.issues[row["id"]] = row
        self._tell_of_issue(row, "created", actor, [(None, None, None)])
        return str(row["id"])

    def change(self, issue: str, actor: str, **fields: Any) -> None:
        """One delivery for every field."""
        row = self.issues[issue]
        changed = [(name, row[name], value) for name, value in fields.items() if row[name] != value]
        row.update(fields, updated_at=self._now(), updated_by=actor)
        self._tell_of_issue(row, "updated", actor, changed)

    def move(self, issue: str, actor: str, state: str) -> None:
        """Into the state of that name."""
        self.change(issue, actor, state=self.state_named(self.issues[issue]["project"], state))

    def remove(self, issue: str) -> None:
        """As through the API: nobody is told."""
        del self.issues[issue]

    # Comments

    def say(self, issue: str, actor: str, text: str, **fields: Any) -> str:
        """A comment; its id. `text` without tags becomes a paragraph."""
        now, about = self._now(), self.issues[issue]
        row: dict[str, Any] = {
            "id": str(uuid4()),
            "issue": issue,
            "actor": actor,
            "comment_html": text if text.startswith("<") else f"<p>{text}</p>",
            "access": "INTERNAL",
            "parent": None,
            "external_source": None,
            "external_id": None,
            "created_at": now,
            "updated_at": now,
            "edited_at": None,
            "created_by": actor,
            "updated_by": None,
            "project": about["project"],
            "workspace": self.workspace,
        } | fields
        self.comments[row["id"]] = row
        self._tell_of_comment(row, "created", actor, None)
        return str(row["id"])

    def edit(self, comment: str, actor: str, text: str) -> None:
        """Somebody changes what a comment says; it keeps its author."""
        row, now = self.comments[comment], self._now()
        before = row["comment_html"]
        row.update(comment_html=f"<p>{text}</p>", updated_at=now, edited_at=now, updated_by=actor)
        self._tell_of_comment(row, "updated", actor, before)

    # Telling

    def expanded(self, row: dict[str, Any], names: tuple[str, ...] = ("state", "assignees", "labels")) -> Any:
        """An issue with whole objects in the place of ids."""
        whole = deepcopy(row)
        if "state" in names:
            state = self.states[row["state"]]
            whole["state"] = {key: state[key] for key in ("id", "name", "color", "group")}
        if "assignees" in names:
            whole["assignees"] = [self.people[person] for person in row["assignees"]]
        if "labels" in names:
            whole["labels"] = [self.labels[label] for label in row["labels"]]
        return whole

    def _tell_of_issue(
        self, row: dict[str, Any], action: str, actor: str, changed: list[tuple[Any, Any, Any]]
    ) -> None:
        if self.version == 2:
            previous = {name: before for name, before, _ in changed if name}
            data = {"id": row["id"], "project_id": row["project"], "name": row["name"], "parent": None}
            self._tell(second_version(f"workitem.{action}", data, previous))
            return
        for name, before, after in changed:
            activity = {"field": name, "old_value": before, "new_value": after, "actor": self.people[actor]}
            stripped = {"description_stripped": words(row["description_html"])}
            self._tell(first_version("issue", action, self.expanded(row) | stripped, activity))

    def _tell_of_comment(self, row: dict[str, Any], action: str, actor: str, before: str | None) -> None:
        if self.version == 2:
            said = {"id": row["id"], "actor_id": row["actor"], "issue_id": row["issue"], "access": "INTERNAL"}
            said["comment_stripped"] = words(row["comment_html"])
            data = {"id": row["issue"], "project_id": row["project"], "comment": said, "parent": None}
            self._tell(second_version(f"workitem.comment.{action}", data, {}))
            return
        activity: dict[str, Any] = {"field": "comment_html" if before else None, "old_value": before}
        activity |= {"new_value": row["comment_html"] if before else None, "actor": self.people[actor]}
        left_out = ("edited_at",)
        data = {key: deepcopy(value) for key, value in row.items() if key not in left_out}
        self._tell(first_version("issue_comment", action, data, activity))

    def _now(self) -> str:
        """Now, and later than ever before."""
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        return self._last.isoformat().replace("+00:00", "Z")


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def words(source: str) -> str:
    """HTML as the real one strips it."""
    reader = _Words()
    reader.feed(source)
    return re.sub(r"\s+", " ", "".join(reader.found)).strip()
