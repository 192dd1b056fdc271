"""Tests that a desk had begun when it died or was closed are begun anew by the next, at once and once."""

import asyncio
from pathlib import Path

import psutil

from quarterdeck.forge.protocol import CIState
from quarterdeck.pipeline.service import this_holder
from tasks.ci import run_next_ci
from tests.fakes.quiet_desk import OpenDesk
from tests.fakes.repositories import git, make_repository


async def test_what_a_closed_desk_left_running_is_ended_and_its_tests_begin_anew(
    open_desk: OpenDesk, tmp_path: Path
) -> None:
    begun, again = tmp_path / "begun", tmp_path / "again"
    command = f"echo $$ >> {begun}; [ -e {again} ] || sleep 600"
    sample = make_repository(tmp_path / "sample", {".quarterdeck.yaml": f"test: '{command}'\n"})
    house = (await open_desk()).house
    await house.forge.ensure_repository(str(sample))
    closed = asyncio.create_task(run_next_ci(house))
    while not (begun.exists() and begun.read_text().strip()):
        await asyncio.sleep(0.01)
    closed.cancel()
    await asyncio.gather(closed, return_exceptions=True)
    left = int(begun.read_text())
    again.touch()
    assert not await run_next_ci(house), "nobody knows yet that it was given up"
    assert psutil.pid_exists(left)

    assert await house.forge.ci.free(lambda holder: holder == this_holder()) == 1
    assert await run_next_ci(house)
    assert not psutil.pid_exists(left)
    status = await house.forge.combined_status(str(sample), git(sample, "rev-parse", "HEAD"))
    assert status.state is CIState.SUCCESS
    assert len(begun.read_text().split()) == 2
