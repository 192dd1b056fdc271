"""Sweeps: work is found, started once, brought on when it stands still, stopped when it turns in circles."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck.board.model import State
from quarterdeck.board.store import item as board_item
from quarterdeck.crew.roster import Roster
from quarterdeck.heartbeat.model import Result
from quarterdeck.heartbeat.service import AT_ONCE, LEASE
from quarterdeck.heartbeat.work import Answer, Need, Ref, Status, Trouble, Watched
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Forbidden, Invalid, NotFound
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


async def test_a_source_without_an_id_of_the_agent_is_not_configured_never_no_tasks(watch: Watch) -> None:
    await watch.enrol(multica_id="")
    assert (await watch.sweep()).sources["multica"].state == "not configured"


async def test_work_is_started_once_however_often_it_is_swept(watch: Watch) -> None:
    watch.cards.put("c1")
    for _ in range(3):
        await watch.sweep()
        watch.minutes(1)
    assert len(await watch.runs()) == 1


async def test_the_same_work_in_two_places_is_done_once_and_closed_in_both(watch: Watch) -> None:
    watch.cards.put("c1", "ENG-1: Fix  the LOGIN")
    watch.multica.put("ENG-1", "fix the login ")
    await watch.sweep()
    assert len(await watch.runs()) == 1
    assert watch.cards.status("c1") is watch.multica.status("ENG-1") is Status.IN_PROGRESS
    await watch.end_runs()
    assert watch.cards.status("c1") is watch.multica.status("ENG-1") is Status.IN_REVIEW


async def test_work_that_was_done_while_its_other_place_was_down_is_closed_there_not_done_again(
    watch: Watch,
) -> None:
    watch.cards.put("c1", "Fix the login")
    watch.multica.put("ENG-1", "Fix the login")
    watch.cards.down = Trouble.MISSING
    await watch.sweep()
    await watch.end_runs()
    watch.cards.down = None
    watch.minutes(15)
    await watch.sweep()
    assert len(await watch.runs()) == 1
    assert watch.cards.status("c1") is Status.IN_REVIEW


async def test_work_that_was_known_before_its_place_went_down_is_closed_there_when_it_is_back(
    watch: Watch,
) -> None:
    needs = (Need(Ref("workboard", "c2"), Status.TODO),)
    watch.cards.put("c1", "Fix the login", needs=needs)
    watch.multica.put("ENG-1", "Fix the login")
    await watch.sweep()  # it waits, and is remembered
    watch.cards.down = Trouble.MISSING
    await watch.sweep()
    await watch.end_runs()
    watch.multica.change("ENG-1", status=Status.DONE)  # a reviewer was content
    watch.cards.down = None
    watch.cards.change("c1", needs=())
    for _ in range(2):
        watch.minutes(15)
        await watch.sweep()
    assert len(await watch.runs()) == 1
    assert watch.cards.status("c1") is Status.IN_REVIEW


async def test_what_our_own_engine_did_is_closed_in_its_other_place_not_done_again(watch: Watch) -> None:
    watch.board.put("ET-1", "Fix the login")
    watch.multica.put("ENG-1", "ET-1: Fix the login")
    await watch.sweep()
    watch.board.change("ET-1", status=Status.DONE)
    watch.minutes(15)
    await watch.sweep()
    assert await watch.runs() == []
    assert watch.multica.status("ENG-1") is Status.IN_REVIEW


async def test_what_our_own_engine_did_while_its_other_place_was_down_is_closed_there(watch: Watch) -> None:
    watch.board.put("ET-1", "Fix the login")
    watch.multica.put("ENG-1", "Fix the login")
    watch.multica.down = Trouble.TIMED_OUT
    await watch.sweep()
    watch.board.change("ET-1", status=Status.DONE)
    watch.multica.down = None
    watch.minutes(15)
    await watch.sweep()
    assert (await watch.runs(), watch.multica.status("ENG-1")) == ([], Status.IN_REVIEW)


async def test_what_our_own_engine_gave_up_is_begun_in_its_other_place(watch: Watch) -> None:
    watch.board.put("ET-1", "Fix the login")
    watch.multica.put("ENG-1", "ET-1: Fix the login")
    await watch.sweep()
    watch.board.change("ET-1", status=Status.CANCELLED)
    watch.minutes(15)
    await watch.sweep()
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


# What stands still


async def test_idle_for_exactly_the_threshold_is_not_suspected_one_second_more_is(watch: Watch) -> None:
    watch.cards.put("c1", **IN_PROGRESS)
    watch.minutes(30)
    assert (await watch.sweep()).suspected == []
    watch.clock.go(1)
    swept = await watch.sweep()
    assert (swept.suspected, swept.confirmed) == (["workboard:c1"], [])
    assert await watch.runs() == []


async def test_only_the_coo_sees_what_stands_still_with_others(watch: Watch) -> None:
    watch.cards.put("c1", agent="coo", **IN_PROGRESS)
    watch.cards.put("c2", agent="developer", **IN_PROGRESS)
    watch.cards.put("c3", agent=None, **IN_PROGRESS)
    watch.minutes(25)
    assert (await watch.sweep("developer")).suspected == []
    watch.minutes(10)
    assert (await watch.sweep("developer")).suspected == ["workboard:c2"]
    assert sorted((await watch.sweep("coo")).confirmed) == ["workboard:c1"]
    assert sorted((await watch.sweep("coo")).suspected)[-2:] == ["workboard:c2", "workboard:c3"]


async def test_a_first_timeout_is_retried_and_nobody_is_alarmed_when_it_goes_on(watch: Watch) -> None:
    watch.board.put("ET-1", **IN_PROGRESS)
    watch.minutes(46)
    assert (await watch.sweep()).confirmed == ["board:ET-1"]
    assert watch.board.said("start") == [("ET-1", "developer")]
    watch.minutes(5)
    watch.board.change("ET-1")
    watch.minutes(5)
    await watch.sweep()
    assert [kind for kind, _ in await watch.told()] == ["work_resumed"]


async def test_timeouts_one_two_three_tell_exactly_who_is_to_be_told(watch: Watch) -> None:
    watch.board.put("ET-1", **IN_PROGRESS)
    expected = ["coo, anna", "coo, anna", "coo, anna, owner"]
    for number in (1, 2, 3):
        watch.minutes(46)
        await watch.sweep()
        if number < 3:
            assert len(await watch.told("work_timed_out")) == number - 1  # the retry comes first
            watch.minutes(15)
            await watch.sweep()
        assert [to for _, to in await watch.told("work_timed_out")] == expected[:number]
        assert watch.board.status("ET-1") is Status.BLOCKED
        watch.minutes(1)
        watch.board.change("ET-1", **IN_PROGRESS)
    watch.minutes(200)
    await watch.sweep()
    assert len(await watch.told("work_timed_out")) == 3
    assert len(watch.board.said("start")) == 2


async def test_on_the_workboard_the_claim_is_given_back_until_the_third_time(watch: Watch) -> None:
    await watch.enrol(slots=1)
    watch.cards.put("busy")
    await watch.sweep()  # takes the only slot, so that nothing can be retried
    watch.cards.put("c1", **IN_PROGRESS)
    watch.minutes(46)
    await watch.sweep()
    watch.minutes(15)
    await watch.sweep()
    assert [ref for ref, _ in watch.cards.said("release")] == ["c1"]
    assert watch.cards.status("c1") is Status.TODO


async def test_work_that_goes_on_by_a_run_of_ours_is_never_stuck(watch: Watch) -> None:
    watch.cards.put("c1")
    await watch.sweep()
    watch.minutes(500)
    swept = await watch.sweep()
    assert (swept.suspected, swept.confirmed, len(await watch.runs())) == ([], [], 1)


@pytest.mark.parametrize("place", ["board", "cards"])
async def test_what_was_only_read_from_a_cache_is_read_again_before_it_is_touched(
    watch: Watch, place: str
) -> None:
    chosen = getattr(watch, place)
    chosen.put("w1", **IN_PROGRESS)
    watch.minutes(46)
    chosen.is_cached = True
    answer = await chosen.look(())
    chosen.change("w1")

    async def kept(_: object) -> object:
        return answer

    chosen.look = kept
    swept = await watch.sweep()
    assert (swept.confirmed, chosen.done) == ([], [])


async def test_work_of_a_source_that_cannot_be_read_now_is_suspected_and_never_touched(watch: Watch) -> None:
    watch.cards.put("c1", **IN_PROGRESS)
    watch.minutes(60)
    answer = await watch.cards.look(())

    async def kept(_: object) -> object:
        return answer

    watch.cards.look = kept  # type: ignore[method-assign]
    watch.cards.down = Trouble.TIMED_OUT
    swept = await watch.sweep()
    assert (swept.suspected, swept.confirmed) == (["workboard:c1"], [])
    assert await watch.runs() == []


async def test_work_without_any_time_is_reported_as_unmeasurable(watch: Watch) -> None:
    watch.cards.put("c1", updated_at=None, created_at=None, **IN_PROGRESS)
    assert "no time by which" in (await watch.sweep()).warnings[0]


# Circles


@pytest.mark.parametrize(
    ("category", "rounds", "outcome"),
    [
        ("high-frequency", (39, 40, 50), ("coo", "coo")),
        ("development", (79, 80, 100), ("coo, anna", "coo, anna")),
        ("business", (23, 24, 30), ("anna", "anna")),
    ],
)
async def test_rounds_give_nothing_then_one_warning_then_a_pause(
    watch: Watch, category: str, rounds: tuple[int, int, int], outcome: tuple[str, str]
) -> None:
    await watch.enrol(category=category)
    watch.multica.put("ENG-1", **IN_PROGRESS)
    for used, kinds in zip(
        rounds, ([], ["rounds_warning"], ["rounds_warning", "rounds_exhausted"]), strict=True
    ):
        watch.multica.change("ENG-1", rounds=used)
        for _ in range(2):
            await watch.sweep()
        told = await watch.told("rounds_warning", "rounds_exhausted")
        assert told == list(zip(kinds, outcome, strict=False))
    assert watch.multica.status("ENG-1") is Status.BLOCKED
    with pytest.raises(Invalid):
        await watch.sweeper.raise_limit(OWNER, "developer", "multica:ENG-1", rounds[2])
    await watch.sweeper.raise_limit(OWNER, "developer", "multica:ENG-1", rounds[2] + 20)
    await watch.sweeper.settle()
    assert watch.multica.status("ENG-1") is Status.TODO
    assert (await watch.sweep()).started == 1


async def test_the_same_outcome_again_and_again_opens_a_breaker_once_and_unblocking_closes_it(
    watch: Watch,
) -> None:
    watch.multica.put("ENG-1")
    for _ in range(5):
        await watch.sweep()
        await watch.end_runs(says="Nothing to change (try 17).")
        if watch.multica.status("ENG-1") is Status.IN_REVIEW:
            watch.multica.change("ENG-1", status=Status.TODO)  # somebody sends it back, unchanged
        watch.minutes(15)
    assert len(await watch.runs()) == 3
    assert watch.multica.status("ENG-1") is Status.BLOCKED
    assert await watch.told("breaker_opened") == [("breaker_opened", "coo, anna")]
    [card] = [c for c in await watch.sweeper.overview() if c.agent == "developer"]
    assert [breaker.work for breaker in card.breakers] == ["multica:ENG-1"]
    await watch.sweeper.unblock(OWNER, "developer", "HB-001")
    assert (await watch.sweep()).started == 1
    with pytest.raises(NotFound, match="multica:ENG-1"):
        await watch.sweeper.unblock(OWNER, "developer", "multica:ENG-2")


async def test_failed_runs_are_told_given_back_and_tried_again_until_the_breaker(watch: Watch) -> None:
    watch.cards.put("c1")
    for _ in range(4):
        await watch.sweep()
        await watch.end_runs(exit_code=1, error="it broke")
        watch.minutes(15)
    assert len(await watch.runs()) == 3
    assert await watch.told("work_unfinished") == [("work_unfinished", "coo")] * 2
    assert len(await watch.told("breaker_opened")) == 1
    assert watch.cards.status("c1") is Status.BLOCKED


async def test_the_days_budget_stops_an_agent_until_tomorrow_and_is_told_once(watch: Watch) -> None:
    await watch.enrol(budget={"day_rounds": 2})
    for number in range(4):
        watch.cards.put(f"c{number}")
        await watch.sweep()
    assert len(await watch.runs()) == 2
    assert await watch.told("day_budget_spent") == [("day_budget_spent", "coo, owner")]
    watch.minutes(24 * 60)
    await watch.end_runs()
    await watch.sweep()
    assert len(await watch.runs()) == 4


async def test_an_items_budget_blocks_it_and_begins_anew_when_somebody_unblocks_it(watch: Watch) -> None:
    await watch.enrol(budget={"item_tokens": 1000})
    watch.cards.put("c1")
    await watch.sweep()
    await watch.end_runs(exit_code=1, error="it broke", tokens=1000)
    await watch.sweep()
    assert len(await watch.runs()) == 1
    assert await watch.told("breaker_opened") == [("breaker_opened", "coo, anna")]
    watch.minutes(15)
    await watch.sweeper.unblock(OWNER, "developer", "workboard:c1")
    await watch.sweep()
    assert len(await watch.runs()) == 2
    await watch.end_runs(exit_code=1, error="it broke otherwise", tokens=1000)
    await watch.sweep()
    assert len(await watch.runs()) == 2
    assert len(await watch.told("breaker_opened")) == 2


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


async def test_a_heartbeat_that_stopped_is_told_once_until_it_beats_again(watch: Watch) -> None:
    await watch.sweep()
    watch.minutes(31)
    assert await watch.sweeper.watch() == ["coo"]
    watch.clock.go(1)
    assert await watch.sweeper.watch() == ["coo", "developer"]
    await watch.sweeper.watch()
    assert await watch.told("heartbeat_stale") == [("heartbeat_stale", "coo, owner")] * 2
    await watch.sweep()
    assert await watch.sweeper.watch() == ["coo"]


async def test_an_agent_without_a_heartbeat_is_an_error_not_an_empty_result(watch: Watch) -> None:
    with pytest.raises(NotFound, match="coo, developer"):
        await watch.sweep("nobody")


async def test_the_next_sweep_is_known(watch: Watch) -> None:
    for card in await watch.sweeper.overview():
        assert watch.clock.now() < card.next_at <= watch.clock.now() + timedelta(minutes=16)
