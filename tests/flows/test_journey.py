"""An item's journey with real processes, a real git repository and a real CI; only Prefect is left out."""

import asyncio
import errno
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.logging import disable_run_logger
from sqlmodel import col, select

from flows import stage
from quarterdeck.board.model import State
from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.service import Crew
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.journal import Event, OutboxMessage
from quarterdeck.pipeline.service import Engine
from quarterdeck.telegram.gateway import Gateway
from tests.fakes.clock import ManualClock
from tests.fakes.quiet_desk import OWNER, OpenDesk, QuietDesk, Surroundings
from tests.fakes.repositories import git, make_repository
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import running


async def texts(desk: QuietDesk) -> list[str]:
    """The messages in the order in which they will be sent."""
    async with desk.house.database.read() as session:
        return list((await session.exec(select(OutboxMessage.text).order_by(col(OutboxMessage.id)))).all())


async def kinds(desk: QuietDesk, key: str) -> list[str]:
    async with desk.house.database.read() as session:
        wanted = select(Event.kind).where(col(Event.item_key) == key).order_by(col(Event.id))
        return list((await session.exec(wanted)).all())


async def test_an_item_goes_from_filing_to_done_and_all_ten_messages_are_told_in_order(
    surroundings: Surroundings, open_desk: OpenDesk, sample: Path
) -> None:
    surroundings.parameters("developer")["args"] = [
        "--fail-in", "1", "--overrun-in", "2", "--break-in", "3",
    ]  # fmt: skip
    surroundings.stage("development")["limit"] = "2s"
    surroundings.parameters("architect")["program"] = "agents/architect.py"
    desk = await open_desk()
    key = await desk.file(sample)
    assert (await desk.rest(key)).state is State.WAITING_APPROVAL
    approving = asyncio.create_task(desk.approve(key))
    while "error" not in await kinds(desk, key):
        await asyncio.sleep(0.02)
    agents = surroundings.settings.folder / "agents"
    (agents / "architect.py").symlink_to(agents / "rehearsal.py")
    card = await approving
    assert (card.state, card.stage) == (State.DONE, "done")
    reason = "CI state: failure (tests: `python3 -m unittest` failed with exit code 1: FAILED (failures=1))"
    told = [text.replace("0 с", "1 с") for text in await texts(desk)]
    assert told == [
        "🚀 ET-001: analyst запущен (run_id=1)",
        "✅ ET-001: analyst завершил (1 с, exit_code=0)",
        "✅ ET-001: QG check_documents — passed",
        "📋 ET-001: BRD/ТЗ/AC готовы. Жду :approved: в Plane",
        "🔄 ET-001: analysis → architecture (запущен architect)",
        "🔴 ET-001: ERROR — Failed to launch agent",
        "🚀 ET-001: architect запущен (run_id=3)",
        "✅ ET-001: architect завершил (1 с, exit_code=0)",
        "✅ ET-001: QG check_documents — passed",
        "🔄 ET-001: architecture → development (запущен developer)",
        "🚀 ET-001: developer запущен (run_id=4)",
        "❌ ET-001: developer упал (exit_code=1)",
        "🚀 ET-001: developer запущен (run_id=5)",
        "⏰ ET-001: developer убит по таймауту (2 с)",
        "🚀 ET-001: developer запущен (run_id=6)",
        "✅ ET-001: developer завершил (1 с, exit_code=0)",
        "✅ ET-001: QG check_pr_open — passed",
        f"⚠️ ET-001: QG check_ci_green — failed: {reason}",
        "🚀 ET-001: developer запущен (run_id=7)",
        "✅ ET-001: developer завершил (1 с, exit_code=0)",
        "✅ ET-001: QG check_pr_open — passed",
        "✅ ET-001: QG check_ci_green — passed",
        "🔄 ET-001: development → review (запущен reviewer)",
        "🚀 ET-001: reviewer запущен (run_id=8)",
        "✅ ET-001: reviewer завершил (1 с, exit_code=0)",
        "✅ ET-001: QG check_review_approved — passed",
        "🔄 ET-001: review → merge",
        "✅ ET-001: QG check_merged — passed",
        "🔄 ET-001: merge → done",
        "🎉 ET-001: задача завершена! PR merged.",
    ]
    merged = git(bare(surroundings), "show", "main:greeting.py")
    assert "Hello" in merged


@pytest.mark.services
async def test_with_telegram_down_all_the_way_the_item_is_done_and_the_messages_arrive_in_order_later(
    open_desk: OpenDesk, sample: Path
) -> None:
    desk = await open_desk()
    with FakeTelegram(TOKEN) as telegram:
        value = {"bot_token": TOKEN, "chat_id": str(CHAT), "api_base": telegram.base}
        async with desk.house.database.command("connect") as unit:
            await desk.house.connections.put(unit, "telegram", "default", value, Source.API)
        telegram.down()
        key = await desk.file(sample)
        await desk.rest(key)
        await desk.house.notify.deliver_round()
        assert (await desk.approve(key)).state is State.DONE
        await desk.house.notify.deliver_round()
        assert (await desk.house.notify.deliver_round()).sent == 0
        telegram.up()
        clock = ManualClock()
        clock.time = desk.house.database.clock.now()
        desk.house.database.clock = clock

        async def sleep(seconds: float) -> None:
            clock.go(seconds)
            await asyncio.sleep(0)

        house = desk.house
        gateway = Gateway(house.database, house.bus, house.bots, house.asked, sleep=sleep)
        async with running(gateway), asyncio.timeout(30):
            while (await house.notify.deliver_round()).next_at is not None:
                await asyncio.sleep(0.01)
        async with house.database.read() as session:
            told = (await session.exec(select(OutboxMessage).order_by(col(OutboxMessage.id)))).all()
        assert telegram.texts() == [message.text for message in told if message.replaces is None]
        assert len(telegram.texts()) == 21
        (card,) = [one for one in telegram.shown() if "📋" in one["text"]]
        assert "👍 ET-001: одобрено (owner" in card["text"] and "reply_markup" not in card


async def test_a_stage_run_lets_its_item_go_when_nothing_is_left_but_to_tell_prefect(
    open_desk: OpenDesk, sample: Path
) -> None:
    desk = await open_desk()
    engine, key = desk.house.engine, await desk.file(sample)
    work = await engine.claim(*await engine.candidates(1))
    await engine.cancel(key, OWNER)
    told: list[str] = []
    stage.let_go.set(lambda: told.append(key))
    with disable_run_logger():
        await stage.work_on(desk.house, work)
    assert told == [key]


async def test_an_agent_that_overruns_its_limit_is_killed_with_its_children(
    surroundings: Surroundings, open_desk: OpenDesk, sample: Path
) -> None:
    surroundings.parameters("analyst")["args"] = ["--overrun-in", "1"]
    surroundings.stage("analysis")["limit"] = "1s"
    desk = await open_desk()
    key = await desk.file(sample)
    card = await desk.rest(key)
    assert (card.state, card.round) == (State.WAITING_APPROVAL, 2)
    home = str(surroundings.settings.folder)
    jobs = [(p.info["environ"] or {}).get("QUARTERDECK_JOB", "") for p in psutil.process_iter(["environ"])]
    assert not [job for job in jobs if job.startswith(home)]


async def test_a_commit_that_no_ci_knows_is_told_and_not_waited_for_for_ever(
    open_desk: OpenDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.pipeline.gates.NO_CI_PATIENCE", timedelta(0))
    desk = await open_desk()
    key = await desk.file(make_repository(tmp_path / "untested", {"Makefile": "all:\n"}))
    await desk.rest(key)
    card = await desk.approve(key)
    assert card.state is State.BLOCKED
    assert card.move is not None
    assert "total_count 0" in card.move["why"]


async def test_ci_that_is_red_on_the_base_branch_too_is_a_persons_move_at_once(
    open_desk: OpenDesk, tmp_path: Path
) -> None:
    desk = await open_desk()
    broken = make_repository(tmp_path / "broken", {".quarterdeck.yaml": "test: 'false'\n"})
    key = await desk.file(broken)
    await desk.rest(key)
    card = await desk.approve(key)
    assert (card.state, card.stage, card.round) == (State.BLOCKED, "development", 1)
    assert card.move is not None
    assert "red on main too" in card.move["why"]


@pytest.mark.services
async def test_a_rejected_review_goes_back_to_the_developer_with_its_words(
    surroundings: Surroundings, open_desk: OpenDesk, sample: Path
) -> None:
    reviewer = surroundings.settings.folder / "agents" / "strict"
    reviewer.write_text(
        '#!/bin/sh\nif [ "$QUARTERDECK_ROUND" = 1 ]; then verdict=rejected; else verdict=approved; fi\n'
        'echo "{\\"review\\": {\\"verdict\\": \\"$verdict\\", \\"comment\\": \\"name it better\\"}}"'
        ' > "$QUARTERDECK_RESULT"\n'
    )
    reviewer.chmod(0o755)
    surroundings.parameters("reviewer")["program"] = "agents/strict"
    desk = await open_desk()
    key = await desk.file(sample)
    await desk.rest(key)
    card = await desk.approve(key)
    assert card.state is State.DONE
    moves = [text for text in await texts(desk) if text.startswith("🔄")]
    assert "🔄 ET-001: review → development (запущен developer)" in moves
    assert "⚠️ ET-001: QG check_review_approved — failed: reviewer: name it better" in await texts(desk)


@pytest.mark.services
async def test_a_branch_that_moved_while_it_was_reviewed_is_reviewed_again_before_it_is_merged(
    surroundings: Surroundings, open_desk: OpenDesk, sample: Path, tmp_path: Path
) -> None:
    desk = await open_desk()
    key = await desk.file(sample)
    await desk.rest(key)
    forge, clone = desk.house.forge, tmp_path / "clone"
    give_review = forge.review

    async def review_then_push(*arguments: Any) -> None:
        await give_review(*arguments)
        if not clone.exists():
            await asyncio.to_thread(push_by_hand, bare(surroundings), clone, key)

    forge.review = review_then_push  # type: ignore[method-assign]
    card = await desk.approve(key)
    assert (card.state, card.move) == (State.DONE, None)
    request = await forge.pull_request(str(sample), f"item/{key}", "main")
    assert request is not None
    first, second = request.reviews
    pushed = git(clone, "rev-parse", "HEAD").strip()
    assert (second.commit, request.head) == (pushed, pushed)
    async with desk.house.database.read() as session:
        (refused,) = (await session.exec(select(Event).where(col(Event.kind) == "work_refused"))).all()
    reason = f"reviewer reviewed {first.commit[:10]}, and item/{key} moved on meanwhile"
    assert refused.data["reason"] == f"no review of {pushed[:10]}: {reason}"


def bare(surroundings: Surroundings) -> Path:
    """The only repository of the forge."""
    (found,) = (surroundings.settings.forge_folder / "imported").iterdir()
    return found


def push_by_hand(repository: Path, clone: Path, key: str) -> None:
    """Somebody adds a commit to an item's branch, past the desk."""
    git(repository, "clone", "-q", "-b", f"item/{key}", str(repository), str(clone))
    (clone / "surprise.py").write_text("surprise = True\n")
    git(clone, "add", "--all")
    git(clone, "commit", "-q", "-m", "Surprise")
    git(clone, "push", "-q", "origin", f"item/{key}")


async def test_cancelling_stops_the_agent_within_seconds_and_closes_its_run(
    surroundings: Surroundings, open_desk: OpenDesk, sample: Path
) -> None:
    surroundings.parameters("analyst")["args"] = ["--overrun-in", "1"]
    desk = await open_desk()
    key = await desk.file(sample)
    resting = asyncio.create_task(desk.rest(key))
    while "agent_started" not in await kinds(desk, key):
        await asyncio.sleep(0.02)
    (run,) = await desk.house.crew.open_runs()
    await desk.house.engine.cancel(key, OWNER)
    assert await desk.house.engine.stop_stray_runs() == 1
    assert (await resting).state is State.CANCELLED
    assert await desk.house.crew.open_runs() == []
    assert (await desk.house.crew.run(run.id or 0)).cancelled
    assert "run_cancelled" in await kinds(desk, key)
    assert (desk.house.crew.folder_of(run) / "agent.log").exists()


@pytest.mark.services
async def test_the_next_round_leaves_the_work_tree_alone_while_the_agent_of_the_last_one_is_in_it(
    open_desk: OpenDesk, sample: Path
) -> None:
    desk = await open_desk()
    engine = desk.house.engine
    key = await desk.file(sample)
    old = await (await engine.claim(await engine.current(key))).open_run("0" * 40)
    tree = desk.house.work_tree(key)
    tree.mkdir(parents=True)
    (tree / "half-done.txt").write_text("the agent is at it")
    await engine.cancel(key, OWNER)
    await engine.retry(key, OWNER)
    work = await engine.claim(await engine.current(key))
    with disable_run_logger():
        assert (await stage.work_on(desk.house, work)).name == "Postponed"
    assert (tree / "half-done.txt").exists()
    assert await desk.house.crew.open_runs() == [old]
    await engine.stop_stray_runs()
    assert (await desk.rest(key)).round == 2


async def test_an_item_whose_agent_was_lost_with_its_host_goes_on_here_once_the_host_is_declared_gone(
    open_desk: OpenDesk, sample: Path, tmp_path: Path
) -> None:
    desk = await open_desk()
    house, key = desk.house, await desk.file(sample)
    elsewhere = Crew(house.database, {"command": CommandRuntime()}, tmp_path / "elsewhere")
    there = await Engine(house.database, elsewhere).claim(await house.engine.current(key))
    run = await there.open_run("0" * 40)
    await there.release(0)
    with disable_run_logger():
        came_upon_it = await stage.work_on(house, await house.engine.claim(await house.engine.current(key)))
    assert f"`quarterdeck host gone {elsewhere.host}`" in (came_upon_it.message or "")
    waiting = asyncio.create_task(desk.rest(key))
    await house.hosts.declare_gone(OWNER, elsewhere.host)
    card = await waiting
    assert (card.state, card.round) == (State.WAITING_APPROVAL, 2)
    assert (await house.crew.run(run.id or 0)).error == f"its host {elsewhere.host} is gone"


@pytest.mark.services
async def test_a_full_disk_is_waited_for_and_costs_nothing(
    open_desk: OpenDesk, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = await open_desk()
    key = await desk.file(sample)

    async def has_no_room(*_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "work")

    with monkeypatch.context() as full:
        full.setattr(desk.house.forge, "checkout", has_no_room)
        await desk.work_once()
    card = await desk.rest(key)
    assert (card.state, card.round) == (State.WAITING_APPROVAL, 1)
    assert "engine_failed" not in await kinds(desk, key)
