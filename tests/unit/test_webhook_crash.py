"""Killed before and after every commit: what was answered is kept, and what is kept is worked on."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.inbox import DEATHS, LEASE, Delivery, Inbox, Standing
from tests.fakes.clock import ManualClock
from tests.fakes.forking import Forks


@pytest.fixture
def clock(database: Database) -> ManualClock:
    """Goes by the machine's clock at first, as the killed process does."""
    database.clock = clock = ManualClock()
    clock.time = datetime.now(UTC)
    return clock


async def killed(forks: Forks, point: str, *arguments: str) -> str:
    """What a process said before it was killed at a point."""
    ended = await forks.run("tests.fakes.webhook_process", *arguments, QUARTERDECK_CRASH_AT=point)
    assert ended.code == -9
    return ended.said


def noting(file: Path) -> dict[str, object]:
    async def note(delivery: Delivery) -> str:
        with file.open("a", encoding="utf-8") as notes:
            notes.write(f"{delivery.delivery_id}\n")
        return "noted"

    return {"plane": note}


@pytest.mark.parametrize(("point", "is_known"), [("before", False), ("after", True)])
async def test_a_door_killed_at_its_commit_loses_nothing_that_it_answered(
    forks: Forks, database: Database, database_url: str, point: str, is_known: bool
):
    """The sender that got no answer sends again, and nothing comes of it twice."""
    said = await killed(forks, f"{point} accept deliveries#2", "accept", database_url, "1", "2")
    assert said == "1 True\n"
    inbox = Inbox(database)
    assert await inbox.accept("plane", "2", "issue", {}, b'{"number": 2}') is not is_known
    assert not await inbox.accept("plane", "1", "issue", {}, b'{"number": 1}')
    assert [entry.delivery_id for entry in await inbox.entries(None, None, 99, 9)] == ["2", "1"]


@pytest.mark.parametrize(
    ("point", "worked_on"),
    [
        ("before take delivery", ["1", "2"]),
        ("after take delivery", ["1", "2"]),
        ("before the effect", ["1", "2"]),
        ("after the effect", ["1", "1", "2"]),  # what handlers must bear
        ("before settle delivery", ["1", "1", "2"]),
        ("after settle delivery", ["1", "2"]),
    ],
)
async def test_a_desk_killed_at_any_point_leaves_its_delivery_to_the_next(
    forks: Forks,
    database: Database,
    database_url: str,
    clock: ManualClock,
    tmp_path: Path,
    point: str,
    worked_on: list[str],
):
    inbox, notes = Inbox(database), tmp_path / "notes"
    for number in (1, 2):
        await inbox.accept("plane", str(number), "issue", {}, b'{"number": %d}' % number)
    await killed(forks, point, "work", database_url, str(notes))
    clock.time = datetime.now(UTC) + LEASE + timedelta(seconds=1)
    assert await inbox.work_off(noting(notes)) is None
    assert notes.read_text().split() == worked_on
    assert {entry.state for entry in await inbox.entries(None, None, 99, 9)} == {Standing.DONE}


async def test_before_the_lease_of_a_dead_desk_is_over_nobody_takes_its_delivery(
    forks: Forks, database: Database, database_url: str, clock: ManualClock, tmp_path: Path
):
    inbox, notes = Inbox(database), tmp_path / "notes"
    await inbox.accept("plane", "1", "issue", {}, b'{"number": 1}')
    await killed(forks, "after take delivery", "work", database_url, str(notes))
    clock.time = datetime.now(UTC)
    seconds = await inbox.work_off(noting(notes))
    assert not notes.exists()
    assert seconds is not None and 0 < seconds <= LEASE.total_seconds()


async def test_a_delivery_over_which_desks_die_is_given_up_and_said_so(
    forks: Forks, database: Database, database_url: str, clock: ManualClock, tmp_path: Path
):
    inbox, notes = Inbox(database), tmp_path / "notes"
    for number in (1, 2):
        await inbox.accept("plane", str(number), "issue", {}, b'{"number": %d}' % number)
    for _ in range(DEATHS):
        await killed(forks, "before the effect", "work", database_url, str(notes))
        async with database.engine.begin() as connection:  # as if the lease's time were over
            await connection.exec_driver_sql("update inbox set leased_until = now() where id = 1")
    clock.time = datetime.now(UTC)
    await inbox.work_off(noting(notes))
    first, second = await inbox.show(1), await inbox.show(2)
    assert (first.state, second.state) == (Standing.FAILED, Standing.DONE)
    assert "died" in first.outcome
    await inbox.replay(1)
    await inbox.work_off(noting(notes))
    assert notes.read_text().split() == ["2", "1"]
