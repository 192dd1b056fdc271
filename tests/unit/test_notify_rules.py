"""Who is told, and when a message may go."""

from datetime import UTC, datetime, time, timedelta

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.notify import rules
from quarterdeck.notify.channels import Window
from quarterdeck.notify.model import Severity, Subscription
from quarterdeck.notify.texts import KINDS, MESSAGES, TOLD

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
GROUP = (Window(1, timedelta(seconds=1)), Window(20, timedelta(minutes=1)))
WINDOWS = st.lists(
    st.builds(Window, st.integers(1, 30), st.timedeltas(timedelta(milliseconds=1), timedelta(minutes=2))),
    min_size=1,
    max_size=3,
)


def busiest(sends: list[datetime], span: timedelta) -> int:
    """The most sends in any span of this length, its end left out."""
    return max(sum(start <= moment < start + span for moment in sends) for start in sends)


@given(WINDOWS, st.integers(1, 60))
def test_sending_as_early_as_allowed_never_breaks_a_window(windows, count):
    now, sends, remembered = NOON, [], []
    for _ in range(count):
        now = rules.next_slot(windows, remembered, now)
        sends.append(now)
        remembered = [*rules.remembered(windows, remembered, now), now]
    for window in windows:
        assert busiest(sends, window.span) <= window.count


@given(WINDOWS, st.lists(st.timedeltas(timedelta(0), timedelta(minutes=3)), max_size=40))
def test_a_slot_is_never_later_than_needed(windows, ages):
    sends = [NOON - age for age in ages]
    slot = rules.next_slot(windows, sends, NOON)
    if slot > NOON:
        just_before = [*sends, slot - timedelta(microseconds=1)]
        counts = [sum(m > just_before[-1] - w.span for m in just_before) for w in windows]
        assert any(count > w.count for count, w in zip(counts, windows, strict=True))


@given(WINDOWS, st.lists(st.timedeltas(timedelta(0), timedelta(minutes=9)), max_size=40))
def test_what_is_forgotten_would_not_have_mattered(windows, ages):
    sends = [NOON - age for age in ages]
    kept = rules.remembered(windows, sends, NOON)
    assert rules.next_slot(windows, kept, NOON) == rules.next_slot(windows, sends, NOON)


def test_a_group_gets_twenty_messages_in_a_minute():
    now, sends = NOON, []
    for _ in range(21):
        now = rules.next_slot(GROUP, sends, now)
        sends.append(now)
    assert sends[19] - NOON == timedelta(seconds=19)
    assert sends[20] - NOON == timedelta(seconds=60)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_to_five_minutes_and_no_further(failures, jitter):
    pause = rules.pause(failures, jitter)
    assert timedelta(seconds=0.5) <= pause <= rules.LONGEST_PAUSE
    assert pause <= rules.pause(failures + 1, 0)


def test_pauses_double():
    assert [rules.pause(n, 0).total_seconds() for n in (1, 2, 3, 9, 10, 11)] == [1, 2, 4, 256, 300, 300]


@given(st.floats(0, 24 * 3600))
def test_a_wait_up_to_a_day_is_obeyed_exactly(seconds):
    assert rules.obeyed(seconds) == timedelta(seconds=seconds)


@given(st.floats(min_value=24 * 3600 + 1) | st.floats(max_value=-0.1) | st.just(float("nan")))
def test_a_longer_or_absurd_wait_is_a_day(seconds):
    assert rules.obeyed(seconds) == timedelta(hours=24)


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
