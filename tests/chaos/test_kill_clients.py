"""A run comes to its end although its client, keeper or gateway is killed, whoever works behind it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.far_sides import REMOTE, Bench, Gateway, far_side
from tests.waiting import until

pytestmark = pytest.mark.services

SILENCE = 8.0
"""Seconds in which an agent says nothing: longer than a client looks for what became of a turn."""

DOCUMENT = "=== docs/laps.md ===\nCount them.\n=== end ==="


@pytest.fixture(params=REMOTE)
async def remote(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with far_side(request.param, tmp_path) as bench:
        yield bench


async def test_a_client_that_is_killed_is_replaced_and_the_answer_comes(remote: Bench) -> None:
    remote.says("Done at last.", seconds=1)
    await remote.runtime.start(remote.job())
    await until(lambda: remote.far.begun() == 1)
    waiting = asyncio.create_task(remote.runtime.wait(remote.folder))
    os.kill(remote.pid(), signal.SIGKILL)
    outcome = await waiting
    assert outcome.succeeded, remote.log()
    assert outcome.result == {"summary": "Done at last."}
    if remote.far.name == "openclaw-hooks":
        assert remote.far.begun() == 1  # the turn went on without us, and was joined


async def test_a_long_turn_by_hook_whose_client_is_killed_is_joined_and_not_done_twice(
    tmp_path: Path,
) -> None:
    async with far_side("openclaw-hooks", tmp_path) as bench:
        assert isinstance(bench.far, Gateway)
        bench.far.gateway.admission = 15  # as the real one: another question would be begun after this one
        bench.says("Done at last.", seconds=SILENCE)
        await bench.runtime.start(bench.job())
        await until(lambda: bench.far.begun() == 1)
        os.kill(bench.pid(), signal.SIGKILL)
        outcome = await bench.runtime.wait(bench.folder)
        assert outcome.succeeded, bench.log()
        assert outcome.result == {"summary": "Done at last."}
        assert bench.far.begun() == 1


async def test_a_turn_that_a_restarted_gateway_is_long_silent_in_is_waited_for(tmp_path: Path) -> None:
    async with far_side("openclaw-hooks", tmp_path) as bench:
        assert isinstance(bench.far, Gateway)
        bench.far.parameters["resume_seconds"] = 0.5
        bench.says("Resumed by itself.", seconds=SILENCE)
        await bench.runtime.start(bench.job())
        await until(lambda: bench.far.begun() == 1)
        await bench.far.gateway.stop()
        await bench.far.gateway.start()
        outcome = await bench.runtime.wait(bench.folder)
        assert outcome.succeeded, bench.log()
        assert outcome.result == {"summary": "Resumed by itself."}
        assert bench.far.begun() == 1
        assert "asked again" not in bench.log()


async def test_a_client_whose_keeper_is_killed_is_replaced_as_well(remote: Bench) -> None:
    remote.says("Done at last.", seconds=1)
    await remote.runtime.start(remote.job())
    await until(lambda: remote.far.begun() == 1)
    keeper = psutil.Process(remote.pid()).parent()
    assert keeper is not None
    keeper.kill()
    outcome = await remote.runtime.wait(remote.folder)
    assert outcome.succeeded, remote.log()
    assert outcome.result == {"summary": "Done at last."}


@pytest.mark.parametrize("point", ["intent", "sent", "answered"])
async def test_a_client_may_die_at_any_of_its_notes(
    remote: Bench, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUARTERDECK_CRASH_AT", f"after errand {point}")
    remote.says(f"Done.\n{DOCUMENT}", seconds=0.2)
    outcome = await remote.run()
    if remote.far.name == "model" and point == "intent":  # a model's question needs no intention
        assert outcome.succeeded
        return
    assert list(remote.folder.glob("lost-*")), "it was to be killed"
    assert outcome.succeeded, remote.log()
    assert (remote.tree / "docs/laps.md").exists()
    if point == "answered":
        assert remote.far.begun() == 1


async def test_a_gateway_that_is_killed_in_the_middle_of_a_turn_answers_after_its_restart(
    tmp_path: Path,
) -> None:
    async with far_side("openclaw", tmp_path) as bench:
        far = bench.far
        assert isinstance(far, Gateway)
        bench.says("Resumed by itself.", seconds=2)
        await bench.runtime.start(bench.job())
        await until(lambda: bench.stage() == "sent")
        await far.gateway.stop()
        bench.says("Resumed by itself.", seconds=0.5)
        await far.gateway.start()
        outcome = await bench.runtime.wait(bench.folder)
        assert outcome.succeeded, bench.log()
        assert outcome.result == {"summary": "Resumed by itself."}
        assert len(far.gateway.turns) == 1  # it went on; we did not ask again


async def test_a_gateway_and_the_client_may_die_together(tmp_path: Path) -> None:
    async with far_side("openclaw", tmp_path) as bench:
        far = bench.far
        assert isinstance(far, Gateway)
        far.gateway.resumes = False
        bench.says("Second time.", seconds=1)
        await bench.runtime.start(bench.job())
        await until(lambda: bench.stage() == "sent")
        os.kill(bench.pid(), signal.SIGKILL)
        await far.gateway.stop()
        waiting = asyncio.create_task(bench.runtime.wait(bench.folder))
        await until(lambda: list(bench.folder.glob("lost-*")))
        await far.gateway.start()
        outcome = await waiting
        assert outcome.succeeded, bench.log()
        assert "interrupted" in far.gateway.turns[-1].message
