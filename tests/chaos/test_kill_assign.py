"""A desk is killed (kill -9) at every point of a run that was assigned by hand: begun once, ended once.

The request is sent again, as whoever got no answer does; its key is the same.
"""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.crew.model import RunState
from quarterdeck.crew.roster import AgentEntry
from quarterdeck.house import House
from quarterdeck.kernel.identity import owner
from tests.fakes.company import company
from tests.fakes.forking import Forks

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

OWNER = owner("test")


async def prepare(house: House, starts: Path) -> None:
    """An agent that notes every start, and takes its time, so that a desk can die while it works."""
    script = f"echo begun >> {starts}; sleep 0.3; echo '{json.dumps({'summary': 'Counted.'})}' > "
    parameters = {"program": "/bin/sh", "args": ["-c", script + '"$QUARTERDECK_RESULT"']}
    await house.board.create_project(OWNER, ProjectDraft(key="ET", name="Enduro"))
    await house.board.file(OWNER, Draft(project="ET", title="Count"))
    await house.crew.create_agent(OWNER, AgentEntry(slug="counted", parameters=parameters))


async def ended(forks: Forks, home: Path, url: str, **told: str) -> int:
    """How a desk ended that saw the run through, or died over it."""
    async with forks.begin("tests.fakes.assign_process", str(home), url, **told) as desk:
        return (await asyncio.shield(desk.ended)).code


POINTS = (
    "before assign",
    "after assign",
    "before agent start",
    "after agent start",
    "before start run",
    "after start run",
    "before end run",
    "after end run",
)


async def test_these_are_all_the_points_of_an_assigned_run(
    tmp_path: Path, database_url: str, forks: Forks
) -> None:
    async with company(tmp_path / "home", database_url) as house:
        await prepare(house, tmp_path / "starts")
        passed = tmp_path / "points"
        assert await ended(forks, tmp_path / "home", database_url, QUARTERDECK_CRASH_LOG=str(passed)) == 0
    assert tuple(dict.fromkeys(passed.read_text().splitlines())) == POINTS


@pytest.mark.parametrize("point", POINTS)
async def test_an_assigned_run_is_begun_once_and_ended_once(
    tmp_path: Path, database_url: str, forks: Forks, point: str
) -> None:
    home, starts = tmp_path / "home", tmp_path / "starts"
    async with company(home, database_url) as house:
        await prepare(house, starts)
        assert await ended(forks, home, database_url, QUARTERDECK_CRASH_AT=point) == -signal.SIGKILL
        assert await ended(forks, home, database_url) == 0
        (run,) = await house.crew.runs_of("ET-001")
        events = [event.kind for event in (await house.board.events("ET-001", 0, 100)).items]
        card = await house.crew.agent_card("counted")
    assert starts.read_text() == "begun\n"
    assert (run.state, run.exit_code, run.result) == (RunState.ENDED, 0, {"summary": "Counted."})
    assert [kind for kind in events if kind.startswith("agent_")] == ["agent_started", "agent_finished"]
    assert card.current_tasks == 0, "the slot is free"
