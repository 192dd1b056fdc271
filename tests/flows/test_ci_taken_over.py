"""Tests that a desk had begun when it died or was closed are begun anew by the next, at once and once."""

import asyncio
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from sqlmodel import select

from quarterdeck.forge.folders import locked
from quarterdeck.forge.model import CIRun
from quarterdeck.forge.protocol import CIState
from quarterdeck.house import House
from quarterdeck.pipeline.service import this_holder
from tasks.ci import TRIES, run_next_ci
from tests.fakes.clock import ManualClock
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


async def test_who_waits_for_the_repository_keeps_the_order_meanwhile(
    open_desk: OpenDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.ci.RENEW", 0.01)
    house = (await open_desk()).house
    clock = house.database.clock = ManualClock()
    sample = make_repository(tmp_path / "sample", {".quarterdeck.yaml": "test: 'true'\n"})
    await house.forge.ensure_repository(str(sample))
    (repository,) = (house.settings.forge_folder / "imported").iterdir()
    async with locked(repository / "quarterdeck.lock"):
        testing = asyncio.create_task(run_next_ci(house))
        async with asyncio.timeout(10):
            for _ in range(4):
                began = await leased_until(house)
                clock.go(30)
                while await leased_until(house) == began:
                    await asyncio.sleep(0.01)
    assert await testing
    assert await leased_until(house) is None


async def leased_until(house: House) -> datetime | None:
    """Of the only CI run that there is."""
    async with house.database.read() as session:
        return (await session.exec(select(CIRun.leased_until))).one()


async def test_tests_whose_keeper_was_killed_run_again_and_only_thrice(
    open_desk: OpenDesk, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    house, sample = await to_test(open_desk, tmp_path, f"echo x >> {begun}; kill -9 $PPID; sleep 600")
    states = [await outcome_of(house, sample) for _ in range(TRIES)]
    assert states == [CIState.PENDING] * (TRIES - 1) + [CIState.FAILURE]
    assert len(begun.read_text().split()) == TRIES


async def test_tests_that_a_full_disk_failed_are_no_verdict(
    open_desk: OpenDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended = tmp_path / "mended"
    house, sample = await to_test(open_desk, tmp_path, f"test -e {mended}")
    monkeypatch.setattr("quarterdeck.kernel.disk.RESERVE", 0)
    with monkeypatch.context() as full:
        full.setattr("quarterdeck.kernel.disk.free", lambda _: -1)
        assert await outcome_of(house, sample) is CIState.PENDING
    mended.touch()
    assert await outcome_of(house, sample) is CIState.SUCCESS


async def to_test(open_desk: OpenDesk, tmp_path: Path, command: str) -> tuple[House, Path]:
    """A repository whose tests are this command, and a house that knows it."""
    house = (await open_desk()).house
    sample = make_repository(tmp_path / "sample", {".quarterdeck.yaml": f"test: '{command}'\n"})
    await house.forge.ensure_repository(str(sample))
    return house, sample


async def outcome_of(house: House, sample: Path) -> CIState:
    """What CI says of the repository after another try, however long a lease goes on."""
    await house.forge.ci.free(lambda _: True)
    assert await run_next_ci(house)
    commit = git(sample, "rev-parse", "HEAD")
    return (await house.forge.combined_status(str(sample), commit)).state
