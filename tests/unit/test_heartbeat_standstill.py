"""Work that stands still is brought on, and told of; work that turns in circles is stopped."""

import asyncio
from pathlib import Path

import pytest

from quarterdeck.heartbeat.checking import MOST_READ
from quarterdeck.heartbeat.model import Result
from quarterdeck.heartbeat.service import Steps
from quarterdeck.heartbeat.work import Answer, Found, Ref, Status, Trouble
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Invalid, NotFound
from tests.fakes.surroundings import OWNER
from tests.fakes.watch import Watch

IN_PROGRESS = {"status": Status.IN_PROGRESS}


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol()
    return made


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
        if number < 3:
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
    assert watch.cards.status("c1") is Status.BLOCKED, "as OpenClaw cannot give it back"


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


@pytest.mark.parametrize("name", ["multica", "plane"])  # in Plane, what is blocked lies in the backlog
async def test_what_is_stopped_stays_so_when_it_is_filed_elsewhere_too(watch: Watch, name: str) -> None:
    watch.sweeper.add(watch.plane)
    place = {"multica": watch.multica, "plane": watch.plane}[name]
    place.put("ENG-1", "Fix the login")
    for _ in range(3):
        await watch.sweep()
        await watch.end_runs(exit_code=1, error="it broke")
        watch.minutes(15)
    watch.cards.put("c1", "Fix the login")
    for _ in range(3):
        await watch.sweep()
        watch.minutes(15)
    assert len(await watch.runs()) == 3
    assert watch.cards.said("block") == [("c1", "3 runs in a row ended the same way: it broke")]
    await watch.sweeper.unblock(OWNER, "developer", f"{name}:ENG-1")
    await watch.sweeper.settle()
    await watch.sweep()
    assert len(await watch.runs()) == 4
    assert watch.cards.status("c1") is place.status("ENG-1") is Status.IN_PROGRESS


async def test_failed_runs_are_told_given_back_and_tried_again_until_the_breaker(watch: Watch) -> None:
    watch.multica.put("c1")
    for _ in range(4):
        await watch.sweep()
        await watch.end_runs(exit_code=1, error="it broke")
        watch.minutes(15)
    assert len(await watch.runs()) == 3
    assert await watch.told("work_unfinished") == [("work_unfinished", "coo")]
    assert len(await watch.told("breaker_opened")) == 1
    assert watch.multica.status("c1") is Status.BLOCKED


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


async def test_the_days_budget_holds_for_work_that_stands_still_too(watch: Watch) -> None:
    await watch.enrol(budget={"day_rounds": 1})
    watch.cards.put("c1")
    await watch.sweep()
    await watch.end_runs()
    watch.cards.put("c2", **IN_PROGRESS)
    watch.minutes(46)
    assert (await watch.sweep()).confirmed == ["workboard:c2"]
    assert len(await watch.runs()) == 1
    assert await watch.told("day_budget_spent") == [("day_budget_spent", "coo, owner")]
    watch.minutes(15)
    await watch.sweep()
    assert watch.cards.said("release") != [], "it is given back, to be begun tomorrow"
    watch.cards.change("c2", status=Status.TODO)
    watch.minutes(24 * 60)
    await watch.sweep()
    assert len(await watch.runs()) == 2


async def test_an_items_budget_blocks_it_and_begins_anew_when_somebody_unblocks_it(watch: Watch) -> None:
    await watch.enrol(budget={"item_tokens": 1000})
    watch.multica.put("c1")
    await watch.sweep()
    await watch.end_runs(exit_code=1, error="it broke", tokens=1000)
    await watch.sweep()
    assert len(await watch.runs()) == 1
    assert await watch.told("breaker_opened") == [("breaker_opened", "coo, anna")]
    watch.minutes(15)
    await watch.sweeper.unblock(OWNER, "developer", "multica:c1")
    await watch.sweep()
    assert len(await watch.runs()) == 2
    await watch.end_runs(exit_code=1, error="it broke otherwise", tokens=1000)
    await watch.sweep()
    assert len(await watch.runs()) == 2
    assert len(await watch.told("breaker_opened")) == 2


@pytest.mark.parametrize(("place", "told"), [("multica", 2), ("cards", 5)])
async def test_work_that_fails_in_other_ways_is_told_once_a_day_unless_it_waits_for_a_person_each_time(
    watch: Watch, place: str, told: int
) -> None:
    where = getattr(watch, place)
    where.put("w1")
    for why in ("no file", "a conflict", "it is busy", "a day later", "out of memory"):
        await watch.sweep()
        await watch.end_runs(exit_code=1, error=why)
        where.change("w1", status=Status.TODO)  # whoever was told opens it again
        watch.minutes(24 * 60 if why == "it is busy" else 15)
    assert await watch.told("work_unfinished") == [("work_unfinished", "coo")] * told
    assert len(await watch.told("work_unfinished_again")) == 5 - told


async def test_many_cards_that_stand_still_are_read_a_few_at_a_time_and_found_work_begins(
    watch: Watch,
) -> None:
    await watch.enrol(slots=50)
    for number in range(MOST_READ + 5):
        watch.cards.put(f"c{number}", **IN_PROGRESS)
    watch.minutes(46)
    read = watch.cards.read
    asked: list[str] = []

    async def counted(ref: Ref) -> Found | None:
        asked.append(ref.id)
        return await read(ref)

    watch.cards.read = counted  # type: ignore[method-assign]
    swept = await watch.sweep()
    assert len(swept.confirmed) == MOST_READ
    assert len(swept.suspected) == 5
    asked.clear()
    await watch.sweep()
    assert len(await watch.runs()) == MOST_READ + 5


async def test_a_sweep_that_is_cancelled_is_recorded_and_gives_the_agent_free(watch: Watch) -> None:
    async def look(*_: object) -> Answer:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await watch.sweeper.sweep("developer", steps=Steps(look=look))
    [card] = [c for c in await watch.sweeper.overview() if c.agent == "developer"]
    assert card.last is not None and card.last.result is Result.FAILED
    await watch.sweep()
