"""Who wakes which agent and when: by the roster's zone, wherever the host is, and never by two."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from datetime import time as wall_time
from typing import Any

import pytest

from deployments.catalogue import SWEEP, document, sweeps
from deployments.setup import EXAMPLES
from quarterdeck.crew.roster import read_roster
from quarterdeck.heartbeat import automations
from quarterdeck.heartbeat.roster import Heartbeat, complaints, read_all
from quarterdeck.heartbeat.rules import day_begins, next_sweep
from quarterdeck.notify.model import Subscription
from quarterdeck.notify.rules import is_quiet

ENTRY: dict[str, Any] = {"category": "development", "zone": "Asia/Shanghai"}


def one(**entry: Any) -> Heartbeat:
    return read_all({"developer": {"category": "development"} | entry})["developer"]


def test_every_agent_of_the_example_has_a_deployment_with_its_own_time_in_its_zone() -> None:
    roster = read_roster(EXAMPLES / "company.yaml", complaints)
    beats = read_all({agent.slug: agent.heartbeat for agent in roster.agents})
    entries = {entry.name: entry for entry in sweeps(beats)}
    assert set(entries) == {SWEEP + agent for agent in beats} and len(entries) == 15
    for agent, beat in beats.items():
        entry = entries[SWEEP + agent]
        assert entry.schedule is not None
        assert (entry.schedule.cron, entry.schedule.timezone) == (beat.cron, "Asia/Shanghai")
        assert entry.parameters == {"agent": agent, "delay": beat.delay}
        assert (entry.limit, entry.when_full) == (2, "CANCEL_NEW")
    assert not any(one["name"].startswith(SWEEP) for one in document()["deployments"])


def test_an_agent_is_woken_by_prefect_or_by_openclaw_and_never_by_both() -> None:
    beats = read_all({"developer": ENTRY | {"scheduler": "openclaw"}, "architect": ENTRY, "off": None})
    assert [entry.name for entry in sweeps(beats)] == ["sweep-architect"]
    [job] = automations.wanted(beats)
    assert (job.agent, job.zone, job.expr) == (
        "developer",
        "Asia/Shanghai",
        f"{beats['developer'].delay} {beats['developer'].cron}",
    )


# The host's zone


@pytest.fixture(params=["UTC", "Asia/Shanghai", "America/Los_Angeles"])
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the machine believes to be."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def test_the_next_sweep_follows_the_zone_of_the_roster_wherever_the_host_is(host: str) -> None:
    noon = datetime(2026, 1, 5, 12, tzinfo=UTC)
    at_nine = {"cron": "0 9 * * *", "offset": 7}
    shanghai, kyiv = one(**at_nine, zone="Asia/Shanghai"), one(**at_nine, zone="Europe/Kyiv")
    assert next_sweep(shanghai, noon) == datetime(2026, 1, 6, 1, 0, 7, tzinfo=UTC)
    assert next_sweep(kyiv, noon) == datetime(2026, 1, 6, 7, 0, 7, tzinfo=UTC)
    summer = noon + timedelta(days=180)
    assert next_sweep(kyiv, summer).astimezone(UTC).hour == 6


def test_a_day_of_a_budget_begins_at_midnight_of_the_roster(host: str) -> None:
    evening = datetime(2026, 1, 5, 17, tzinfo=UTC)  # already tomorrow in Shanghai
    assert day_begins(evening, "Asia/Shanghai") == datetime(2026, 1, 5, 16, tzinfo=UTC)
    assert day_begins(evening, "UTC") == datetime(2026, 1, 5, tzinfo=UTC)


def test_quiet_hours_follow_the_zone_of_the_subscription(host: str) -> None:
    subscription = Subscription(
        channel="log",
        chat="",
        quiet_from=wall_time(22),
        quiet_to=wall_time(7),
        zone="Asia/Shanghai",
    )
    assert is_quiet(subscription, datetime(2026, 1, 5, 14, tzinfo=UTC))  # ten in the evening there
    assert not is_quiet(subscription, datetime(2026, 1, 5, 13, 59, tzinfo=UTC))
    assert is_quiet(subscription, datetime(2026, 1, 5, 22, 59, tzinfo=UTC))
    assert not is_quiet(subscription, datetime(2026, 1, 5, 23, tzinfo=UTC))


def test_what_prefect_and_openclaw_are_told_is_the_same_wherever_the_host_is(host: str) -> None:
    beats = read_all({"developer": ENTRY, "architect": ENTRY | {"scheduler": "openclaw"}})
    [entry], [job] = sweeps(beats), automations.wanted(beats)
    assert entry.schedule is not None
    assert (entry.schedule.timezone, job.zone) == ("Asia/Shanghai", "Asia/Shanghai")
    assert (entry.schedule.cron, job.expr) == ("7-59/15 * * * *", "0 */15 * * * *")


def test_what_openclaw_tells_an_agent_leaves_starting_to_the_command() -> None:
    [automation] = automations.wanted({"a": one(scheduler="openclaw")})
    assert "start at once" not in automation.message
    assert "begin nothing yourself" in automation.message
