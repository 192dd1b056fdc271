"""How Plane writes issues and comments: in answers of its API and in webhooks of both versions. Pure.

Source: spec/contracts.md section 3, observed on the community edition; version 2 as its documentation
describes it, read leniently. A shape that says too little raises `Invalid`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from quarterdeck.forge.markup import markdown, spoken, storable
from quarterdeck.forge.tracker import Comment, Group, Issue
from quarterdeck.kernel.errors import Invalid

LONGEST_TITLE, LONGEST_LABEL, MOST_LABELS = 300, 50, 50
PRIORITIES = frozenset({"urgent", "high", "medium", "low", "none"})


@dataclass(frozen=True)
class News:
    """What a webhook told. Exactly one of `issue`, `comment` and `look_at` is set, or none: nothing for us.

    `look_at` = (project, issue, comment or empty): the delivery says too little, ask Plane.
    """

    about: str
    issue: Issue | None = None
    comment: Comment | None = None
    look_at: tuple[str, str, str] | None = None


def news(payload: Mapping[str, Any]) -> News:
    """A delivery of either version. Raises `Invalid` for what is none."""
    return _news_v2(payload) if payload.get("version") == "v2" else _news_v1(payload)


def _news_v1(payload: Mapping[str, Any]) -> News:
    event, action = _word(payload.get("event")), _word(payload.get("action"))
    about = f"{event} {action}".strip()
    data, activity = _mapping(payload.get("data")), _mapping(payload.get("activity"))
    actor = identity(activity.get("actor"))
    if action not in ("created", "updated", "create", "update"):
        return News(about)
    if event == "issue":
        return News(about, issue=issue_of(data, editor=actor))
    if event == "issue_comment":
        changed = action.startswith("update")
        editor = actor or ("" if changed else identity(data.get("actor")))
        return News(about, comment=comment_of(data, editor=editor))
    return News(about)


def _news_v2(payload: Mapping[str, Any]) -> News:
    """Of a work item only that it changed is believed: what the rest looks like differs from text to text."""
    about = _word(payload.get("event")).lower().replace("webhookscope.scopechoices.", "")
    about = about.replace("work_item", "workitem").replace("workitem_", "workitem.")
    data = _mapping(payload.get("data"))
    project = identity(data.get("project_id") or data.get("project"))
    if about in ("workitem.created", "workitem.updated"):
        issue = _needed(identity(data.get("id")) or payload.get("entity_id"))
        return News(about, look_at=(project, issue, ""))
    said = _mapping(data.get("comment"))
    issue = identity(said.get("issue_id") or data.get("id"))
    if about == "workitem.comment.created" and project and identity(said.get("actor_id")):
        text = {"issue": issue, "project": project, "actor": said.get("actor_id")}
        return News(about, comment=comment_of({**said, **text}, editor=identity(said.get("actor_id"))))
    if about in ("workitem.comment.created", "workitem.comment.updated"):
        return News(about, look_at=(project, _needed(issue), _needed(said.get("id"))))
    return News(about)


def issue_of(data: Mapping[str, Any], *, editor: str = "") -> Issue:
    """An issue of a webhook or of the API; without `editor` whoever the issue itself names last."""
    group, state = _state(data.get("state"))
    author = identity(data.get("created_by"))
    return Issue(
        id=_needed(data.get("id")),
        project=_needed(data.get("project") or data.get("project_id")),
        number=data["sequence_id"] if isinstance(data.get("sequence_id"), int) else 0,
        title=" ".join(_text(data.get("name")).split())[:LONGEST_TITLE].strip() or "(no title)",
        description=_description(data),
        priority=_word(data.get("priority")) if _word(data.get("priority")) in PRIORITIES else "none",
        labels=_labels(data.get("labels")),
        group=group,
        state=state,
        author=author,
        editor=editor or identity(data.get("updated_by")) or author,
        external_source=_word(data.get("external_source")),
        external_id=_word(data.get("external_id")),
        created_at=_moment(data.get("created_at")),
        changed_at=_moment(data.get("updated_at") or data.get("created_at")),
        is_draft=data.get("is_draft") is True or bool(_word(data.get("archived_at"))),
    )


def comment_of(data: Mapping[str, Any], *, editor: str | None = None) -> Comment:
    """A comment; with `editor` None the comment itself says who wrote its text, if anybody knows."""
    author = identity(data.get("actor") or data.get("created_by"))
    changed = _word(data.get("updated_at")) or _word(data.get("created_at"))
    return Comment(
        id=_needed(data.get("id")),
        issue=_needed(data.get("issue") or data.get("issue_id")),
        project=_needed(data.get("project") or data.get("project_id")),
        text=spoken(_text(data.get("comment_html")) or _text(data.get("comment_stripped"))),
        author=author,
        editor=_editor(data, author) if editor is None else editor,
        external_source=_word(data.get("external_source")),
        changed_at=_moment(changed) if changed else datetime.max.replace(tzinfo=UTC),
    )


def _editor(data: Mapping[str, Any], author: str) -> str:
    """Who wrote the text as it is: `updated_by`, else the author as long as it was never changed."""
    if editor := identity(data.get("updated_by")):
        return editor
    return "" if _word(data.get("edited_at")) else author


def identity(value: Any) -> str:
    """The id of something that is told as an id, or as an object that has one."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return _word(value)[:64]


def _state(value: Any) -> tuple[Group | None, str]:
    name = _word(_mapping(value).get("group")).lower()
    return (Group(name) if name in {group.value for group in Group} else None), identity(value)


def _labels(value: Any) -> tuple[str, ...] | None:
    """None = told as ids only."""
    if not isinstance(value, list):
        return None
    if any(not isinstance(label, Mapping) for label in value):
        return None
    names = [_text(label.get("name")).strip()[:LONGEST_LABEL].strip() for label in value]
    return tuple(dict.fromkeys(name for name in names if name))[:MOST_LABELS]


def _description(data: Mapping[str, Any]) -> str:
    source = _text(data.get("description_html"))
    return markdown(source) if source else _text(data.get("description_stripped"))[:100_000].strip()


def _moment(value: Any) -> datetime:
    try:
        found = datetime.fromisoformat(_word(value))
    except ValueError:
        raise _too_little("a time") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _needed(value: Any) -> str:
    found = identity(value)
    if not found:
        raise _too_little("an id")
    return found


def _too_little(what: str) -> Invalid:
    return Invalid(f"Plane sent something without {what}.", "Look at the delivery; was it really Plane?")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return storable(value) if isinstance(value, str) and value != "None" else ""


def _word(value: Any) -> str:
    """A short text; `"None"` is how some deliveries write nothing."""
    return _text(value).strip()[:300]
