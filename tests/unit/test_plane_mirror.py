"""Issues of Plane and items of ours: in, once; followed; never started by ourselves."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from quarterdeck.board.cards import Changes, Draft, Wanted
from quarterdeck.board.model import OUTSIDE, Priority, Project, State
from quarterdeck.forge.tracker import SOURCE
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.kernel.inbox_model import Ignored
from quarterdeck.pipeline.mirror_sweep import sweep
from tests.fakes.clock import Later
from tests.fakes.plane_house import OWNER, PlaneCompany, plane_company


@pytest.fixture
async def company(database: Database, tmp_path: Path) -> AsyncIterator[PlaneCompany]:
    async with plane_company(database, tmp_path) as company:
        await company.open()
        yield company


async def keys(company: PlaneCompany) -> list[str]:
    return [card.key for card in (await company.house.board.items(Wanted())).items]


async def test_a_new_issue_becomes_an_item_with_its_text_priority_and_labels(company: PlaneCompany) -> None:
    label = company.books.label(company.project, "bug")
    html = "<h2>Steps</h2><ol><li>Open</li><li>Press <b>Login</b></li></ol><pre>x &lt; 1</pre>"
    fields = {"description_html": html, "priority": "urgent", "labels": [label]}
    company.books.file(company.project, company.anna, "Fix login", **fields)
    assert await company.hear() == ["Filed ET-001."]
    card = await company.house.board.item("ET-001")
    assert (card.title, card.priority, card.labels, card.reporter) == (
        "Fix login", Priority.URGENT, ("bug",), "anna",
    )  # fmt: skip
    assert card.description == "## Steps\n\n1. Open\n2. Press **Login**\n\n```\nx < 1\n```"


@pytest.mark.parametrize("seed", range(4))
async def test_deliveries_twice_and_shuffled_end_where_plane_is(company: PlaneCompany, seed: int) -> None:
    books, anna = company.books, company.anna
    issues = [books.file(company.project, anna, f"Number {n}") for n in range(3)]
    for turn in range(3):
        books.change(issues[0], anna, name=f"Turn {turn}", priority=["low", "high", "urgent"][turn])
    books.change(issues[1], company.stranger, description_html="<p>More</p>")
    await company.hear_twice_and_shuffled(Random(seed))
    cards = (await company.house.board.items(Wanted())).items
    assert {(card.title, card.priority.value, card.description) for card in cards} == {
        ("Turn 2", "urgent", ""), ("Number 1", "none", "More"), ("Number 2", "none", ""),
    }  # fmt: skip
    assert len(cards) == 3


async def test_an_issue_that_many_take_at_once_is_one_item(company: PlaneCompany) -> None:
    company.books.file(company.project, company.anna, "Fix login")
    [hook] = company.news()
    told = await asyncio.gather(*(company.hear(hook) for _ in range(8)))
    assert [answer for answer in told if answer == ["Filed ET-001."]] == [["Filed ET-001."]]
    assert await keys(company) == ["ET-001"]


async def test_what_was_changed_only_here_stays_when_something_else_changes_there(
    company: PlaneCompany,
) -> None:
    issue, key = await company.filed()
    await company.house.board.edit(OWNER, key, Changes(title="Mend the login"))
    company.books.change(issue, company.anna, priority="high")
    assert await company.hear() == [f"{key}: priority."]
    card = await company.house.board.item(key)
    assert (card.title, card.priority) == ("Mend the login", Priority.HIGH)


async def test_what_nobody_should_work_on_is_not_taken(company: PlaneCompany) -> None:
    books, project = company.books, company.project
    other = books.project("ELSE")
    books.file(other, company.anna, "Elsewhere")
    books.file(project, company.plane.bot, "By the desk's own key")
    books.file(project, company.anna, "Copied", external_source=SOURCE, external_id="ET-001")
    books.file(project, company.anna, "Draft", is_draft=True)
    books.file(project, company.anna, "Closed", state=books.state_named(project, "Done"))
    books.file(project, company.anna, "Triage", state=books.state_named(project, "Triage"))
    books.file(project, company.anna, "Old", created_at="2020-01-01T00:00:00Z")
    assert all(isinstance(told, Ignored) for told in await company.hear())
    assert (await sweep(company.house.mirror)).issues == 0
    assert await keys(company) == []


async def test_whoever_may_work_cancels_by_moving_the_issue_and_others_do_not(company: PlaneCompany) -> None:
    for actor, state in ((company.vera, State.QUEUED), (company.stranger, State.QUEUED)):
        issue, key = await company.filed()
        company.books.move(issue, actor, "Cancelled")
        await company.hear()
        assert (await company.house.board.item(key)).state is state
    issue, key = await company.filed()
    company.books.move(issue, company.anna, "Cancelled")
    assert await company.hear() == [f"{key}: cancelled."]
    assert (await company.house.board.item(key)).state is State.CANCELLED


async def test_the_second_version_of_webhooks_leads_to_the_same(database: Database, tmp_path: Path) -> None:
    async with plane_company(database, tmp_path, version=2) as company:
        await company.open()
        issue, key = await company.filed()
        company.books.change(issue, company.anna, name="Fix the login", priority="low")
        await company.hear()
        await company.ask(key)
        said = company.books.say(issue, company.vera, "well")
        company.books.edit(said, company.plane.bot, ":approved:")
        await company.hear()
        assert (await company.house.board.item(key)).state is State.WAITING_APPROVAL
        company.books.say(issue, company.anna, ":approved:")
        assert (await company.hear())[-1] == f"{key}: approved by anna."
        card = await company.house.board.item(key)
        assert (card.title, card.priority, card.stage) == ("Fix the login", Priority.LOW, "development")


async def test_an_issue_that_is_gone_when_it_is_looked_for_is_let_be(
    database: Database, tmp_path: Path
) -> None:
    async with plane_company(database, tmp_path, version=2) as company:
        await company.open()
        company.books.remove(company.books.file(company.project, company.anna, "Never mind"))
        assert await company.hear() == ["It is not there any more."]


async def test_an_item_filed_here_becomes_an_issue_once_and_does_not_come_back(company: PlaneCompany) -> None:
    draft = Draft(project="ET", title="Greet", description="By name & kindly", priority=Priority.HIGH)
    key = (await company.house.board.file(OWNER, draft)).key
    company.plane.fail("POST", "/work-items/", 500, worked=True)
    await company.tell()
    company.house.database.clock = Later(company.house.database.clock)
    await company.tell()
    [issue] = company.books.issues.values()
    assert (issue["name"], issue["external_id"], issue["priority"]) == ("Greet", key, "high")
    await company.hear()
    company.books.change(issue["id"], company.anna, name="Greet everybody")
    await company.hear()
    assert await keys(company) == [key]
    assert (await company.house.board.item(key)).title == "Greet everybody"


async def test_lost_deliveries_are_found_by_looking(company: PlaneCompany) -> None:
    known, key = await company.filed()
    for number in range(60):
        company.books.file(company.project, company.anna, f"Number {number}")
    company.books.change(known, company.anna, name="Fix the login")
    company.news()  # lost, all of them
    swept = await sweep(company.house.mirror)
    assert (swept.issues, swept.is_whole) == (61, True)
    assert (await company.house.board.item(key)).title == "Fix the login"
    titles = [card.title for card in (await company.house.board.items(Wanted(), limit=100)).items]
    assert sorted(titles) == sorted(["Fix the login", *(f"Number {number}" for number in range(60))])
    assert (await sweep(company.house.mirror)).issues == 0


async def test_a_sweep_stops_at_the_limit_and_goes_on_there(company: PlaneCompany) -> None:
    for number in range(120):
        company.books.file(company.project, company.anna, f"Number {number}")
    for _ in range(33):  # of the 35 that a sweep may use, two are left (one request was for the link)
        await company.house.plane.by_key("ORC-1")
    first = await sweep(company.house.mirror)
    assert (first.is_whole, 0 < first.issues < 120) == (False, True)
    company.house.database.clock = Later(company.house.database.clock)
    company.plane.rest()
    second = await sweep(company.house.mirror)
    assert (second.is_whole, first.issues + second.issues) == (True, 120)


async def test_everything_open_there_is_taken_when_that_is_wished(database: Database, tmp_path: Path) -> None:
    async with plane_company(database, tmp_path) as company:
        company.books.file(company.project, company.anna, "Old and open")
        await company.open(everything=True)
        assert (await sweep(company.house.mirror)).issues == 1


async def test_a_project_follows_one_other_and_both_must_exist(company: PlaneCompany) -> None:
    with pytest.raises(Conflict, match="ET follows ORC already"):
        await company.house.mirror.link(OWNER, "ET", "ORC")
    with pytest.raises(NotFound, match="no project 'XX'"):
        await company.house.mirror.link(OWNER, "XX", "ORC")
    with pytest.raises(NotFound, match="There is: ORC"):
        await company.house.mirror.link(OWNER, "ET", "NONE")
    async with company.house.database.command("find work") as unit:
        unit.session.add(Project(key="HB", name="Found", pipeline=OUTSIDE, created_at=unit.now))
    with pytest.raises(Conflict, match="heartbeats found elsewhere"):
        await company.house.mirror.link(OWNER, "HB", "ORC")
