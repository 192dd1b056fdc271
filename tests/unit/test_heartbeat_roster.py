"""The heartbeats of a roster: what an entry means, what is refused, and that no two agents share a second."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.setup import EXAMPLES
from quarterdeck.crew.roster import read_roster
from quarterdeck.heartbeat.roster import Heartbeat, Patrol, Scheduler, complaints, cron_of, read_all
from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.pipeline.pipelines import read_pipelines

MINUTE = timedelta(minutes=1)


def one(**entry: Any) -> Heartbeat:
    return read_all({"developer": {"category": "development"} | entry})["developer"]


def company() -> dict[str, Heartbeat]:
    roster = read_roster(EXAMPLES / "company.yaml", complaints)
    return read_all({agent.slug: agent.heartbeat for agent in roster.agents})


def test_the_shipped_company_can_work_in_the_shipped_pipeline() -> None:
    agents = {agent.slug for agent in read_roster(EXAMPLES / "company.yaml", complaints).agents}
    assert read_pipelines(EXAMPLES / "pipelines", sorted(agents))


@pytest.mark.parametrize(
    ("category", "interval", "rounds", "warn", "stagnation", "recovery", "wait", "notify"),
    [
        ("high-frequency", 10, 50, 40, 20, 30, 60, ("coo",)),
        ("development", 15, 100, 80, 30, 45, 120, ("coo", "creator")),
        ("business", 15, 30, 24, 30, 45, 120, ("creator",)),
    ],
)
def test_the_category_gives_every_value(
    category: str,
    interval: int,
    rounds: int,
    warn: int,
    stagnation: int,
    recovery: int,
    wait: int,
    notify: tuple[str, ...],
) -> None:
    read = one(category=category)
    assert (read.interval, read.notify) == (interval * MINUTE, notify)
    assert (read.limits.max_rounds, read.limits.warn_rounds) == (rounds, warn)
    assert read.limits.stagnation == stagnation * MINUTE
    assert read.limits.recovery == recovery * MINUTE
    assert read.limits.dependency_wait == wait * MINUTE


def test_an_entry_replaces_single_cells() -> None:
    read = one(interval=10, max_rounds=7, notify=["anna"], patrol=False, scheduler="openclaw")
    assert (read.interval, read.limits.max_rounds, read.notify) == (10 * MINUTE, 7, ("anna",))
    assert (read.patrol, read.scheduler) == (Patrol.OFF, Scheduler.OPENCLAW)
    assert read.limits.stagnation == 30 * MINUTE


def test_an_entry_that_is_switched_off_is_no_heartbeat() -> None:
    assert read_all({"developer": {"category": "development", "enabled": False}}) == {}


def test_the_example_has_the_fifteen_agents_each_at_a_second_of_its_own() -> None:
    found = company()
    assert len(found) == 15
    assert len({h.delay for h in found.values()}) == 15
    assert {h.agent for h in found.values() if h.interval == 10 * MINUTE} == {"secretary", "coo"}
    assert {h.zone for h in found.values()} == {"Asia/Shanghai"}
    assert [h.agent for h in found.values() if not h.multica_id] == ["prompt-engineer"]
    assert [h.agent for h in found.values() if h.patrol is Patrol.ALERTS] == ["coo"]


@pytest.mark.parametrize(
    ("interval", "offset", "cron"),
    [
        (15, 0, "*/15 * * * *"),
        (15, 16, "1-59/15 * * * *"),
        (60, 7, "7 * * * *"),
        (240, 61, "1 1-23/4 * * *"),
        (1440, 5, "5 0 * * *"),
        (1440, 545, "5 9 * * *"),
    ],
)
def test_an_interval_becomes_a_cron_expression(interval: int, offset: int, cron: str) -> None:
    assert cron_of(interval, offset) == cron


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("category: bussiness", "category"),
        ("{category: business, cron: 61 * * * *}", "five fields"),
        ("{category: business, cron: '* * * * * *'}", "five fields"),
        ("{category: business, cron: 0 9 30 2 *}", "never comes"),
        ("{category: business, zone: Mars/Olympus}", "not a time zone"),
        ("{category: business, interval: 7}", "must divide an hour"),
        ("{category: business, intervall: 10}", "intervall: is not known here"),
        ("{category: business, stagnation: 50}", "recovery must not be shorter"),
        ("{category: business, escalate: [coo]}", "escalate"),
        ("[]", "dictionary"),
    ],
)
def test_a_wrong_entry_is_refused_with_file_and_line(tmp_path: Path, line: str, what: str) -> None:
    file = tmp_path / "crew.yaml"
    file.write_text(
        f"agents:\n  - slug: seller\n    parameters: {{program: sh}}\n    heartbeat:\n      {line}\n"
    )
    with pytest.raises(Misconfigured, match=what) as refusal:
        read_roster(file, complaints)
    assert f"{file}:5" in refusal.value.detail or f"{file}:4" in refusal.value.detail


def test_an_agent_twice_and_two_patrols_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "crew.yaml"
    entry = "  - slug: {0}\n    parameters: {{program: sh}}\n    heartbeat:\n      category: business\n"
    file.write_text("agents:\n" + entry.format("seller") * 2)
    with pytest.raises(Misconfigured, match=r":6: .*seller is taken"):
        read_roster(file, complaints)
    file.write_text("agents:\n" + "".join(entry.format(s) + "      patrol: alerts\n" for s in ("a", "b")))
    with pytest.raises(Misconfigured, match=r":11: .*patrol: a tells of the backlog already"):
        read_roster(file, complaints)


@pytest.mark.parametrize("line", ["multica_id: d877b8c3", "workspace: desks/one"])
def test_two_agents_with_one_id_in_multica_or_one_folder_are_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "crew.yaml"
    entry = "  - slug: {0}\n    parameters: {{program: sh}}\n    heartbeat:\n      category: business\n"
    file.write_text("agents:\n" + "".join(f"{entry.format(slug)}      {line}\n" for slug in ("a", "b")))
    with pytest.raises(Misconfigured, match=rf":11: .*{line.partition(':')[0]}: a has this one already"):
        read_roster(file, complaints)
