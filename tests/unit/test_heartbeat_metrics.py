"""What Prometheus is told of heartbeats: every sweep counts, also one that found nothing."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import delete

from quarterdeck.heartbeat.metrics import families
from quarterdeck.heartbeat.model import Pulse, Sweep
from quarterdeck.heartbeat.service import LEASE
from quarterdeck.heartbeat.work import Trouble
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict
from tests.fakes.watch import Watch


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol()
    return made


async def counted(watch: Watch, agent: str = "developer") -> dict[str, float]:
    """The counts of one agent that are not 0: of sweeps by their end, and `skipped`."""
    found: dict[str, float] = {}
    for family in await watch.sweeper.metrics():
        for sample in family.samples:
            if family.type == "counter" and sample.labels["agent"] == agent and sample.value:
                found[sample.labels.get("result", "skipped")] = sample.value
    return found


async def test_a_sweep_that_found_nothing_is_counted_also_when_its_row_is_gone(watch: Watch) -> None:
    for _ in range(3):
        await watch.sweep()
    await watch.sweep("coo")
    async with watch.database.command("forget sweeps") as unit:
        await unit.session.exec(delete(Sweep))
    assert await counted(watch) == {"quiet": 3}
    assert await counted(watch, "coo") == {"quiet": 1}


async def test_records_of_sweeps_are_forgotten_after_a_month_but_the_newest_of_each_agent(
    watch: Watch,
) -> None:
    for _ in range(2):
        await watch.sweep()
        await watch.sweep("coo")
    watch.minutes(31 * 24 * 60)
    newest = await watch.sweep()
    assert (await watch.sweeper.forget_old(), await watch.sweeper.forget_old()) == (3, 0)
    coo, developer = await watch.sweeper.overview()
    assert coo.last and developer.last and developer.last.id == newest.id


async def test_sweeps_are_counted_by_how_they_ended(watch: Watch) -> None:
    watch.cards.put("c1")
    await watch.sweep()
    watch.cards.down = Trouble.FAILED
    await watch.sweep()
    watch.talking.agents.add("developer")
    await watch.sweep()
    assert await counted(watch) == {"worked": 1, "degraded": 1, "deferred": 1}


async def test_skipped_ticks_and_lost_sweeps_are_counted(watch: Watch) -> None:
    beats = await watch.sweeper.heartbeats()
    await watch.sweeper.begin("developer", "test", beats)  # its process dies
    with pytest.raises(Conflict):
        await watch.sweep()
    watch.minutes(LEASE.total_seconds() / 60 + 1)
    await watch.sweep()
    assert await counted(watch) == {"skipped": 1, "lost": 1, "quiet": 1}


async def test_an_agent_that_left_the_roster_is_told_of_no_more(watch: Watch) -> None:
    await watch.sweep()
    async with watch.database.command("an agent of former times") as unit:
        unit.session.add(Pulse(agent="gone", since=unit.now, swept={"quiet": 9}))
    assert await counted(watch, "gone") == {}


def test_when_no_sweep_was_finished_nothing_is_said_of_the_last_one() -> None:
    pulse = Pulse(agent="developer", since=datetime(2026, 1, 5, tzinfo=UTC))
    swept, skipped, last = families({"developer": pulse, "newcomer": None})
    assert last.samples == [] and {sample.value for sample in swept.samples} == {0}
    assert [sample.labels for sample in skipped.samples] == [{"agent": "developer"}, {"agent": "newcomer"}]
