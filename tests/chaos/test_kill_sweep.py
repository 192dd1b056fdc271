"""A desk is killed (kill -9) at every point of a sweep that finds work: each is begun once, and none is lost.

The work stands in a to-do document, and the agent notes every start of itself.
"""

import asyncio
import json
import signal
from pathlib import Path

import pytest
from sqlalchemy import text

from quarterdeck.crew.model import RunState
from quarterdeck.crew.roster import AgentEntry
from quarterdeck.house import House
from quarterdeck.kernel.identity import owner
from tests.fakes.company import company
from tests.fakes.forking import Forks

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

OWNER = owner("test")
_EXPIRE = (
    text("update heartbeats set leased_until = now()"),
    text("update source_sightings set looking_until = now()"),
)


async def prepare(house: House, folder: Path) -> None:
    """Two lines to do, and an agent that takes its time, so that a desk can die while it works."""
    (folder / "workspace").mkdir()
    (folder / "workspace" / "TODO.md").write_text("- [ ] Count the spoons\n- [ ] Count the forks\n")
    result = json.dumps({"summary": "Counted."})
    script = f"echo $QUARTERDECK_ITEM >> {folder}/starts; sleep 0.3; echo '{result}' > "
    parameters = {"program": "/bin/sh", "args": ["-c", script + '"$QUARTERDECK_RESULT"']}
    heartbeat = {"category": "business", "workspace": str(folder / "workspace")}
    await house.crew.create_agent(
        OWNER, AgentEntry(slug="counted", parameters=parameters, heartbeat=heartbeat)
    )


async def ended(forks: Forks, home: Path, url: str, **told: str) -> int:
    """How a desk ended that did all there was, or died over it."""
    async with forks.begin("tests.fakes.sweep_process", str(home), url, **told) as desk:
        return (await asyncio.shield(desk.ended)).code


async def lease_is_over(house: House) -> None:
    """Whoever died holds nobody up for ever; here not even for minutes."""
    async with house.database.command("the lease is over") as unit:
        for statement in _EXPIRE:
            await (await unit.session.connection()).execute(statement)


ONCE = (
    "begin sweep",
    "share a sighting",
    "keep a sighting",
    "start found work",
    "finish sweep",
    "pay what is owed",
    "agent start",
    "start run",
    "end run",
    "settle found work",
    "note a remark",
)
AGAIN = ("begin sweep", "start found work", "finish sweep", "settle found work")
"""Commands whose second time meets what the first work left."""
POINTS = [f"{when} {command}" for command in ONCE for when in ("before", "after")]
LATER = [f"{when} {command}#2" for command in (*AGAIN, "pay what is owed") for when in ("before", "after")]


async def test_these_are_all_the_points_of_a_sweep(tmp_path: Path, database_url: str, forks: Forks) -> None:
    async with company(tmp_path / "home", database_url) as house:
        await prepare(house, tmp_path)
        passed = tmp_path / "points"
        assert await ended(forks, tmp_path / "home", database_url, QUARTERDECK_CRASH_LOG=str(passed)) == 0
    assert set(passed.read_text().splitlines()) == set(POINTS)


@pytest.mark.parametrize("point", [*POINTS, *LATER])
async def test_found_work_is_begun_once_and_closed_whenever_the_desk_dies(
    tmp_path: Path, database_url: str, forks: Forks, point: str
) -> None:
    home = tmp_path / "home"
    async with company(home, database_url) as house:
        await prepare(house, tmp_path)
        assert await ended(forks, home, database_url, QUARTERDECK_CRASH_AT=point) == -signal.SIGKILL
        await lease_is_over(house)
        assert await ended(forks, home, database_url) == 0
        runs = [await house.crew.runs_of(key) for key in ("HB-001", "HB-002")]
        items = [(await house.board.item(key)).state.value for key in ("HB-001", "HB-002")]
    assert sorted((tmp_path / "starts").read_text().split()) == ["HB-001", "HB-002"]
    assert [[(run.state, run.exit_code) for run in of_item] for of_item in runs] == [
        [(RunState.ENDED, 0)]
    ] * 2
    assert items == ["done", "done"]
    lines = (tmp_path / "workspace" / "TODO.md").read_text()
    assert (lines.count("state=in_review"), lines.count("rounds=1")) == (2, 2), lines
