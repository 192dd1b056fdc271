"""Decisions by comment: by people who may, once, whoever's comment it is and however often it arrives."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from quarterdeck.board.model import State
from quarterdeck.kernel.database import Database
from quarterdeck.pipeline.mirror_rules import Said, said
from quarterdeck.pipeline.mirror_sweep import sweep
from tests.fakes.plane_house import OWNER, PlaneCompany, plane_company


@pytest.fixture
async def company(database: Database, tmp_path: Path) -> AsyncIterator[PlaneCompany]:
    async with plane_company(database, tmp_path) as company:
        await company.open()
        yield company


async def place(company: PlaneCompany, key: str) -> tuple[str, State, int]:
    card = await company.house.board.item(key)
    return card.stage, card.state, card.round


WAITING = ("analysis", State.WAITING_APPROVAL, 1)
APPROVED = ("development", State.QUEUED, 1)
REJECTED = ("analysis", State.QUEUED, 2)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (":approved:", Said(True, "")),
        ("Good work! :Approved:", Said(True, "Good work!")),
        (":rejected: the scope is wrong", Said(False, "the scope is wrong")),
        (":approved: or rather :rejected: no", Said(False, "or rather no")),
        ("approved", None),
        ("not:approved:", None),
        (":approved:ish", None),
        ("::approved::", None),
        (": approved :", None),
    ],
)
def test_only_the_marker_itself_decides(text: str, meant: Said | None) -> None:
    assert said(text) == meant


@pytest.mark.parametrize("seed", range(3))
async def test_an_approval_moves_the_item_on_once_however_often_it_arrives(
    company: PlaneCompany, seed: int
) -> None:
    issue, key = await company.asked()
    company.books.say(issue, company.anna, "<p>Fine, <b>:approved:</b></p>")
    company.books.say(issue, company.vera, "Thanks!")
    await company.hear_twice_and_shuffled(Random(seed))
    await sweep(company.house.mirror)
    assert await place(company, key) == APPROVED
    approval = await company.house.engine.approval_of(key)
    assert approval
    assert (approval.decided_by, approval.door, approval.comment) == ("anna", "plane", "Fine,")


async def test_a_rejection_sends_its_reason_back_and_needs_one(company: PlaneCompany) -> None:
    issue, key = await company.asked()
    company.books.say(issue, company.anna, ":rejected:")
    assert await company.hear() == ["A rejection needs a comment. Say what must change."]
    assert await place(company, key) == WAITING
    company.books.say(issue, company.anna, ":rejected: tests are missing")
    await company.hear()
    assert await place(company, key) == REJECTED
    assert "tests are missing" in (await company.house.board.item(key)).note


async def test_who_may_not_is_told_so_in_an_answer_and_nothing_happens(company: PlaneCompany) -> None:
    issue, key = await company.asked()
    company.books.say(issue, company.vera, ":approved:")
    company.books.say(issue, company.stranger, ":approved:")
    await company.hear_twice_and_shuffled(Random(1))
    await company.tell()
    assert await place(company, key) == WAITING
    told = sorted(company.plane.comments(issue)[-2:])
    assert "Nobody in the roster has this Plane user" in told[0]
    assert "vera may not approve" in told[1]
    assert len(company.plane.comments(issue)) == 5  # two said, one question, two answers


async def test_the_desks_own_words_never_decide(company: PlaneCompany) -> None:
    """Its question holds the marker; it edits a person's comment; a person edits its comment."""
    issue, key = await company.asked()
    await company.tell()
    assert any(":approved:" in text for text in company.plane.comments(issue))
    note = company.books.say(issue, company.anna, "looking at it")
    company.books.edit(note, company.plane.bot, ":approved:")
    company.books.say(issue, company.plane.bot, ":approved:")
    own = next(i for i, c in company.books.comments.items() if c["external_source"])
    company.books.edit(own, company.anna, ":approved:")
    said = len(company.plane.comments(issue))
    await company.hear_twice_and_shuffled(Random(2))
    await sweep(company.house.mirror)
    await company.tell()
    assert await place(company, key) == WAITING
    assert len(company.plane.comments(issue)) == said  # nor is it answered, for ever and ever


async def test_an_edit_counts_if_the_editor_may(company: PlaneCompany) -> None:
    issue, key = await company.asked()
    note = company.books.say(issue, company.anna, "looking at it")
    company.books.edit(note, company.stranger, ":approved:")
    await company.hear()
    assert await place(company, key) == WAITING
    company.books.edit(note, company.anna, ":approved: now")
    await company.hear()
    assert await place(company, key) == APPROVED


async def test_the_second_to_decide_is_told_who_was_first(company: PlaneCompany) -> None:
    issue, key = await company.asked()
    await company.house.engine.decide(key, OWNER, approved=True)
    company.books.say(issue, company.anna, ":rejected: too late")
    await company.hear()
    await company.tell()
    assert await place(company, key) == APPROVED
    assert "was already decided by owner (approved)" in company.plane.comments(issue)[-1]


async def test_an_old_comment_does_not_decide_a_new_question(company: PlaneCompany) -> None:
    """It was lost, another door decided, the agent asks again, and then a sweep finds it."""
    issue, key = await company.asked()
    company.books.say(issue, company.anna, ":approved:")
    company.news()  # lost
    await company.house.engine.decide(key, OWNER, approved=False, comment="again")
    company.house.database.clock = _Ahead()
    await company.ask(key)
    await sweep(company.house.mirror)
    assert await place(company, key) == ("analysis", State.WAITING_APPROVAL, 2)
    await company.tell()
    assert "before approval was asked for" in company.plane.comments(issue)[-1]


class _Ahead:
    def __init__(self, by: timedelta = timedelta(minutes=5)) -> None:
        self.by = by

    def now(self) -> datetime:
        return datetime.now(UTC) + self.by


async def test_what_was_said_to_the_question_before_does_not_decide_one_that_followed_at_once(
    company: PlaneCompany,
) -> None:
    """Within the tolerance for clocks: who spoke cannot have seen what is asked about now."""
    issue, key = await company.asked()
    await company.house.engine.decide(key, OWNER, approved=False, comment="again")
    company.books.say(issue, company.anna, ":approved:")
    company.house.database.clock = _Ahead(timedelta(seconds=10))
    await company.ask(key)
    assert "before approval was asked for" in (await company.hear())[0]
    assert await place(company, key) == ("analysis", State.WAITING_APPROVAL, 2)


async def test_a_tracker_whose_clock_is_a_little_behind_is_heard(company: PlaneCompany) -> None:
    issue, key = await company.filed()
    company.house.database.clock = _Ahead(timedelta(seconds=10))
    await company.ask(key)
    company.books.say(issue, company.anna, ":approved:")
    await company.hear()
    assert await place(company, key) == APPROVED


async def test_a_comment_that_decided_once_does_not_decide_the_next_time(company: PlaneCompany) -> None:
    issue, key = await company.asked()
    note = company.books.say(issue, company.anna, ":rejected: shorter")
    await company.hear()
    await company.ask(key)
    company.books.edit(note, company.anna, ":rejected: shorter, please")
    assert await company.hear() == ["It was heard before."]
    assert await place(company, key) == ("analysis", State.WAITING_APPROVAL, 2)


async def test_a_lost_approval_is_found_by_looking(company: PlaneCompany) -> None:
    issue, key = await company.asked()
    company.books.say(issue, company.anna, ":approved:")
    company.news()  # lost
    assert (await sweep(company.house.mirror)).comments == 1
    assert await place(company, key) == APPROVED


async def test_an_edit_by_an_unknown_hand_is_no_decision(company: PlaneCompany) -> None:
    issue, key = await company.asked()
    note = company.books.say(issue, company.anna, "hm")
    company.books.edit(note, company.anna, ":approved:")
    company.books.comments[note]["updated_by"] = None
    company.news()
    await company.tell()
    said = len(company.plane.comments(issue))
    await sweep(company.house.mirror)
    await company.tell()
    assert await place(company, key) == WAITING
    assert len(company.plane.comments(issue)) == said
