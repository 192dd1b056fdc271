"""What a 429 does to a backend: how long it rests, and what is told of it."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from quarterdeck.router.backend import Limit, Status
from quarterdeck.router.config import Tuning
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.limits.rules import DAY, Hint, LimitHint
from quarterdeck.router.limits.standing import (
    CooldownEnded,
    CooldownExtended,
    CooldownStarted,
    CountReset,
    State,
    StatusChanged,
)
from quarterdeck.router.upkeep import changes_log
from tests.fakes.backends import PLAIN, START, Desk


def exactly(seconds: float) -> LimitHint:
    return LimitHint(Limit.RATE, seconds, Hint.RETRY_AFTER)


def test_a_429_cools_a_backend_and_says_so() -> None:
    desk = Desk()
    desk.limited(summary="too many requests")
    assert desk.admit() is None
    view = desk.view
    assert (view.status, view.kind, view.reason) == (Status.COOLING, Limit.RATE, "too many requests")
    assert (view.until, view.next_probe, view.count) == (START + 30, START + 30, 1)
    assert desk.changes() == [
        CooldownStarted("a", Limit.RATE, 1, 30, START + 30, START, "too many requests"),
        StatusChanged("a", Status.COOLING, "too many requests", START),
    ]


def test_a_cooldown_ends_by_itself_at_its_time() -> None:
    desk = Desk()
    desk.limited()
    desk.now += 29.999
    assert desk.admit() is None
    desk.now += 0.001
    desk.changes()
    assert desk.admit()
    assert desk.changes() == [
        CooldownEnded("a", START + 30),
        StatusChanged("a", Status.HEALTHY, "", START + 30),
    ]
    assert (desk.view.status, desk.view.until, desk.view.kind) == (Status.HEALTHY, None, None)


def test_a_sweep_ends_what_is_over_when_nobody_calls() -> None:
    desk = Desk()
    desk.limited()
    desk.changes()
    desk.now += 100
    desk.balancer.sweep(desk.now)
    assert desk.changes()[0] == CooldownEnded("a", START + 30)


def test_the_back_off_grows_with_each_429_until_a_success() -> None:
    desk = Desk()
    waits = []
    for _ in range(7):
        desk.limited()
        waits.append(desk.view.until - desk.now)
        desk.now = desk.view.until
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    assert desk.view.count == 7
    desk.changes()
    desk.succeed(desk.admitted())
    assert desk.changes() == [CountReset("a", desk.now)]
    desk.limited()
    assert desk.view.until - desk.now == 30


def test_a_volley_of_429s_is_one_cooldown() -> None:
    desk = Desk()
    volley = desk.volley()
    for admission in volley:
        desk.balancer.limited(admission, desk.now, PLAIN, "")
        desk.now += 0.1
    started = [change for change in desk.changes() if isinstance(change, CooldownStarted)]
    assert [change.count for change in started] == [1]
    assert desk.view.until == START + 30


def test_a_429_that_comes_after_the_cooldown_it_belongs_to_changes_nothing() -> None:
    desk = Desk()
    late = desk.admitted()
    desk.limited()
    desk.now += 31
    desk.succeed(desk.admitted())
    desk.changes()
    desk.balancer.limited(late, desk.now, exactly(600), "")
    assert desk.changes() == []
    assert desk.view.status is Status.HEALTHY


def test_a_cooldown_that_is_over_is_not_made_longer() -> None:
    desk = Desk()
    late = desk.admitted()
    desk.limited()
    desk.now += 31
    desk.balancer.limited(late, desk.now, exactly(600), "")
    assert desk.view.status is Status.HEALTHY


def test_retry_after_is_kept_exactly_and_not_shortened_by_later_hints_of_the_volley() -> None:
    desk = Desk()
    first, second, third = desk.admitted(), desk.admitted(), desk.admitted()
    desk.balancer.limited(first, desk.now, exactly(45), "")
    desk.balancer.limited(second, desk.now, PLAIN, "")
    desk.balancer.limited(third, desk.now, exactly(5), "")
    assert desk.view.until == START + 45


def test_a_longer_retry_after_of_the_same_volley_counts_without_a_second_event() -> None:
    desk = Desk()
    first, second, third = desk.admitted(), desk.admitted(), desk.admitted()
    desk.balancer.limited(first, desk.now, PLAIN, "")
    desk.changes()
    desk.balancer.limited(second, desk.now + 1, LimitHint(Limit.RATE, 900, Hint.TEXT), "")
    assert desk.changes() == []
    desk.balancer.limited(third, desk.now + 1, exactly(90), "")
    assert desk.changes() == [CooldownExtended("a", 90, START + 91, START + 1)]
    desk.now += 90
    assert desk.admit() is None
    assert desk.view.count == 1


def test_a_success_of_a_request_older_than_the_cooldown_proves_nothing() -> None:
    desk = Desk()
    old = desk.admitted()
    desk.limited()
    desk.succeed(old)
    assert desk.view.status is Status.COOLING
    assert desk.view.count == 1


def test_an_error_outlasts_a_cooldown() -> None:
    desk = Desk()
    other = desk.admitted()
    desk.limited()
    desk.balancer.bad_key(other, desk.now, "The key was refused.")
    desk.changes()
    desk.now += 30
    assert desk.view.status is Status.ERROR
    assert desk.admit() is None
    assert desk.changes() == [
        CooldownEnded("a", desk.now),
        StatusChanged("a", Status.ERROR, "The key was refused.", desk.now),
    ]


def test_a_quota_rests_until_midnight_and_an_account_for_an_hour() -> None:
    desk = Desk()
    desk.limited(LimitHint(Limit.QUOTA))
    assert desk.view.until % DAY == 0
    assert desk.view.kind is Limit.QUOTA
    desk.now = desk.view.until
    desk.limited(LimitHint(Limit.ACCOUNT))
    assert (desk.view.kind, desk.view.until) == (Limit.ACCOUNT, desk.now + 3600)


def test_a_person_can_end_a_cooldown_and_it_is_still_tried_carefully() -> None:
    desk = Desk()
    old = desk.admitted()
    desk.limited(exactly(3600))
    desk.changes()
    desk.balancer.reset("a", desk.now)
    assert desk.changes() == [
        CooldownEnded("a", START),
        CountReset("a", START),
        StatusChanged("a", Status.HEALTHY, "", START),
    ]
    assert (desk.view.status, desk.view.count, desk.view.until) == (Status.HEALTHY, 0, None)
    desk.balancer.limited(old, desk.now, PLAIN, "")
    assert desk.view.status is Status.HEALTHY
    assert len(desk.volley()) == 1


def test_a_reset_of_what_is_well_or_unknown_changes_nothing() -> None:
    desk = Desk()
    desk.balancer.reset("a", desk.now)
    desk.balancer.reset("nobody", desk.now)
    assert desk.changes() == []
    assert len(desk.volley()) == 100


def test_tuning_of_the_back_off_counts_at_once() -> None:
    desk = Desk()
    desk.balancer.tuning = Tuning(cooldown_base_seconds=7, cooldown_max_seconds=10)
    desk.limited()
    assert desk.view.until == START + 7
    desk.now += 7
    desk.limited()
    assert desk.view.until == desk.now + 10
    desk.balancer.tuning = Tuning(
        cooldown_base_seconds=7, cooldown_max_seconds=99, cooldown_exponential_backoff=False
    )
    desk.now += 10
    desk.limited()
    assert desk.view.until == desk.now + 21


def test_the_log_tells_of_a_cooldown_from_its_beginning_to_its_end() -> None:
    desk = Desk()
    volley = [desk.admitted(), desk.admitted()]
    desk.balancer.limited(volley[0], desk.now, exactly(60), "slow down")
    desk.balancer.limited(volley[1], desk.now, exactly(90), "slow down")
    desk.now += 91
    desk.balancer.sweep(desk.now)
    with capture_logs() as lines:
        changes_log.tell(desk.balancer.take_changes())
    told = [line["event"] for line in lines]
    assert told == ["cooldown_started", "cooldown_extended", "cooldown_cleared"]
    assert {line["backend"] for line in lines} == {desk.backend.id}
    assert (lines[0]["seconds"], lines[0]["kind"], lines[0]["count"]) == (60, "rate", 1)


def test_the_log_tells_who_is_out_of_order_and_why() -> None:
    desk = Desk()
    desk.balancer.bad_key(desk.admitted(), desk.now, "The provider answered 401.")
    with capture_logs() as lines:
        changes_log.tell(desk.balancer.take_changes())
    (line,) = lines
    assert (line["event"], line["reason"]) == ("backend_out_of_order", "The provider answered 401.")


# -- restarts and changes of the configuration -------------------------------------------------------------


def restarted(state: State, now: float = START) -> Desk:
    desk = Desk()
    desk.now = now
    desk.balancer = Balancer(Tuning())
    desk.balancer.adopt([desk.backend], now, {"a": state})
    return desk


def test_a_restart_keeps_a_cooldown_and_its_count() -> None:
    state = State(Status.COOLING, "limited", START + 100, Limit.QUOTA, 3)
    desk = restarted(state)
    assert desk.admit() is None
    assert desk.changes() == []  # its event is open already
    view = desk.view
    assert (view.status, view.reason, view.kind) == (Status.COOLING, "limited", Limit.QUOTA)
    assert (view.until, view.count) == (START + 100, 3)
    desk.now += 100
    desk.limited()
    assert (desk.view.count, desk.view.until) == (4, desk.now + 240)


def test_a_cooldown_that_ended_while_the_router_was_away_is_closed_at_the_start() -> None:
    desk = restarted(State(Status.COOLING, "", START - 5, count=2))
    assert desk.changes() == [
        CooldownEnded("a", START - 5),
        StatusChanged("a", Status.HEALTHY, "", START),
    ]
    assert len(desk.volley()) == 1


def test_a_stored_cooldown_without_a_time_is_closed_at_the_start() -> None:
    desk = restarted(State(Status.COOLING))
    assert desk.changes()[0] == CooldownEnded("a", START)
    assert desk.admit()


def test_a_stored_cooldown_never_lasts_longer_than_a_day() -> None:
    assert restarted(State(Status.COOLING, "", START + 1e9)).view.until == START + DAY


def test_a_new_configuration_keeps_a_cooldown() -> None:
    desk = Desk()
    desk.limited()
    desk.balancer.adopt([replace(desk.backend, rpm_limit=5, name="new")], desk.now)
    assert desk.view.status is Status.COOLING
    assert desk.admit() is None


@pytest.mark.parametrize("values", [{"api_key": "new"}, {"api_base_url": "https://new.test"}])
def test_what_was_known_of_another_key_or_address_no_longer_counts(values: dict[str, str]) -> None:
    desk = Desk()
    old, older = desk.admitted(), desk.admitted()
    desk.limited(LimitHint(Limit.ACCOUNT))
    desk.balancer.adopt([replace(desk.backend, **values)], desk.now)
    assert (desk.view.status, desk.view.count) == (Status.HEALTHY, 0)
    desk.balancer.limited(old, desk.now, PLAIN, "")
    desk.balancer.bad_key(older, desk.now, "401")
    assert desk.view.status is Status.HEALTHY
    assert desk.view.in_flight == 0


def test_a_disabled_backend_goes_on_cooling() -> None:
    desk = Desk()
    desk.limited()
    desk.balancer.adopt([replace(desk.backend, enabled=False)], desk.now)
    assert (desk.view.status, desk.view.reason) == (Status.DISABLED, "")
    desk.balancer.adopt([desk.backend], desk.now + 29)
    desk.now += 29
    assert desk.view.status is Status.COOLING
