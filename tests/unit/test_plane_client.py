"""The Plane client against a small Plane that really answers."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quarterdeck.forge.plane import Plane
from quarterdeck.forge.plane_budget import PER_MINUTE
from quarterdeck.forge.tracker import SOURCE, Group
from quarterdeck.kernel.connections import Connections, Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Misconfigured, NotFound, Unavailable
from quarterdeck.kernel.keyring import Keyring
from tests.fakes.clock import ManualClock
from tests.fakes.plane import KEY, FakePlane


@pytest.fixture
def fake() -> Iterator[FakePlane]:
    with FakePlane() as plane:
        yield plane


@pytest.fixture
def clock(database: Database) -> ManualClock:
    database.clock = clock = ManualClock()
    return clock


@pytest.fixture
async def connections(database: Database, clock: ManualClock, tmp_path: Path) -> Connections:
    return Connections(database, Keyring(tmp_path / "keys"))


async def connect(database: Database, connections: Connections, value: dict[str, str]) -> None:
    async with database.command("connect") as unit:
        await connections.put(unit, "plane", "default", value, Source.API)


@pytest.fixture
async def plane(fake: FakePlane, database: Database, connections: Connections) -> AsyncIterator[Plane]:
    await connect(database, connections, fake.connection)
    yield Plane(database, connections)


async def test_it_knows_who_it_is_and_which_projects_and_states_there_are(
    plane: Plane, fake: FakePlane
) -> None:
    project = fake.books.project("ORC", "Orchestrator")
    assert await plane.myself() == fake.bot
    assert (await plane.project("orc")).id == project == (await plane.project(project)).id
    states = await plane.states(project)
    assert [state.group for state in states] == [
        Group.BACKLOG, Group.UNSTARTED, Group.STARTED, Group.STARTED, Group.COMPLETED, Group.CANCELLED,
    ]  # fmt: skip
    with pytest.raises(NotFound, match="There is: ORC"):
        await plane.project("NONE")


async def test_projects_and_states_are_found_where_plane_gives_few_at_once(
    plane: Plane, fake: FakePlane
) -> None:
    fake.most_per_page = 100
    projects = [fake.books.project(f"P{number}") for number in range(120)]
    assert (await plane.project("P119")).id == projects[-1]
    assert len(await plane.states(projects[-1])) == 6


async def test_states_and_its_own_id_are_asked_for_once_in_ten_minutes(
    plane: Plane, fake: FakePlane, clock: ManualClock
) -> None:
    project = fake.books.project("ORC")
    for _ in range(3):
        await plane.states(project)
        await plane.myself()
    assert (fake.count("GET", "/states/"), fake.count("GET", "/users/me/")) == (1, 1)
    clock.go(601)
    await plane.states(project)
    assert fake.count("GET", "/states/") == 2


async def test_what_is_made_twice_under_one_id_is_one_thing(plane: Plane, fake: FakePlane) -> None:
    project = fake.books.project("ORC")
    first = await plane.create(project, "Fix login", "It is <b>broken</b>\nsince Monday.", "high", "ET-001")
    assert await plane.create(project, "Fix login", "", "high", "ET-001") == first
    row = fake.books.issues[first]
    assert (row["external_source"], row["external_id"], row["priority"]) == (SOURCE, "ET-001", "high")
    assert row["description_html"] == "<p>It is &lt;b&gt;broken&lt;/b&gt;<br>since Monday.</p>"
    said = await plane.comment(project, first, "Done & <dusted>", "ET-001#1")
    assert await plane.comment(project, first, "Done & <dusted>", "ET-001#1") == said
    assert fake.comments(first) == ["<p>Done &amp; &lt;dusted&gt;</p>"]


async def test_an_issue_is_moved_by_group_to_the_first_state_of_it(plane: Plane, fake: FakePlane) -> None:
    project = fake.books.project("ORC")
    issue = fake.books.file(project, fake.bot, "Fix login")
    await plane.set_state(project, issue, Group.STARTED)
    assert fake.state(issue) == "In Progress"
    with pytest.raises(Conflict, match="no state of the group 'triage'"):
        await plane.set_state(project, issue, Group.TRIAGE)


async def test_issues_come_newest_change_first_and_the_last_page_has_no_next(
    plane: Plane, fake: FakePlane
) -> None:
    project, anna = fake.books.project("ORC"), fake.books.person("anna")
    issues = [fake.books.file(project, anna, f"Number {number}") for number in range(60)]
    fake.books.change(issues[0], anna, labels=[fake.books.label(project, "bug")])
    first = await plane.changed(project)
    assert (first.issues[0].id, first.issues[0].labels, first.issues[0].group) == (
        issues[0], ("bug",), Group.BACKLOG,
    )  # fmt: skip
    second = await plane.changed(project, first.next_page)
    assert (len(first.issues), len(second.issues), second.next_page) == (50, 10, "")
    assert {issue.id for issue in first.issues + second.issues} == set(issues)


async def test_brief_issues_come_a_thousand_at_once_without_descriptions(
    plane: Plane, fake: FakePlane
) -> None:
    project, anna = fake.books.project("ORC"), fake.books.person("anna")
    labels = [fake.books.label(project, "bug")]
    issue = fake.books.file(project, anna, "Fix login", labels=labels, description_html="<p>Please</p>")
    whole = await plane.issue(project, issue)
    assert whole.description == "Please"
    assert (await plane.changed(project, is_brief=True)).issues == (replace(whole, description=""),)
    for number in range(1000):
        fake.books.file(project, anna, f"Number {number}")
    first = await plane.changed(project, is_brief=True)
    second = await plane.changed(project, first.next_page, is_brief=True)
    assert (len(first.issues), [one.id for one in second.issues], second.next_page) == (1000, [issue], "")


async def test_an_edition_that_gives_fewer_at_once_is_asked_for_fewer_from_then_on(
    plane: Plane, fake: FakePlane
) -> None:
    project, anna = fake.books.project("ORC"), fake.books.person("anna")
    issues = {fake.books.file(project, anna, f"Number {number}") for number in range(101)}
    fake.most_per_page = 100
    first = await plane.changed(project, is_brief=True)
    second = await plane.changed(project, first.next_page, is_brief=True)
    assert {issue.id for issue in first.issues + second.issues} == issues
    assert [call.status for call in fake.calls] == [400, 200, 200]


async def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(
    plane: Plane, fake: FakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.forge.plane.MOST_BYTES", 100_000)
    project = fake.books.project("ORC")
    for number in range(300):
        fake.books.file(project, fake.bot, f"Number {number}")
    first = await plane.changed(project, is_brief=True)
    assert (len(first.issues), bool(first.next_page)) == (100, True)


async def test_pages_of_different_sizes_are_never_put_together(plane: Plane, fake: FakePlane) -> None:
    project = fake.books.project("ORC")
    for number in range(1001):
        fake.books.file(project, fake.bot, f"Number {number}")
    first = await plane.changed(project, is_brief=True)
    fake.most_per_page = 100
    with pytest.raises(Conflict):
        await plane.changed(project, first.next_page, is_brief=True)
    assert len((await plane.changed(project, is_brief=True)).issues) == 100


async def test_an_issue_is_found_by_its_key(plane: Plane, fake: FakePlane) -> None:
    project = fake.books.project("ORC")
    issue = fake.books.file(project, fake.bot, "Fix login")
    assert (await plane.by_key("ORC-1")).id == issue
    with pytest.raises(Conflict) as refused:
        await plane.by_key("ORC-2")
    assert refused.value.data["status"] == 404


async def test_a_comment_says_who_wrote_its_present_text(plane: Plane, fake: FakePlane) -> None:
    project, anna = fake.books.project("ORC"), fake.books.person("anna")
    issue = fake.books.file(project, anna, "Fix login")
    fresh = fake.books.say(issue, anna, "fine")
    edited = fake.books.say(issue, anna, "fine")
    fake.books.edit(edited, fake.bot, ":approved:")
    editors = {comment.id: comment.editor for comment in await plane.comments(project, issue)}
    assert editors == {fresh: anna, edited: fake.bot}
    assert (await plane.comment_of(project, issue, edited)).text == ":approved:"


async def test_it_stays_within_the_minute_whoever_asks(
    plane: Plane, fake: FakePlane, clock: ManualClock, database: Database, connections: Connections
) -> None:
    project = fake.books.project("ORC")
    issue = fake.books.file(project, fake.bot, "Fix login")
    other = Plane(database, connections)
    for number in range(PER_MINUTE):
        await (plane if number % 2 else other).issue(project, issue)
    with pytest.raises(Unavailable) as refused:
        await plane.issue(project, issue)
    assert refused.value.code == "too_many_requests"
    assert 60 <= refused.value.data["retry_after"] <= 61
    clock.go(61)
    fake.rest()
    await plane.issue(project, issue)
    assert {call.status for call in fake.calls} == {200}


async def test_who_is_in_no_hurry_leaves_the_last_requests_to_others(plane: Plane, fake: FakePlane) -> None:
    project = fake.books.project("ORC")
    for _ in range(PER_MINUTE - 20):
        await plane.changed(project, spare=20)
    with pytest.raises(Unavailable):
        await plane.changed(project, spare=20)
    await plane.changed(project)


async def test_a_429_closes_the_door_for_all_for_as_long_as_plane_says(
    database: Database, connections: Connections, clock: ManualClock
) -> None:
    with FakePlane(limit=2) as fake:
        await connect(database, connections, fake.connection)
        plane, other = Plane(database, connections), Plane(database, connections)
        await plane.projects()
        await plane.projects()
        with pytest.raises(Unavailable) as refused:
            await plane.projects()
        assert refused.value.data["retry_after"] > 50
        asked = len(fake.calls)
        clock.go(30)
        with pytest.raises(Unavailable):
            await other.projects()
        assert len(fake.calls) == asked
        clock.go(refused.value.data["retry_after"] - 30)
        fake.rest()
        await other.projects()


async def test_down_refused_and_wrong_are_told_apart(
    plane: Plane, fake: FakePlane, database: Database, connections: Connections
) -> None:
    fake.fail("GET", "/projects/", 500)
    with pytest.raises(Unavailable) as down:
        await plane.projects()
    assert (down.value.code, down.value.data["maybe_arrived"]) == ("server_error", True)
    for raw in (b"<html>hello", b'{"detail": 1}', b'[["x"]]'):
        fake.fail("GET", "/projects/", 200, raw=raw)
        with pytest.raises(Unavailable) as wrong:
            await plane.projects()
        assert wrong.value.code == "wrong_answer"
    await connect(database, connections, fake.connection | {"api_key": "plane_api_canary"})
    with pytest.raises(Conflict, match="does not know our API key") as refused:
        await plane.projects()
    assert refused.value.data["status"] == 403
    assert "canary" not in str(refused.value)


async def test_nothing_listens_is_down_and_no_address_is_a_mistake_of_ours(
    database: Database, connections: Connections, clock: ManualClock
) -> None:
    plane = Plane(database, connections)
    assert not await plane.is_connected()
    with pytest.raises(Misconfigured, match="not connected"):
        await plane.projects()
    value = {"url": "http://127.0.0.1:1", "workspace": "orch", "api_key": KEY}
    await connect(database, connections, value)
    with pytest.raises(Unavailable) as down:
        await plane.projects()
    assert down.value.code == "unreachable"
