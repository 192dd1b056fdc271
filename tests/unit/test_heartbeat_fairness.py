"""Work that leads nowhere takes no turn from other work; a late answer of a person spoils nothing."""

from pathlib import Path

import pytest

from quarterdeck.heartbeat.adoption import Adoption, Opened, Order
from quarterdeck.heartbeat.model import Result
from quarterdeck.heartbeat.service import Sweeper
from quarterdeck.heartbeat.sources.trouble import unavailable
from quarterdeck.heartbeat.work import Found, Ref, Status, Trouble
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict
from tests.fakes.surroundings import OWNER
from tests.fakes.watch import Watch

EXCUSES = ("no such file", "out of memory", "a wrong password")


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol(slots=1)
    return made


async def in_vain(watch: Watch) -> None:
    """As many runs without progress as show that there is none, each with another excuse."""
    for excuse in EXCUSES:
        await watch.sweep()
        await watch.end_runs(exit_code=1, error=excuse)
        watch.minutes(15)


async def in_vain_again(watch: Watch) -> None:
    """A run that ends like the one before."""
    await watch.sweep()
    await watch.end_runs(exit_code=1, error="it broke")
    watch.minutes(15)


async def test_work_that_fails_again_and_again_in_other_ways_does_not_starve_what_comes_after_it(
    watch: Watch,
) -> None:
    watch.multica.put("ENG-1", priority="urgent")
    watch.multica.put("ENG-2", priority="low")
    await in_vain(watch)
    assert (watch.multica.status("ENG-1"), watch.multica.status("ENG-2")) == (Status.TODO, Status.TODO)
    await watch.sweep()
    assert (watch.multica.status("ENG-1"), watch.multica.status("ENG-2")) == (Status.TODO, Status.IN_PROGRESS)


async def test_what_a_person_unblocked_has_its_turn_again(watch: Watch) -> None:
    watch.multica.put("ENG-1", priority="urgent")
    await in_vain(watch)
    await watch.sweeper.unblock(OWNER, "developer", "multica:ENG-1")
    watch.multica.put("ENG-2", priority="low")
    await watch.sweep()
    assert watch.multica.status("ENG-1") is Status.IN_PROGRESS


async def test_unblocking_what_is_done_by_now_does_not_do_it_again(watch: Watch) -> None:
    watch.multica.put("ENG-1")
    await watch.sweep()
    with pytest.raises(Conflict, match="goes on"):
        await watch.sweeper.unblock(OWNER, "developer", "multica:ENG-1")
    await watch.end_runs()
    with pytest.raises(Conflict, match="is done"):
        await watch.sweeper.unblock(OWNER, "developer", "multica:ENG-1")
    await watch.sweep()
    assert (watch.multica.status("ENG-1"), len(await watch.runs())) == (Status.IN_REVIEW, 1)


async def test_what_failed_in_one_place_and_was_done_in_another_meanwhile_is_closed_not_done_again(
    watch: Watch,
) -> None:
    watch.cards.put("c1", "Fix the login")
    await watch.sweep()
    await watch.end_runs(exit_code=1, error="it broke")
    watch.cards.down = Trouble.FAILED
    watch.multica.put("ENG-1", "Fix the login")
    watch.minutes(15)
    await watch.sweep()
    await watch.end_runs()
    watch.multica.change("ENG-1", status=Status.DONE)  # a reviewer was content
    watch.cards.down = None
    watch.minutes(15)
    await watch.sweep()
    assert (watch.cards.status("c1"), len(await watch.runs())) == (Status.IN_REVIEW, 2)


async def test_the_breaker_counts_on_where_only_another_place_of_the_work_can_be_seen(watch: Watch) -> None:
    watch.sweeper.add(watch.plane)
    watch.plane.put("p1", "Fix the login")
    await in_vain_again(watch)
    watch.plane.down = Trouble.FAILED
    watch.multica.put("ENG-1", "Fix the login")
    await in_vain_again(watch)
    watch.plane.down = None
    for _ in range(3):
        await in_vain_again(watch)
    assert len(await watch.runs()) == 3
    assert (watch.plane.status("p1"), watch.multica.status("ENG-1")) == (Status.OTHER, Status.BLOCKED)


async def test_what_turned_up_while_our_own_engine_did_finished_work_anew_is_closed_too(watch: Watch) -> None:
    watch.multica.put("ENG-1", "Fix the login")
    await watch.sweep()
    await watch.end_runs()
    watch.board.put("ET-1", "Fix the login", status=Status.IN_PROGRESS)
    watch.cards.put("c1", "Fix the login")
    await watch.sweep()
    watch.board.change("ET-1", status=Status.DONE)
    watch.multica.change("ENG-1", status=Status.DONE)
    watch.minutes(15)
    await watch.sweep()
    assert (watch.cards.status("c1"), len(await watch.runs())) == (Status.IN_REVIEW, 1)


# What breaks


async def test_a_source_that_hangs_is_read_once_in_a_sweep_and_holds_up_no_other(watch: Watch) -> None:
    read: list[str] = []

    async def hang(ref: Ref) -> Found | None:
        read.append(ref.id)
        raise unavailable(Trouble.TIMED_OUT, "openclaw did not end within 60 s.")

    for number in range(3):
        watch.cards.put(f"c{number}")
        watch.cards.put(f"old{number}", status=Status.IN_PROGRESS)
    watch.minutes(50)
    watch.multica.put("ENG-1")
    watch.cards.read = hang  # type: ignore[method-assign]
    await watch.sweep()
    assert (len(read), watch.multica.status("ENG-1")) == (1, Status.IN_PROGRESS)


async def test_a_source_that_breaks_while_one_piece_is_read_holds_up_no_other(watch: Watch) -> None:
    async def broken(_: Ref) -> Found | None:
        raise RuntimeError("a bug")

    watch.cards.put("c1")
    watch.cards.put("c2", status=Status.IN_PROGRESS)
    watch.minutes(50)
    watch.multica.put("ENG-1")
    watch.cards.read = broken  # type: ignore[method-assign]
    swept = await watch.sweep()
    assert "c1 cannot be read: workboard broke: RuntimeError." in swept.warnings
    assert (swept.result, watch.multica.status("ENG-1")) == (Result.WORKED, Status.IN_PROGRESS)


class Picky(Adoption):
    """Breaks at one piece of work."""

    async def start(self, unit: Unit, order: Order) -> Opened:
        if order.piece.title == "Cursed":
            raise ValueError("its title has a secret")
        return await super().start(unit, order)


async def test_a_piece_of_work_that_cannot_be_begun_fails_its_sweep_and_holds_up_no_other(
    watch: Watch,
) -> None:
    watch.sweeper = Sweeper(watch.database, watch.crew, watch.places, starter=Picky(watch.crew))
    watch.multica.put("ENG-1", "Cursed", priority="urgent")
    watch.multica.put("ENG-2")
    swept = await watch.sweep()
    assert (swept.result, swept.detail) == (Result.FAILED, "start ENG-1: ValueError")
    assert (watch.multica.status("ENG-1"), watch.multica.status("ENG-2")) == (Status.TODO, Status.IN_PROGRESS)
