"""Signs of life, standstill and who is told of it: the values of heartbeat.md, from values alone."""

import inspect
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from quarterdeck.crew.roster import read_roster
from quarterdeck.heartbeat import automations, rendering, rules
from quarterdeck.heartbeat.overview import sign
from quarterdeck.heartbeat.roster import Heartbeat, complaints, read_all
from quarterdeck.heartbeat.sources import programs
from quarterdeck.heartbeat.sources.reading import Times
from quarterdeck.heartbeat.stall import Standing, recipients, standing
from quarterdeck.heartbeat.work import Found, Ref, Status

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
EXAMPLE = Path(__file__).parents[2] / "deployments" / "examples" / "company.yaml"


def beat(**entry: Any) -> Heartbeat:
    return read_all({"developer": {"category": "development"} | entry})["developer"]


def shipped() -> dict[str, Any]:
    """The heartbeats of the example company."""
    return {a.slug: a.heartbeat for a in read_roster(EXAMPLE, complaints).agents if a.heartbeat}


def found(**facts: Any) -> Found:
    return Found(Ref("workboard", "c1"), "Fix the login", Status.IN_PROGRESS, **facts)


@pytest.mark.parametrize("told", ["2026-01-05T11:59:00Z", "2026-01-05T11:59:00", "2026-01-05 11:59:00"])
def test_work_changed_a_minute_ago_is_not_stale_where_the_host_is_in_shanghai(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        last = sign(found(updated_at=Times(NOW).read(told)), NOW)
        assert last == NOW - timedelta(minutes=1)
        assert standing(last, NOW, beat().limits) is Standing.MOVING
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("category", ["high-frequency", "development", "business"])
def test_idle_for_exactly_a_threshold_is_not_over_it_a_second_more_is(category: str) -> None:
    limits, second = beat(category=category).limits, timedelta(seconds=1)
    states = [
        standing(NOW - idle, NOW, limits)
        for idle in (limits.stagnation, limits.stagnation + second, limits.recovery, limits.recovery + second)
    ]
    assert states == [Standing.MOVING, Standing.SUSPECTED, Standing.SUSPECTED, Standing.CONFIRMED]


def test_without_a_change_the_start_counts_and_without_that_the_making() -> None:
    made, began, changed = (NOW - timedelta(hours=hours) for hours in (3, 2, 1))
    assert sign(found(created_at=made, started_at=began, updated_at=changed), NOW) == changed
    assert sign(found(created_at=made, started_at=began), NOW) == began
    assert sign(found(created_at=made), NOW) == made
    assert sign(found(), NOW) is None
    assert standing(None, NOW, beat().limits) is Standing.UNMEASURABLE


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai"])
def test_an_agent_with_a_cron_of_its_own_has_stopped_when_it_missed_two_of_its_ticks(zone: str) -> None:
    daily = beat(cron="0 9 * * *", zone=zone)
    nine = datetime(2026, 1, 5, 9, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    last, day, grace = nine + timedelta(minutes=1), timedelta(days=1), timedelta(minutes=1)
    looked = [nine + timedelta(hours=3), nine + day - grace, nine + 2 * day + grace]
    assert [rules.is_stale(daily, last, now) for now in looked] == [False, False, False]
    assert rules.is_stale(daily, last, nine + 2 * day + grace + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("category", "told"),
    [
        ("high-frequency", [("coo",), ("coo",), ("coo", "owner")]),
        ("development", [("coo", "anna"), ("coo", "anna"), ("coo", "anna", "owner")]),
        ("business", [("anna",), ("anna", "coo"), ("anna", "coo", "owner")]),
    ],
)
def test_timeouts_one_two_three_are_told_by_the_matrix_then_the_coo_then_the_owner(
    category: str, told: list[tuple[str, ...]]
) -> None:
    one = beat(category=category)
    assert [recipients(one, n, resumed=False, creator="anna") for n in (1, 2, 3)] == told
    assert recipients(one, 1, resumed=True, creator="anna") == (), "it moves again: nobody is alarmed"


def test_in_lists_of_all_work_what_nobody_has_is_unassigned_and_long_words_are_cut() -> None:
    assert rules.line(found(shown="ENG-1")) == "ENG-1 unassigned Fix the login"
    long = Found(Ref("multica", "x" * 40), "t" * 70, Status.TODO, agent="a" * 20)
    assert rules.line(long) == f"{'x' * 12} {'a' * 12} {'t' * 60}"


def test_a_call_of_a_program_has_a_limit_of_thirty_seconds_unless_somebody_says_otherwise() -> None:
    assert inspect.signature(programs.run).parameters["seconds"].default == 30


def test_in_openclaw_every_agent_of_the_company_has_one_job_with_its_expression_and_zone() -> None:
    entries = {slug: entry | {"scheduler": "openclaw"} for slug, entry in shipped().items()}
    jobs = automations.wanted(read_all(entries))
    assert len({job.agent for job in jobs}) == len(jobs) == 15
    assert {job.zone for job in jobs} == {"Asia/Shanghai"}
    assert len({job.expr for job in jobs}) == 15, "no two in the same second of the same minute"
    every = {job.agent: job.expr.partition("/")[2].partition(" ")[0] for job in jobs}
    assert {agent for agent, minutes in every.items() if minutes == "10"} == {"secretary", "coo"}
    assert set(every.values()) == {"10", "15"}


def test_every_agents_heartbeat_md_is_below_5_kb_and_calls_the_command_not_an_interpreter() -> None:
    texts = {one.agent: rendering.text_of(one) for one in read_all(shipped()).values()}
    assert len(texts) == 15
    for agent, text in texts.items():
        assert len(text.encode()) < 5 * 1024
        assert f"`quarterdeck heartbeat {agent}`" in text
        assert not any(word in text for word in ("python", "jq ", "sh -c", "2>/dev/null"))
