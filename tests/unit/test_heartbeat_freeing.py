"""What is held back goes on when a person says so: by a command, or where the work stands."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.board.model import State
from quarterdeck.board.store import item as board_item
from quarterdeck.heartbeat.model import Work
from quarterdeck.heartbeat.work import Status
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from tests.fakes.company import company
from tests.fakes.surroundings import OWNER
from tests.fakes.watch import Watch
from tests.fakes.work_places import PLACES, Place


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol()
    return made


async def held(watch: Watch, **facts: object) -> None:
    """Runs that all end the same way."""
    watch.multica.put("ENG-1", **facts)
    for _ in range(3):
        await watch.sweep()
        await watch.end_runs(exit_code=1, error="it broke")
        watch.minutes(15)
    assert watch.multica.status("ENG-1") is Status.BLOCKED
    await watch.sweep()
    assert len(await watch.runs()) == 3


async def test_whoever_opens_work_again_where_it_stands_lets_it_go_on(watch: Watch) -> None:
    await held(watch)
    watch.multica.change("ENG-1", status=Status.TODO)
    assert (await watch.sweep()).started == 1
    assert watch.multica.status("ENG-1") is Status.IN_PROGRESS
    assert await watch.told("work_unblocked") == [("work_unblocked", "")]
    await watch.end_runs(exit_code=1, error="it broke")
    assert watch.multica.status("ENG-1") is Status.TODO, "repeats are counted anew"


async def test_work_that_is_given_to_somebody_else_goes_on_there(watch: Watch) -> None:
    await held(watch)
    watch.multica.change("ENG-1", status=Status.TODO, agent="coo")
    assert (await watch.sweep("coo")).started == 1


async def test_what_is_open_but_was_not_touched_by_anybody_stays_held_and_is_named(watch: Watch) -> None:
    await held(watch)
    watch.multica.change("ENG-1", status=Status.TODO, updated_at=None, created_at=None)
    swept = await watch.sweep()
    assert (swept.started, swept.warnings[0][:32]) == (0, "ENG-1 is to do, and held back: 3")


async def test_an_item_that_a_person_retried_is_watched_again(watch: Watch) -> None:
    watch.board.put("ET-1", status=Status.IN_PROGRESS)
    for _ in range(3):
        watch.minutes(46)
        await watch.sweep()
        watch.minutes(15)
        await watch.sweep()
        watch.minutes(1)
        watch.board.change("ET-1", status=Status.IN_PROGRESS)
    before = len(watch.board.said("start"))
    await watch.sweep()
    [card] = [c for c in await watch.sweeper.overview() if c.agent == "developer"]
    assert card.breakers == []
    watch.minutes(46)
    await watch.sweep()
    assert len(watch.board.said("start")) == before + 1


@pytest.fixture
async def house(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setenv("QUARTERDECK_SOURCE_SPACING", "0")
    async with company(tmp_path / "home", database_url) as house:
        yield house


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, house: House, tmp_path: Path) -> AsyncIterator[Place]:
    async with PLACES[request.param](house, tmp_path / "places") as place:
        yield place


async def test_unblocking_opens_blocked_work_in_its_own_source(house: House, place: Place) -> None:
    ref = await place.put("Renew the certificate")
    await place.source.block(ref, "It stood still.")
    async with house.database.command("remember") as unit:
        unit.session.add(
            Work(source=ref.source, ref=ref.id, agent="developer", places=[[ref.source, ref.id]],
                 breaker="it timed out 3 times", updated_at=unit.now)
        )  # fmt: skip
    await house.sweeper.unblock(OWNER, "developer", f"{ref.source}:{ref.id}")
    await house.sweeper.settle()
    found = await place.source.read(ref)
    assert found is not None and found.status is Status.TODO


async def test_an_adopted_item_that_a_person_cancelled_is_taken_up_only_when_it_is_unblocked(
    watch: Watch,
) -> None:
    watch.multica.put("ENG-1")
    await watch.sweep()
    await watch.end_runs(exit_code=1, error="it broke")
    async with watch.database.command("cancel") as unit:
        item = await board_item(unit.session, "HB-001", lock=True)
        assert item is not None
        item.state, item.finished_at = State.CANCELLED, unit.now
    for _ in range(2):
        watch.minutes(15)
        await watch.sweep()
    async with watch.database.read() as session:
        item = await board_item(session, "HB-001")
    assert item is not None
    assert (item.state, len(await watch.runs())) == (State.CANCELLED, 1)
    assert watch.multica.status("ENG-1") is Status.BLOCKED
    [card] = [c for c in await watch.sweeper.overview() if c.agent == "developer"]
    assert [breaker.reason for breaker in card.breakers] == ["a person cancelled HB-001"]
    await watch.sweeper.unblock(OWNER, "developer", "HB-001")
    assert (await watch.sweep()).started == 1


async def test_work_of_a_cancelled_item_that_stands_still_is_not_tried_again(watch: Watch) -> None:
    watch.multica.put("ENG-1")
    await watch.sweep()
    await watch.end_runs(exit_code=1, error="it broke")
    async with watch.database.command("cancel") as unit:
        item = await board_item(unit.session, "HB-001", lock=True)
        assert item is not None
        item.state, item.finished_at = State.CANCELLED, unit.now
    watch.multica.change("ENG-1", status=Status.IN_PROGRESS)
    watch.minutes(46)
    await watch.sweep()
    assert len(await watch.runs()) == 1
    assert await watch.told("breaker_opened") == [("breaker_opened", "owner, coo, anna")]
