"""Sweeps: work is found and started once, waits for what it needs, and every sweep leaves its record."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck.board.model import State
from quarterdeck.board.store import item as board_item
from quarterdeck.crew.roster import Roster
from quarterdeck.crew.runtime import CLOSED, Outcome
from quarterdeck.heartbeat.model import Result
from quarterdeck.heartbeat.service import AT_ONCE, LEASE
from quarterdeck.heartbeat.sources.documents import Documents
from quarterdeck.heartbeat.sources.notes import Notes
from quarterdeck.heartbeat.sources.polling import GLANCE_OFF, Glance
from quarterdeck.heartbeat.work import Answer, Need, Ref, Status, Trouble, Watched
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Forbidden, NotFound, QuarterdeckError
from tests.fakes.surroundings import OWNER, VIEWER
from tests.fakes.watch import Watch

IN_PROGRESS = {"status": Status.IN_PROGRESS}


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol()
    return made


async def test_found_work_is_started_claimed_and_its_result_goes_back(watch: Watch) -> None:
    watch.multica.put("ENG-1", "Fix the login")
    swept = await watch.sweep()
    assert (swept.result, swept.found, swept.started) == (Result.WORKED, 1, 1)
    assert watch.multica.status("ENG-1") is Status.IN_PROGRESS
    [run] = await watch.runs()
    assert (run.agent, run.item_key, run.prompt[:9]) == ("developer", "HB-001", "This work")
    await watch.end_runs(says="The login works.")
    assert watch.multica.said("finish") == [("ENG-1", "The login works.")]
    assert watch.multica.status("ENG-1") is Status.IN_REVIEW
    async with watch.database.read() as session:
        item = await board_item(session, "HB-001")
    assert item is not None
    assert item.state is State.DONE
    assert [kind for kind, _ in await watch.told("work_started", "work_finished")] == [
        "work_started",
        "work_finished",
    ]


async def test_a_sweep_that_found_nothing_leaves_a_row_that_names_every_source(watch: Watch) -> None:
    swept = await watch.sweep()
    assert (swept.result, swept.finished_at) == (Result.QUIET, watch.clock.now())
    assert {name: state.state for name, state in swept.sources.items()} == {
        "board": "ok",
        "workboard": "ok",
        "multica": "ok",
    }


async def test_the_record_of_a_sweep_names_the_agents_own_work_and_counts_that_of_all(watch: Watch) -> None:
    watch.multica.put("ENG-1", "Fix the login", priority="high")
    watch.multica.put("ENG-2", "Wait", **IN_PROGRESS)
    watch.multica.put("ENG-3", agent=None)
    watch.multica.put("ENG-4", agent="stranger")
    state = (await watch.sweep()).sources["multica"]
    assert (state.found, state.todo, state.in_progress, state.own) == (3, 3, 1, 2)
    assert state.first == ["multica ENG-1 high Fix the login", "multica ENG-2 ? Wait"]


@pytest.mark.parametrize(("category", "warnings"), [("high-frequency", 1), ("development", 0)])
async def test_an_agent_of_high_frequency_sees_which_of_its_files_have_grown(
    watch: Watch, tmp_path: Path, category: str, warnings: int
) -> None:
    (tmp_path / "AGENTS.md").write_text("x" * 6000)
    await watch.enrol(category=category, workspace=str(tmp_path))
    told = (await watch.sweep()).warnings
    assert told == ["AGENTS.md has 6000 bytes; it must stay below 5120."] * warnings


async def test_a_source_without_an_id_of_the_agent_is_not_configured_never_no_tasks(watch: Watch) -> None:
    await watch.enrol(multica_id="")
    assert (await watch.sweep()).sources["multica"].state == "not configured"


async def test_work_is_started_once_however_often_it_is_swept(watch: Watch) -> None:
    watch.cards.put("c1")
    for _ in range(3):
        await watch.sweep()
        watch.minutes(1)
    assert len(await watch.runs()) == 1


async def test_work_is_taken_up_in_its_order_as_far_as_there_are_slots(watch: Watch) -> None:
    await watch.enrol(slots=2)
    watch.cards.put("late", priority="low")
    watch.multica.put("soon", priority="urgent")
    watch.cards.put("next", priority="high")
    await watch.sweep()
    assert watch.cards.status("late") is Status.TODO
    assert {run.item_key for run in await watch.runs()} == {"HB-001", "HB-002"}
    assert [watch.multica.status("soon"), watch.cards.status("next")] == [Status.IN_PROGRESS] * 2


async def test_work_in_progress_is_not_tried_again_while_what_it_needs_is_open(watch: Watch) -> None:
    need = Need(Ref("multica", "ENG-7"), Status.TODO)
    watch.multica.put("ENG-7", agent="coo")
    watch.multica.put("ENG-1", needs=(need,), **IN_PROGRESS)
    watch.multica.put("ENG-2", **IN_PROGRESS)
    watch.minutes(46)
    await watch.sweep()
    [run] = await watch.runs()
    assert "multica (ENG-2)" in run.prompt
    watch.minutes(180)
    await watch.sweep()
    assert watch.multica.status("ENG-1") is Status.BLOCKED
    assert "work_timed_out" in [kind for kind, _ in await watch.told()]


async def test_the_budget_of_an_item_holds_for_another_try_of_it_too(watch: Watch) -> None:
    await watch.enrol(budget={"item_tokens": 1000})
    watch.multica.put("ENG-1")
    await watch.sweep()
    await watch.end_runs(tokens=5000)
    watch.minutes(15)
    watch.multica.change("ENG-1", **IN_PROGRESS)
    watch.minutes(46)
    await watch.sweep()
    await watch.sweeper.settle()
    assert (len(await watch.runs()), watch.multica.status("ENG-1")) == (1, Status.BLOCKED)


async def test_what_our_own_engine_takes_up_gets_no_second_run(watch: Watch) -> None:
    watch.board.put("ET-1")
    swept = await watch.sweep()
    assert (swept.found, swept.started, await watch.runs()) == (1, 0, [])


async def test_a_start_that_was_owed_during_an_outage_is_made_up_for(watch: Watch) -> None:
    watch.cards.put("c1")
    await watch.sweep()
    watch.cards.down = Trouble.FAILED
    await watch.end_runs()
    watch.cards.down = None
    assert await watch.sweeper.settle() == 1
    assert watch.cards.status("c1") is Status.IN_REVIEW
    assert await watch.sweeper.settle() == 0


@pytest.mark.parametrize("trouble", [Trouble.REFUSED, Trouble.NOT_CONFIGURED])
async def test_a_result_is_owed_until_a_source_that_let_nobody_in_is_mended(
    watch: Watch, trouble: Trouble
) -> None:
    watch.cards.put("c1")
    await watch.sweep()
    watch.cards.down = trouble
    await watch.end_runs()
    watch.cards.down = None
    assert await watch.sweeper.settle() == 1
    assert watch.cards.status("c1") is Status.IN_REVIEW
    watch.minutes(60)
    await watch.sweep()
    assert len(await watch.runs()) == 1


@pytest.mark.parametrize("error", [NotFound("It is gone."), Conflict("No.", code="refused", status=422)])
async def test_what_a_source_refuses_about_one_piece_of_work_is_not_asked_again(
    watch: Watch, error: QuarterdeckError
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise error

    watch.cards.put("c1")
    await watch.sweep()
    watch.cards.finish = refuse  # type: ignore[method-assign]
    await watch.end_runs()
    assert await watch.sweeper.settle() == 0


async def close_in_order(watch: Watch, *, is_begun_anew: bool) -> None:
    """Everything was closed, and opened again."""
    [run] = await watch.runs()
    async with watch.database.command("end run") as unit:
        outcome = Outcome(exit_code=143, cancelled=True, error=CLOSED, started_at=unit.now)
        await watch.crew.close_run(unit, run.id or 0, outcome)
        if is_begun_anew:
            await watch.crew.open_anew(unit, run)
    await watch.sweeper.settle()


async def test_what_was_stopped_because_everything_was_closed_goes_on_and_is_told_nobody(
    watch: Watch,
) -> None:
    watch.multica.put("ENG-1")
    await watch.sweep()
    await close_in_order(watch, is_begun_anew=True)
    assert (watch.multica.status("ENG-1"), watch.multica.said("release")) == (Status.IN_PROGRESS, [])
    await watch.end_runs(says="It works.")
    assert watch.multica.said("finish") == [("ENG-1", "It works.")]
    assert watch.multica.said("note_rounds") == [("ENG-1", "1")]
    assert await watch.told("breaker_opened", "work_unfinished") == []


async def test_what_nobody_began_anew_after_everything_was_closed_is_to_be_done(watch: Watch) -> None:
    watch.multica.put("ENG-1")
    await watch.sweep()
    await close_in_order(watch, is_begun_anew=False)
    assert (watch.multica.status("ENG-1"), watch.multica.said("block")) == (Status.TODO, [])
    assert (await watch.sweep()).started == 1


# Not begun


async def test_an_unmet_dependency_leaves_work_to_do_and_tells_its_executor_when_it_takes_too_long(
    watch: Watch,
) -> None:
    watch.multica.put("ENG-7", agent="coo", status=Status.IN_PROGRESS)
    need = Need(Ref("multica", "ENG-7"), Status.IN_PROGRESS)
    watch.cards.put("c1", needs=(need,))
    await watch.sweep()
    watch.minutes(120)
    await watch.sweep()
    assert await watch.told("work_waits") == []
    watch.minutes(1)
    for _ in range(2):
        await watch.sweep()
    assert await watch.told("work_waits") == [("work_waits", "coo")]
    assert watch.cards.status("c1") is Status.TODO
    watch.cards.change("c1", needs=())
    await watch.sweep()
    assert watch.cards.status("c1") is Status.IN_PROGRESS


async def test_an_unknown_dependency_counts_as_unmet(watch: Watch) -> None:
    watch.multica.put("ENG-1", needs=(Need(Ref("multica", "ENG-9"), None),))
    swept = await watch.sweep()
    assert (watch.multica.status("ENG-1"), swept.started) == (Status.TODO, 0)
    assert "cannot be looked up" in swept.warnings[0]


async def test_a_cancelled_dependency_goes_to_the_coo(watch: Watch) -> None:
    watch.multica.put("ENG-1", needs=(Need(Ref("multica", "ENG-9"), Status.CANCELLED),))
    await watch.sweep()
    await watch.sweep()
    assert await watch.told("dependency_cancelled") == [("dependency_cancelled", "coo")]


@pytest.mark.parametrize("length", [2, 3])
async def test_a_cycle_across_sources_is_told_once_and_nothing_in_it_is_begun(
    watch: Watch, length: int
) -> None:
    places = [watch.cards, watch.multica, watch.cards][:length]
    for number, place in enumerate(places):
        there = (number + 1) % length
        need = Need(Ref(places[there].name, f"w{there}"), Status.TODO)
        place.put(f"w{number}", needs=(need,))
    for _ in range(2):
        assert (await watch.sweep()).started == 0
    told = await watch.told("dependency_cycle")
    assert told == [("dependency_cycle", "coo")] * length


async def test_work_that_needs_approval_waits_is_told_once_and_is_begun_when_it_is_allowed(
    watch: Watch,
) -> None:
    watch.multica.put("ENG-1", labels=("Money",))
    for _ in range(2):
        await watch.sweep()
    assert await watch.told("work_needs_approval") == [("work_needs_approval", "owner")]
    with pytest.raises(Forbidden):
        await watch.sweeper.allow(VIEWER, "developer", "multica:ENG-1")
    await watch.sweeper.allow(OWNER, "developer", "multica:ENG-1")
    assert (await watch.sweep()).started == 1


# All of it


@pytest.mark.parametrize(("todo", "warnings"), [(5, 0), (6, 1)])
async def test_a_backlog_over_the_threshold_is_told_until_its_count_changes(
    watch: Watch, todo: int, warnings: int
) -> None:
    for number in range(todo):
        watch.multica.put(f"ENG-{number}", agent=None)
    for _ in range(3):
        await watch.sweep("coo")
    await watch.sweep("developer")
    assert len(await watch.told("backlog_warning")) == warnings
    watch.multica.put("one-more", agent=None)
    await watch.sweep("coo")
    assert len(await watch.told("backlog_warning")) == warnings + 1


async def test_a_source_that_fails_degrades_the_sweep_and_the_others_go_on(watch: Watch) -> None:
    watch.multica.down = Trouble.TIMED_OUT
    watch.cards.put("c1")
    swept = await watch.sweep()
    assert (swept.result, swept.started) == (Result.DEGRADED, 1)
    assert (swept.sources["multica"].state, swept.sources["multica"].detail) == (
        "timed out",
        "multica is down",
    )
    assert await watch.told("sources_down") == []


async def test_when_every_platform_is_down_the_coo_is_told_once_per_outage(watch: Watch) -> None:
    for _ in range(2):
        watch.multica.down = watch.cards.down = Trouble.MISSING
        for agent in ("developer", "coo", "developer"):
            assert (await watch.sweep(agent)).result is Result.DEGRADED
        watch.multica.down = watch.cards.down = None
        await watch.sweep()
    assert await watch.told("sources_down") == [("sources_down", "coo")] * 2


async def test_a_source_that_raises_is_a_failed_source(watch: Watch) -> None:
    async def broken(_: object) -> object:
        raise RuntimeError("a bug")

    watch.cards.look = broken  # type: ignore[method-assign, assignment]
    swept = await watch.sweep()
    assert (swept.result, swept.sources["workboard"].state) == (Result.DEGRADED, "failed")


async def test_a_source_that_breaks_when_it_is_told_something_keeps_no_other_waiting(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    watch.cards.put("c1")
    watch.multica.put("m1")
    await watch.sweep()
    with monkeypatch.context() as bug:
        bug.setattr(watch.cards, "finish", broken)
        bug.setattr(watch.cards, "read", broken)
        await watch.end_runs()
        assert watch.multica.status("m1") is Status.IN_REVIEW
        assert (await watch.sweep()).result is not Result.FAILED
    await watch.sweeper.settle()
    assert watch.cards.said("finish") == [("c1", "done")]


async def test_a_sweep_during_a_conversation_is_deferred_to_the_next_tick(watch: Watch) -> None:
    watch.cards.put("c1")
    watch.talking.agents.add("developer")
    assert (await watch.sweep()).result is Result.DEFERRED
    assert watch.cards.asked == 0
    watch.talking.agents.clear()
    assert (await watch.sweep()).started == 1
    assert [c.is_deferred for c in await watch.sweeper.overview()] == [False, False]


async def test_one_sweep_of_an_agent_at_a_time_and_the_other_tick_is_counted(watch: Watch) -> None:
    beats = await watch.sweeper.heartbeats()
    first = await watch.sweeper.begin("developer", "test", beats)
    with pytest.raises(Conflict, match="goes on"):
        await watch.sweep()
    await watch.sweep("coo")
    watch.clock.go(LEASE.total_seconds() + 1)
    watch.cards.put("c1")
    assert (await watch.sweep()).started == 1
    with pytest.raises(Conflict, match="taken over"):
        await first.finish()
    cards = {card.agent: card for card in await watch.sweeper.overview()}
    assert cards["developer"].skipped == 1


async def test_a_crowd_of_sweeps_in_one_process_does_not_take_all_connections(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = most = 0
    full = asyncio.Event()
    look = watch.cards.look

    async def counted(agents: Sequence[Watched]) -> Answer:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == AT_ONCE:
            full.set()
        await full.wait()
        await asyncio.sleep(0.01)
        inside -= 1
        return await look(agents)

    monkeypatch.setattr(watch.cards, "look", counted)
    entry = {"category": "business"}
    agents = [{"slug": f"a{n}", "heartbeat": entry, "parameters": {"program": "sh"}} for n in range(10)]
    await watch.crew.import_roster(Roster.model_validate({"agents": agents}), {})
    swept = await asyncio.gather(*(watch.sweep(f"a{n}") for n in range(10)))
    assert {card.result for card in swept} == {Result.QUIET}
    assert most == AT_ONCE


async def test_a_to_do_file_that_cannot_be_read_degrades_the_sweeps_of_its_own_agent_alone(
    watch: Watch, tmp_path: Path
) -> None:
    await watch.enrol(workspace=str(tmp_path))
    glance, notes = Glance(watch.database, GLANCE_OFF), Notes(watch.database, "documents")
    watch.sweeper.add(Documents(glance, notes, watch.clock))
    (tmp_path / "TODO.md").mkdir()
    swept = await watch.sweep()
    assert (swept.result, swept.sources["documents"].state) == (Result.DEGRADED, "unreadable")
    assert swept.sources["documents"].detail == f"{tmp_path / 'TODO.md'} is no file."
    assert (await watch.sweep("coo")).result is Result.QUIET


async def test_an_agent_without_a_heartbeat_is_an_error_not_an_empty_result(watch: Watch) -> None:
    with pytest.raises(NotFound, match="coo, developer"):
        await watch.sweep("nobody")


async def test_the_next_sweep_is_known(watch: Watch) -> None:
    for card in await watch.sweeper.overview():
        assert watch.clock.now() < card.next_at <= watch.clock.now() + timedelta(minutes=16)


async def test_what_is_done_and_stays_in_progress_in_its_source_is_not_done_again(watch: Watch) -> None:
    watch.sweeper.add(watch.plane)
    watch.plane.put("p1")
    await watch.sweep()
    await watch.end_runs()
    for hours in (1, 24, 6 * 24, 6 * 24):  # also when it was forgotten otherwise
        watch.minutes(hours * 60)
        swept = await watch.sweep()
        assert (swept.suspected, swept.confirmed, swept.result) == ([], [], Result.QUIET)
    assert (watch.plane.status("p1"), len(await watch.runs())) == (Status.IN_PROGRESS, 1)
    watch.plane.change("p1")  # somebody goes on with it, and stops
    watch.minutes(46)
    assert (await watch.sweep()).confirmed == ["plane:p1"]
    assert len(await watch.runs()) == 2


async def test_work_of_those_whom_nobody_sweeps_is_counted_watched_and_told_once(watch: Watch) -> None:
    for number in range(6):
        watch.cards.put(f"c{number}", agent="main")
    watch.cards.put("typo", agent="archtect", **IN_PROGRESS)
    for _ in range(2):
        await watch.sweep("coo")
        await watch.sweep("developer")
    assert await watch.told("work_of_strangers", "backlog_warning") == [
        ("work_of_strangers", "coo"),
        ("backlog_warning", "coo"),
    ]
    watch.minutes(31)
    assert (await watch.sweep("coo")).suspected == ["workboard:typo"]
    watch.cards.put("c9", agent="somebody-else")
    await watch.sweep("coo")
    assert len(await watch.told("work_of_strangers")) == 2
    assert await watch.runs() == []
