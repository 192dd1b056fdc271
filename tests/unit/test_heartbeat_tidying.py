"""What heartbeats remember of work that vanished is dropped after a month, and nothing else is."""

from pathlib import Path

import pytest

from quarterdeck.heartbeat.sources.notes import Notes
from quarterdeck.heartbeat.work import Status, Trouble
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import NotFound
from tests.fakes.surroundings import OWNER
from tests.fakes.watch import Watch

DAY = 24 * 60


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol()
    return made


async def remembered(watch: Watch) -> list[str]:
    async with watch.database.read() as session:
        return sorted(row.ref for row in await watch.sweeper._records.work_known(session, "developer"))


async def test_work_that_no_source_lists_is_forgotten_after_thirty_days(watch: Watch) -> None:
    for id in ("c1", "c2"):
        watch.cards.put(id)
    await watch.sweep()
    await watch.end_runs()
    del watch.cards.kept["c1"]
    watch.minutes(29 * DAY)
    assert await watch.sweeper.forget_vanished() == 0
    watch.minutes(2 * DAY)
    assert await watch.sweeper.forget_vanished() == 1
    assert await remembered(watch) == ["c2"], "it waits for its review"
    watch.cards.change("c2", status=Status.DONE)
    assert await watch.sweeper.forget_vanished() == 1


async def test_notes_go_with_the_work_that_they_are_about(watch: Watch) -> None:
    notes = Notes(watch.database, "workboard")
    for id in ("c1", "c2"):
        found = watch.cards.put(id)
        await notes.set_rounds(found.ref, 3)
    del watch.cards.kept["c1"]
    watch.minutes(29 * DAY)
    await watch.sweeper.forget_vanished()
    assert dict(await notes.rounds()) == {"c1": 3, "c2": 3}
    watch.minutes(2 * DAY)
    await watch.sweeper.forget_vanished()
    assert dict(await notes.rounds()) == {"c2": 3}


async def test_nothing_is_forgotten_while_one_of_its_places_cannot_be_looked_into(watch: Watch) -> None:
    watch.cards.put("c1", "The same")
    watch.multica.put("m1", "The same")
    await watch.sweep()
    await watch.end_runs()
    del watch.cards.kept["c1"]
    watch.multica.down = Trouble.TIMED_OUT
    watch.minutes(31 * DAY)
    assert await watch.sweeper.forget_vanished() == 0
    watch.multica.down = None
    assert await watch.sweeper.forget_vanished() == 0, "it stands there still"
    del watch.multica.kept["m1"]
    assert await watch.sweeper.forget_vanished() == 1


async def test_work_with_a_run_or_with_something_owed_is_kept(watch: Watch) -> None:
    watch.cards.put("c1")
    await watch.sweep()
    watch.cards.kept.clear()
    watch.minutes(31 * DAY)
    assert await watch.sweeper.forget_vanished() == 0, "its run goes on"
    watch.cards.down = Trouble.FAILED
    await watch.end_runs()
    watch.cards.down = None
    watch.minutes(31 * DAY)
    assert await watch.sweeper.forget_vanished() == 0, "its result waits for the board"


async def test_work_that_was_forgotten_is_no_longer_known_by_name(watch: Watch) -> None:
    watch.cards.put("c1")
    await watch.sweep()
    await watch.end_runs()
    watch.cards.kept.clear()
    watch.minutes(31 * DAY)
    await watch.sweeper.forget_vanished()
    with pytest.raises(NotFound):
        await watch.sweeper.allow(OWNER, "developer", "workboard:c1")
