"""The same work in several places: done once, closed in all of them, whichever could be looked into."""

from pathlib import Path

import pytest

from quarterdeck.heartbeat.overview import Piece
from quarterdeck.heartbeat.service import Steps
from quarterdeck.heartbeat.sweeping import SweepUnderWay
from quarterdeck.heartbeat.work import Need, Ref, Status, Trouble
from quarterdeck.kernel.database import Database
from tests.fakes.watch import Watch


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol()
    return made


async def test_the_same_work_in_two_places_is_done_once_and_closed_in_both(watch: Watch) -> None:
    watch.cards.put("c1", "ENG-1: Fix  the LOGIN")
    watch.multica.put("ENG-1", "fix the login ")
    await watch.sweep()
    assert len(await watch.runs()) == 1
    assert watch.cards.status("c1") is watch.multica.status("ENG-1") is Status.IN_PROGRESS
    await watch.end_runs()
    assert watch.cards.status("c1") is watch.multica.status("ENG-1") is Status.IN_REVIEW


async def test_work_that_comes_to_our_own_board_during_a_sweep_is_left_to_our_engine(watch: Watch) -> None:
    watch.cards.put("c1", "Fix the login")

    async def begin(under_way: SweepUnderWay, piece: Piece) -> bool:
        watch.clock.go(1)
        watch.board.put("ET-1", "fix  the LOGIN", status=Status.IN_PROGRESS)
        return await under_way.start(piece)

    await watch.sweeper.sweep("developer", steps=Steps(start=begin))
    assert (await watch.runs(), watch.cards.status("c1")) == ([], Status.TODO)
    watch.minutes(15)
    await watch.sweep()
    watch.board.change("ET-1", status=Status.DONE)
    watch.minutes(15)
    await watch.sweep()
    assert (await watch.runs(), watch.cards.status("c1")) == ([], Status.IN_REVIEW)


async def test_work_that_was_done_while_its_other_place_was_down_is_closed_there_not_done_again(
    watch: Watch,
) -> None:
    watch.cards.put("c1", "Fix the login")
    watch.multica.put("ENG-1", "Fix the login")
    watch.cards.down = Trouble.MISSING
    await watch.sweep()
    await watch.end_runs()
    watch.cards.down = None
    watch.minutes(15)
    await watch.sweep()
    assert len(await watch.runs()) == 1
    assert watch.cards.status("c1") is Status.IN_REVIEW


async def test_work_that_was_known_before_its_place_went_down_is_closed_there_when_it_is_back(
    watch: Watch,
) -> None:
    needs = (Need(Ref("workboard", "c2"), Status.TODO),)
    watch.cards.put("c1", "Fix the login", needs=needs)
    watch.multica.put("ENG-1", "Fix the login")
    await watch.sweep()  # it waits, and is remembered
    watch.cards.down = Trouble.MISSING
    await watch.sweep()
    await watch.end_runs()
    watch.multica.change("ENG-1", status=Status.DONE)  # a reviewer was content
    watch.cards.down = None
    watch.cards.change("c1", needs=())
    for _ in range(2):
        watch.minutes(15)
        await watch.sweep()
    assert len(await watch.runs()) == 1
    assert watch.cards.status("c1") is Status.IN_REVIEW


async def test_work_that_stands_elsewhere_too_does_not_wait_for_a_source_that_somebody_disconnected(
    watch: Watch,
) -> None:
    watch.cards.put("c1", "Fix the login")
    watch.multica.put("ENG-1", "Fix the login")
    await watch.sweep()
    watch.cards.down = Trouble.NOT_CONFIGURED
    await watch.end_runs(exit_code=1, error="it broke")
    watch.minutes(15)
    await watch.sweep()
    assert [len(await watch.runs()), watch.multica.status("ENG-1")] == [2, Status.IN_PROGRESS]


async def test_what_our_own_engine_did_is_closed_in_its_other_place_not_done_again(watch: Watch) -> None:
    watch.board.put("ET-1", "Fix the login")
    watch.multica.put("ENG-1", "ET-1: Fix the login")
    await watch.sweep()
    watch.board.change("ET-1", status=Status.DONE)
    watch.minutes(15)
    await watch.sweep()
    assert await watch.runs() == []
    assert watch.multica.status("ENG-1") is Status.IN_REVIEW


async def test_what_our_own_engine_did_while_its_other_place_was_down_is_closed_there(watch: Watch) -> None:
    watch.board.put("ET-1", "Fix the login")
    watch.multica.put("ENG-1", "Fix the login")
    watch.multica.down = Trouble.TIMED_OUT
    await watch.sweep()
    watch.board.change("ET-1", status=Status.DONE)
    watch.multica.down = None
    watch.minutes(15)
    await watch.sweep()
    assert (await watch.runs(), watch.multica.status("ENG-1")) == ([], Status.IN_REVIEW)


async def test_what_our_own_engine_gave_up_is_begun_in_its_other_place(watch: Watch) -> None:
    watch.board.put("ET-1", "Fix the login")
    watch.multica.put("ENG-1", "ET-1: Fix the login")
    await watch.sweep()
    watch.board.change("ET-1", status=Status.CANCELLED)
    watch.minutes(15)
    await watch.sweep()
    assert len(await watch.runs()) == 1


async def test_what_somebody_is_at_in_a_place_that_went_down_is_not_begun_where_else_it_stands(
    watch: Watch,
) -> None:
    watch.cards.put("c1", "Fix the login", status=Status.IN_PROGRESS)
    watch.multica.put("ENG-1", "Fix the login")
    await watch.sweep()
    watch.cards.down = Trouble.MISSING
    watch.minutes(15)
    assert (await watch.sweep()).started == 0
    watch.cards.down = None
    watch.cards.change("c1", status=Status.TODO)  # given up
    assert (await watch.sweep()).started == 1


async def test_what_turns_up_while_its_other_place_is_down_is_not_begun_when_somebody_is_at_it_there(
    watch: Watch,
) -> None:
    watch.cards.put("c1", "Fix the login", status=Status.IN_PROGRESS)
    await watch.sweep()
    watch.cards.down = Trouble.MISSING
    watch.multica.put("ENG-1", "fix the login")
    for _ in range(2):
        assert (await watch.sweep()).started == 0
        watch.minutes(15)
    watch.cards.down = None
    watch.cards.change("c1", status=Status.CANCELLED)
    assert (await watch.sweep()).started == 1


async def test_what_somebody_did_in_one_place_is_closed_in_the_other_not_done_again(watch: Watch) -> None:
    watch.cards.put("c1", "Fix the login", status=Status.IN_PROGRESS)
    watch.multica.put("ENG-1", "Fix the login")
    await watch.sweep()
    watch.cards.change("c1", status=Status.DONE)
    watch.minutes(15)
    await watch.sweep()
    assert (await watch.runs(), watch.multica.status("ENG-1")) == ([], Status.IN_REVIEW)


async def test_what_somebody_gave_up_in_one_place_is_begun_in_the_other(watch: Watch) -> None:
    watch.cards.put("c1", "Fix the login", status=Status.IN_PROGRESS)
    watch.multica.put("ENG-1", "Fix the login")
    await watch.sweep()
    watch.cards.change("c1", status=Status.CANCELLED)
    assert (await watch.sweep()).started == 1


async def test_what_our_own_engine_did_is_closed_where_it_stands_blocked_too(watch: Watch) -> None:
    watch.cards.put("c1", "Fix the login")
    await watch.sweep()
    await watch.end_runs(exit_code=1, error="it broke")
    watch.cards.change("c1", status=Status.BLOCKED)
    watch.board.put("ET-1", "Fix the login", status=Status.IN_PROGRESS)
    await watch.sweep()
    watch.board.change("ET-1", status=Status.DONE)
    watch.minutes(15)
    await watch.sweep()
    assert (len(await watch.runs()), watch.cards.status("c1")) == (1, Status.IN_REVIEW)
