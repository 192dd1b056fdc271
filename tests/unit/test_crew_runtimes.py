"""Every way of executing an agent keeps the same promises, whoever works behind it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.far_sides import REMOTE, RUNTIMES, Bench, Gateway, far_side
from tests.fakes.openclaw import Reply
from tests.waiting import until

BRD = "=== docs/items/ET-007/brd.md ===\n# Laps\nCount them.\n=== end ==="


@pytest.fixture(params=RUNTIMES)
async def far(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with far_side(request.param, tmp_path) as bench:
        yield bench


@pytest.fixture(params=REMOTE)
async def remote(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with far_side(request.param, tmp_path) as bench:
        yield bench


async def test_a_run_is_executed_once_and_its_words_are_its_result(far: Bench) -> None:
    far.says("All counted.")
    outcome = await far.run()
    assert outcome.succeeded, far.log()
    assert outcome.result and outcome.result["summary"] == "All counted."
    assert "All counted." in far.log()
    assert outcome.started_at and outcome.ended_at and outcome.started_at <= outcome.ended_at
    assert await far.runtime.start(far.job())
    assert await far.runtime.wait(far.folder) == outcome
    assert far.far.begun() == 1


async def test_many_starts_at_once_begin_one_turn(far: Bench) -> None:
    far.says("Done.", seconds=0.3)
    await asyncio.gather(*(far.runtime.start(far.job()) for _ in range(5)))
    assert (await far.runtime.wait(far.folder)).succeeded
    assert far.far.begun() == 1


async def test_a_run_whose_starter_is_gone_is_adopted(far: Bench) -> None:
    far.says("Done.", seconds=1)
    await far.runtime.start(far.job())
    waiting = asyncio.create_task(far.runtime.wait(far.folder))
    await until(lambda: far.far.begun() == 1)
    waiting.cancel()
    async with far_side(far.far.name, far.folder.parent.parent) as other:  # another desk of this host
        assert await other.runtime.start(far.job())
        assert (await other.runtime.wait(far.folder)).succeeded
    assert far.far.begun() == 1


async def test_a_run_that_is_stopped_ends_here_and_there(far: Bench) -> None:
    far.says("Never.", seconds=30)
    await far.runtime.start(far.job())
    await until(lambda: far.far.begun() == 1)
    outcome = await far.runtime.stop(far.folder, "cancelled by anna")
    assert (outcome.cancelled, outcome.succeeded, outcome.error) == (True, False, "cancelled by anna")
    await until(far.far.is_idle)


async def test_a_run_that_overruns_its_limit_ends_here_and_there(far: Bench) -> None:
    far.says("Never.", seconds=30)
    await far.runtime.start(far.job(limit=1.5))
    outcome = await far.runtime.wait(far.folder)
    assert (outcome.exit_code, outcome.timed_out, outcome.cancelled) == (-9, True, False)
    await until(far.far.is_idle)


async def test_a_run_that_was_cancelled_before_it_started_never_starts(far: Bench) -> None:
    outcome = await far.runtime.stop(far.folder, "too late")
    assert (outcome.cancelled, outcome.started_at) == (True, None)
    await far.runtime.start(far.job())
    assert far.far.begun() == 0


async def test_what_is_said_can_be_followed_while_it_is_said(far: Bench) -> None:
    far.says("Hello, and this is said at length.", seconds=0.5)
    await far.runtime.start(far.job())
    said = b"".join([piece async for piece in far.runtime.follow(far.folder)])
    assert b"Hello" in said
    assert (await far.runtime.wait(far.folder)).succeeded


async def test_wrong_parameters_are_a_launch_that_failed(far: Bench) -> None:
    outcome = await far.run(parameters=far.far.parameters | {"speed": "warp"})
    assert outcome.started_at is None
    assert "analyst" in outcome.error and "speed" in outcome.error


async def test_an_answer_leaves_its_documents_in_the_work_tree(remote: Bench) -> None:
    remote.says(f"Here it is.\n{BRD}\nThat was all.")
    outcome = await remote.run()
    assert outcome.succeeded, remote.log()
    assert (remote.tree / "docs/items/ET-007/brd.md").read_text() == "# Laps\nCount them.\n"
    assert outcome.result == {"summary": "Here it is.\n\nThat was all."}


async def test_tokens_and_cost_are_known_where_the_far_side_tells_them(remote: Bench) -> None:
    outcome = await remote.run()
    known = (120, 450) if remote.far.name != "agent_api" else (None, None)
    assert (outcome.tokens, outcome.cost_micro_usd) == known


async def test_the_files_with_secrets_are_gone_when_the_run_has_begun(remote: Bench) -> None:
    remote.says("Done.", seconds=0.5)
    await remote.runtime.start(remote.job())
    await until(lambda: remote.far.begun() == 1)
    kept = b"".join(path.read_bytes() for path in remote.folder.iterdir() if path.is_file())
    assert b"token" not in kept.replace(b"tokens", b"").replace(b"max_token", b"")
    assert (await remote.runtime.wait(remote.folder)).succeeded


@pytest.mark.parametrize("text", ["", "  \n\n "])
async def test_an_agent_that_answers_nothing_has_failed(remote: Bench, text: str) -> None:
    remote.says(text)
    outcome = await remote.run()
    assert (outcome.exit_code, outcome.succeeded) == (1, False)
    assert "answered nothing" in outcome.error


async def test_a_path_outside_the_work_tree_is_refused_and_nothing_is_written(remote: Bench) -> None:
    remote.says(f"{BRD}\n=== ../outside.md ===\nowned")
    outcome = await remote.run()
    assert (outcome.exit_code, outcome.succeeded) == (1, False)
    assert "wanted to write" in outcome.error
    assert list(remote.tree.iterdir()) == []


async def test_a_link_in_the_work_tree_leads_nowhere(remote: Bench, tmp_path: Path) -> None:
    (remote.tree / "docs").symlink_to(tmp_path)
    remote.says(BRD)
    outcome = await remote.run()
    assert "in its way" in outcome.error
    assert not (tmp_path / "items").exists()


@pytest.mark.parametrize("name", ["model", "openclaw", "openclaw-hooks"])
async def test_an_answer_that_is_cut_off_at_its_limit_is_not_used(tmp_path: Path, name: str) -> None:
    """Its last file would be half a file."""
    async with far_side(name, tmp_path) as bench:
        assert isinstance(bench.far, Gateway)
        bench.far.gateway.says(Reply(f"{BRD}\n=== half.md ===\nThe first ha", is_cut=True))
        outcome = await bench.run()
        assert (outcome.exit_code, outcome.succeeded, outcome.tokens) == (1, False, 120)
        assert "cut off" in outcome.error
        assert list(bench.tree.iterdir()) == []


async def test_an_answer_of_a_hundred_megabytes_is_cut_off(remote: Bench) -> None:
    is_in_one_piece = remote.far.name == "openclaw-hooks"  # of which six million letters are too many
    remote.says("x" * 100_000, repeat=60 if is_in_one_piece else 1000)
    outcome = await remote.run()
    assert (outcome.exit_code, outcome.succeeded) == (1, False)
    assert "long" in outcome.error
    assert (remote.folder / "agent.log").stat().st_size < 30_000_000
