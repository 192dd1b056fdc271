"""What Plane's webhooks say, read off real deliveries and off the documented second version."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.forge.plane_shapes import news
from quarterdeck.forge.tracker import Group
from quarterdeck.kernel import signatures
from quarterdeck.kernel.errors import Invalid
from tests.fakes.plane import FakePlane
from tests.fakes.plane_books import Books
from tests.fakes.plane_hooks import SECRET, Hook
from tests.waiting import wait_until

DATA = Path(__file__).parent.parent / "data" / "plane"
REAL = [json.loads(line) for line in (DATA / "webhooks.jsonl").read_text().splitlines()]
REAL_SECRET = "plane_wh_6cd56b98a7834e09a50365309b51a825"
BOT = "dbef3de7-6678-4504-ba74-7e3807ed5637"


def test_a_real_delivery_is_read_and_its_signature_fits() -> None:
    issues = []
    for real in REAL:
        raw = real["body"].encode()
        assert signatures.is_hex_hmac(REAL_SECRET, raw, real["headers"]["X-Plane-Signature"])
        issues.append(news(json.loads(raw)).issue)
    created, moved, hurried = issues
    assert created and moved and hurried
    assert (created.title, created.description, created.priority) == ("Fix login", "desc", "high")
    assert (created.group, moved.group, hurried.priority) == (Group.BACKLOG, Group.STARTED, "urgent")
    assert {created.editor, moved.editor, hurried.author} == {BOT}
    assert (created.external_source, created.external_id, created.number) == ("orch", "t-2", 3)
    assert moved.changed_at == hurried.changed_at == datetime(2026, 11, 21, 19, 27, 29, 85079, UTC)


def told(version: int) -> tuple[Books, list[Hook]]:
    hooks: list[Hook] = []
    return Books(hooks.append, version=version), hooks


def test_the_fake_speaks_as_the_real_one_does() -> None:
    books, hooks = told(1)
    project, anna = books.project("ORC"), books.person("anna")
    issue = books.file(project, anna, "Fix login")
    books.change(issue, anna, priority="urgent", state=books.state_named(project, "In Progress"))
    assert [hook.about for hook in hooks] == ["issue created", "issue updated", "issue updated"]
    for real, fake in zip(REAL, hooks, strict=True):
        ours, theirs = fake.payload, json.loads(real["body"])
        assert ours.keys() == theirs.keys()
        assert ours["activity"].keys() == theirs["activity"].keys()
        assert ours["activity"]["actor"].keys() == theirs["activity"]["actor"].keys()
        missing = theirs["data"].keys() - ours["data"].keys()
        assert not missing & {"id", "name", "state", "labels", "priority", "created_by", "updated_by"}
        assert signatures.is_hex_hmac(SECRET, fake.body, fake.headers["X-Plane-Signature"])
    assert hooks[1].payload["data"] == hooks[2].payload["data"]


def test_a_comment_says_who_wrote_its_text_without_quotes_and_code() -> None:
    books, hooks = told(1)
    project, anna, bot = books.project("ORC"), books.person("anna"), books.person("bot")
    issue = books.file(project, anna, "Fix login")
    html = (
        "<blockquote>Waiting for :approved:</blockquote><p>not <strong>yet</strong></p><pre>:approved:</pre>"
    )
    said = books.say(issue, anna, html)
    books.edit(said, bot, ":approved:")
    created, edited = (news(hook.payload).comment for hook in hooks[1:])
    assert created and edited
    assert (created.text, created.editor, created.issue) == ("not yet", anna, issue)
    assert (edited.text, edited.author, edited.editor) == (":approved:", anna, bot)


def test_the_second_version_is_believed_where_it_says_who_and_looked_up_where_it_does_not() -> None:
    books, hooks = told(2)
    project, anna = books.project("ORC"), books.person("anna")
    issue = books.file(project, anna, "Fix login")
    books.change(issue, anna, name="Fix the login")
    said = books.say(issue, anna, "fine :approved:")
    books.edit(said, anna, "fine")
    filed, changed, commented, edited = (news(hook.payload) for hook in hooks)
    assert filed.look_at == changed.look_at == (project, issue, "")
    assert commented.comment
    assert (commented.comment.text, commented.comment.editor) == ("fine :approved:", anna)
    assert edited.look_at == (project, issue, said)


def test_the_second_versions_slips_are_borne() -> None:
    slip = {"version": "v2", "event": "WebhookScope.ScopeChoices.WORK_ITEM_UPDATED", "entity_id": "i1"}
    assert news(slip | {"data": {"id": "None", "project": "p1"}}).look_at == ("p1", "i1", "")
    assert news(slip | {"event": "workitem.archived", "data": {}}).look_at is None


@pytest.mark.parametrize("event", ["project", "cycle", "module", "issue", "issue_comment", ""])
def test_what_is_deleted_or_of_no_interest_is_nothing_for_us(event: str) -> None:
    for action in ("deleted", "created") if event not in ("issue", "issue_comment") else ("deleted",):
        found = news({"event": event, "action": action, "data": {"id": "x"}})
        assert (found.issue, found.comment, found.look_at) == (None, None, None)


def test_a_stranger_cannot_bring_in_more_than_text() -> None:
    data = json.loads(REAL[0]["body"])
    data["data"] |= {
        "name": " x\x00 " * 400,
        "description_html": "<script>alert(1)</script><p>Hi <a href='javascript:x()'>there</a></p>",
        "priority": "cosmic",
        "labels": [{"name": "  " + "l" * 80}, {"name": ""}, {"name": None}, {"name": "bug"}, {"name": "bug"}],
    }
    issue = news(data).issue
    assert issue
    assert len(issue.title) <= 300
    assert "\x00" not in issue.title
    assert (issue.description, issue.priority) == ("Hi there", "none")
    assert issue.labels == ("l" * 50, "bug")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({*json.loads(REAL[0]["body"])["data"], "comment_html", "actor", "issue", "comment"})


@given(
    st.sampled_from(["issue", "issue_comment", "workitem.updated", "workitem.comment.created"]),
    st.sampled_from(["v1", "v2"]),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    JSON,
)
def test_wrongly_typed_deliveries_are_refused_and_break_nothing(
    event: str, version: str, broken: dict[str, Any], activity: Any
) -> None:
    data = json.loads(REAL[0]["body"])["data"] | broken
    payload = {"event": event, "action": "updated", "version": version, "data": data, "activity": activity}
    with suppress(Invalid):
        news(payload)


def test_the_fake_repeats_what_found_nobody_and_never_what_was_refused() -> None:
    """As the real one: an answer of any kind ends a delivery, and who is never there is given up."""
    with FakePlane() as plane, FakePlane() as receiver:
        project, anna = plane.books.project("ORC"), plane.books.person("anna")
        receiver.fail("POST", "/hook", 500)
        sender = plane.tell(f"{receiver.url}/hook")
        for number in range(2):
            plane.books.file(project, anna, f"Number {number}")
        wait_until(lambda: len(sender.answers) == 2)
        assert sender.answers[0] == 500
        assert receiver.count("POST", "/hook") == 2
    with FakePlane(pause=0) as plane:
        sender = plane.tell("http://127.0.0.1:9/hook")
        plane.books.file(plane.books.project("ORC"), plane.books.person("anna"), "Fix login")
        wait_until(lambda: not sender.is_active)
        assert sender.answers == []
