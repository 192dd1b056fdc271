"""Who is told, and when a message may go."""

from datetime import UTC, datetime, time, timedelta

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.notify import rules
from quarterdeck.notify.model import Severity, Subscription
from quarterdeck.notify.texts import KINDS, MESSAGES, TOLD

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_by_default_a_subscription_wants_the_ten_messages():
    wish = Subscription(channel="telegram")
    assert {kind for kind in KINDS if rules.wants(wish, kind, "ET")} == TOLD


def test_a_subscription_may_name_other_kinds():
    wish = Subscription(channel="telegram", events=["item_filed"])
    assert [kind for kind in sorted(KINDS) if rules.wants(wish, kind, "ET")] == ["item_filed"]


def test_a_subscription_may_want_one_project_or_what_matters_or_nothing():
    assert not rules.wants(Subscription(channel="log", project="ET"), "error", "QD")
    assert rules.wants(Subscription(channel="log", project="ET"), "error", "ET")
    severe = Subscription(channel="log", severity=Severity.ERROR)
    assert {k for k in MESSAGES if rules.wants(severe, k, None)} == {
        "agent_failed",
        "agent_timed_out",
        "error",
    }
    assert not rules.wants(Subscription(channel="log", enabled=False), "error", "ET")


def test_quiet_hours_may_pass_midnight_and_follow_their_zone():
    wish = Subscription(
        channel="log", quiet_from=time(22), quiet_to=time(8), zone="Europe/Kyiv"
    )  # UTC+2 in winter, UTC+3 in summer
    quiet = [hour for hour in range(24) if rules.is_quiet(wish, datetime(2026, 1, 5, hour, tzinfo=UTC))]
    assert quiet == [0, 1, 2, 3, 4, 5, 20, 21, 22, 23]
    assert not rules.is_quiet(wish, datetime(2026, 7, 5, 5, tzinfo=UTC))
    assert rules.is_quiet(wish, datetime(2026, 7, 5, 4, 59, tzinfo=UTC))


def test_a_zone_that_the_system_does_not_know_any_more_counts_as_utc():
    wish = Subscription(channel="log", quiet_from=time(22), quiet_to=time(8), zone="Europe/Atlantis")
    assert rules.is_quiet(wish, NOON.replace(hour=23))
    assert not rules.is_quiet(wish, NOON)


@given(st.times(), st.times(), st.integers(0, 24 * 60))
def test_hours_are_quiet_from_the_one_moment_or_from_the_other(one, other, minutes):
    moment = NOON + timedelta(minutes=minutes)
    there = Subscription(channel="log", quiet_from=one, quiet_to=other)
    back = Subscription(channel="log", quiet_from=other, quiet_to=one)
    if one == other:
        assert not rules.is_quiet(there, moment)
    else:
        assert rules.is_quiet(there, moment) != rules.is_quiet(back, moment)


def test_the_project_of_an_item_stands_before_its_number():
    assert rules.project_of("ET-007") == "ET"
    assert rules.project_of(None) is None
