"""What Plane is told: written with the decision, done afterwards, in order, once, whatever breaks."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.board.model import State
from quarterdeck.forge.tracker_model import PostState
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.pipeline.posts import Posts
from tests.fakes.clock import Later
from tests.fakes.plane_house import OWNER, PlaneCompany, plane_company


@pytest.fixture
async def company(database: Database, tmp_path: Path) -> AsyncIterator[PlaneCompany]:
    async with plane_company(database, tmp_path) as company:
        await company.open()
        yield company


def later(house: House) -> None:
    house.database.clock = Later(house.database.clock)


async def test_the_issue_follows_where_the_item_stands(company: PlaneCompany) -> None:
    issue, key = await company.filed()
    await company.tell()
    assert company.plane.state(issue) == "Todo"
    await company.ask(key)
    await company.tell()
    assert company.plane.state(issue) == "In Progress"
    assert company.plane.comments(issue) == [
        f"<p>📋 {key}: BRD/spec/AC are ready. Waiting for :approved: in Plane</p>"
    ]
    await company.house.engine.decide(key, OWNER, approved=True, comment="go")
    await company.block(key, "CI is red on main too")
    await company.tell()
    assert company.plane.state(issue) == "In Progress"
    assert "approved (owner, test)" in company.plane.comments(issue)[1]
    assert "CI is red on main too → Mend it, then retry." in company.plane.comments(issue)[2]
    await company.house.engine.cancel(key, OWNER)
    await company.tell()
    assert company.plane.state(issue) == "Cancelled"


async def test_another_state_of_the_same_kind_is_left_as_a_person_chose_it(company: PlaneCompany) -> None:
    issue, key = await company.filed()
    await company.tell()
    company.books.move(issue, company.anna, "In Review")
    await company.hear()
    await company.ask(key)
    await company.tell()
    assert company.plane.state(issue) == "In Review"


async def test_nothing_is_sent_inside_a_decision_and_nothing_is_told_of_items_without_an_issue(
    company: PlaneCompany,
) -> None:
    asked = len(company.plane.calls)
    _, key = await company.filed()
    await company.ask(key)
    assert [call.path for call in company.plane.calls[asked:]] == ["/api/v1/users/me/"]


async def test_what_failed_half_is_done_once(company: PlaneCompany) -> None:
    issue, key = await company.filed()
    await company.ask(key)
    company.plane.fail("POST", "/comments/", 500, worked=True)
    company.plane.fail("PATCH", "/work-items/", 502, times=2)
    await company.tell()
    for _ in range(3):
        later(company.house)
        await company.tell()
    assert len(company.plane.comments(issue)) == 1
    assert company.plane.state(issue) == "In Progress"
    assert {post.state for post in await company.house.posts.page()} == {PostState.SENT}


async def test_the_posts_of_an_item_keep_their_order_and_hold_up_no_other(company: PlaneCompany) -> None:
    first, key = await company.filed()
    second, other = await company.filed("Another")
    await company.tell()
    company.plane.fail("POST", f"{first}/comments/", 503)
    await company.ask(key)
    await company.block_after_approval(key)
    await company.ask(other)
    await company.tell()
    assert (len(company.plane.comments(first)), len(company.plane.comments(second))) == (0, 1)
    later(company.house)
    await company.tell()
    told = company.plane.comments(first)
    assert [mark in text for mark, text in zip(("📋", "👍", "⛔"), told, strict=True)] == [True] * 3


async def test_two_desks_tell_everything_once(company: PlaneCompany) -> None:
    house = company.house
    other = Posts(house.database, house.plane, house.board, house.notify.text)
    issues = [await company.asked() for _ in range(4)]
    await asyncio.gather(house.posts.work_off(), other.work_off())
    assert [len(company.plane.comments(issue)) for issue, _ in issues] == [1] * 4
    assert company.plane.count("POST", "/comments/") == 4


async def test_what_a_desk_left_when_it_died_is_done_by_the_next(company: PlaneCompany) -> None:
    issue, _ = await company.asked()
    dying = company.house.posts
    taken = await dying._taken()
    assert taken
    assert await dying.work_off() is not None
    assert company.plane.comments(issue) == []
    later(company.house)
    again = await dying._taken()
    assert again
    await dying._settle(taken, PostState.DEAD, "too late")
    await dying._do(again)
    await company.tell()
    assert len(company.plane.comments(issue)) == 1
    assert {post.state for post in await company.house.posts.page()} == {PostState.SENT}


async def test_a_refusal_is_kept_until_a_person_sends_it_again(company: PlaneCompany) -> None:
    issue, _ = await company.asked()
    company.plane.fail("POST", "/comments/", 400)
    await company.tell()
    posts = company.house.posts
    [dead] = await posts.page(PostState.DEAD)
    assert "refused: 400" in dead.reason
    await posts.resend(dead.id)
    await company.tell()
    assert len(company.plane.comments(issue)) == 1
    with pytest.raises(Conflict, match="is sent"):
        await posts.resend(dead.id)
    with pytest.raises(NotFound):
        await posts.resend(999)


async def test_a_refusal_that_nobody_misses_is_dismissed_and_told_in_the_journal(
    company: PlaneCompany,
) -> None:
    issue, key = await company.asked()
    company.plane.fail("POST", "/comments/", 400)
    await company.tell()
    posts = company.house.posts
    [dead] = await posts.page(PostState.DEAD)
    for _ in range(2):
        assert (await posts.dismiss(dead.id, "anna")).state is PostState.DISMISSED
    assert await posts.page(PostState.DEAD) == []
    told = [one for one in (await company.house.board.events(key)).items if one.kind == "letter_dismissed"]
    assert [(one.data["message"], one.data["channel"], one.data["by"]) for one in told] == [
        (dead.id, "plane", "anna")
    ]
    await posts.resend(dead.id)
    await company.tell()
    assert len(company.plane.comments(issue)) == 1
    with pytest.raises(Conflict, match="is sent"):
        await posts.dismiss(dead.id, "anna")


async def test_a_wrong_key_makes_them_wait_until_it_is_mended(company: PlaneCompany) -> None:
    issue, _ = await company.asked()
    value = company.plane.connection
    await put(company, value | {"api_key": "plane_api_wrong"})
    await company.tell()
    assert {post.state for post in await company.house.posts.page()} == {PostState.QUEUED}
    await put(company, value)
    later(company.house)
    await company.tell()
    assert len(company.plane.comments(issue)) == 1


async def put(company: PlaneCompany, value: dict[str, str]) -> None:
    async with company.house.database.command("connect") as unit:
        await company.house.connections.put(unit, "plane", "default", value, Source.API)


async def test_a_project_without_such_a_state_is_said_and_the_rest_goes_on(company: PlaneCompany) -> None:
    issue, key = await company.asked()
    for state in [i for i, s in company.books.states.items() if s["group"] == "started"]:
        del company.books.states[state]
    await company.tell()
    assert len(company.plane.comments(issue)) == 1
    assert any("no state of the group 'started'" in p.reason for p in await company.house.posts.page())
    assert (await company.house.board.item(key)).state is State.WAITING_APPROVAL
