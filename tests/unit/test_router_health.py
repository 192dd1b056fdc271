"""What probes and calls tell of a backend: whether it is well, degraded, down or out of order."""

import pytest

from quarterdeck.router.backend import Health, Pool, Status
from quarterdeck.router.config import Tuning
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.limits.rules import LimitHint
from quarterdeck.router.limits.standing import HealthChanged, ProbeResult, State, StatusChanged
from tests.fakes.backends import MODEL, START, admitted, backend, balancer, break_it, probed, take


def test_degraded_backends_go_last_in_their_pool_but_before_the_next_pool() -> None:
    desk = balancer(backend("weak"), backend("well", rpm_limit=2), backend("spare", pool=Pool.FALLBACK))
    break_it(desk, "weak", 1)
    assert [admitted(desk) for _ in range(3)] == ["well", "well", "weak"]


@pytest.mark.parametrize("status", [500, 503, 0])
def test_a_backend_is_down_after_three_failed_probes_and_back_after_a_good_one(status: int) -> None:
    desk = balancer(backend("a"))
    seen = []
    for _ in range(3):
        probed(desk, "a", ProbeResult(status, reason="no answer"), START)
        seen.append(desk.view("a", START).health)
    assert seen == [Health.DEGRADED, Health.DEGRADED, Health.DOWN]
    assert admitted(desk) == ""
    assert desk.wait_hint(MODEL, (), START) is None
    assert desk.view("a", START).reason == "no answer"
    probed(desk, "a", ProbeResult(200, 12), START + 60)
    view = desk.view("a", START + 60)
    assert (view.health, view.failures, view.reason) == (Health.HEALTHY, 0, "")
    assert (view.latency_ms, view.status_code, view.checked_at) == (12, 200, START + 60)
    assert view.next_probe == START + 120
    assert admitted(desk, now=START + 60) == "a"


def test_failed_calls_count_toward_health_and_a_success_ends_the_row() -> None:
    desk = balancer(backend("a"))
    for number in range(2):
        desk.failed(take(desk, START + number), START + number, "timed out")
    assert desk.view("a", START + 2).health is Health.DEGRADED
    assert admitted(desk, now=START + 2) == "a"
    assert desk.view("a", START + 2).health is Health.HEALTHY
    for number in range(3, 6):
        desk.failed(take(desk, START + number), START + number, "timed out")
    assert desk.view("a", START + 6).health is Health.DOWN
    assert admitted(desk, now=START + 6) == ""


def test_calls_that_break_together_are_one_failure() -> None:
    desk = balancer(backend("a"))
    volley = [take(desk) for _ in range(20)]
    for number, admission in enumerate(volley):
        desk.failed(admission, START + 1 + number / 10, "reset")
    assert desk.view("a", START + 3).failures == 1


def test_a_refused_key_is_an_error_until_a_probe_succeeds() -> None:
    desk = balancer(backend("a"))
    first, second = take(desk), take(desk)
    desk.bad_key(first, START, "The key was refused (401).")
    desk.bad_key(second, START, "again")
    assert desk.take_changes() == [StatusChanged("a", Status.ERROR, "The key was refused (401).", START)]
    assert desk.view("a", START).reason == "The key was refused (401)."
    assert admitted(desk) == ""
    assert desk.back_in(MODEL, START) is None
    for status in (500, 404, 429, 403):
        probed(desk, "a", ProbeResult(status), START + 1)
        assert desk.view("a", START + 1).status is Status.ERROR
    probed(desk, "a", ProbeResult(200), START + 2)
    assert desk.view("a", START + 2).status is Status.HEALTHY
    assert desk.admit(MODEL, (), START + 2)
    assert desk.admit(MODEL, (), START + 2) is None  # one trial first: not every probe asks for the key


@pytest.mark.parametrize("status", [401, 403])
def test_a_probe_with_a_refused_key_is_an_error(status: int) -> None:
    desk = balancer(backend("a"))
    probed(desk, "a", ProbeResult(status), START)
    view = desk.view("a", START)
    assert (view.status, view.status_code) == (Status.ERROR, status)
    assert admitted(desk) == ""


@pytest.mark.parametrize("status", [404, 405, 429])
def test_a_probe_that_says_nothing_changes_neither_good_nor_bad(status: int) -> None:
    desk = balancer(backend("a"))
    probed(desk, "a", ProbeResult(status), START)
    assert desk.view("a", START).health is Health.HEALTHY
    break_it(desk, "a", 1)
    probed(desk, "a", ProbeResult(status), START)
    view = desk.view("a", START)
    assert (view.health, view.failures, view.status_code) == (Health.DEGRADED, 1, status)


def test_a_backend_without_a_place_to_probe_comes_back_by_trials() -> None:
    desk = balancer(backend("a"))
    break_it(desk, "a", 5)
    probed(desk, "a", ProbeResult(404), START)
    trial = take(desk)
    assert trial.is_trial
    assert desk.admit(MODEL, (), START) is None
    desk.failed(trial, START, "still broken")
    assert desk.view("a", START).health is Health.DOWN
    probed(desk, "a", ProbeResult(404), START + 60)
    desk.succeeded(take(desk, START + 60), START + 60)
    assert desk.view("a", START + 60).health is Health.HEALTHY


def test_a_probe_cannot_open_a_key_that_does_not_open() -> None:
    desk = balancer(backend("a", fault="locked"))
    probed(desk, "a", ProbeResult(200), START)
    desk.reset("a", START)
    assert desk.view("a", START).status is Status.ERROR
    assert admitted(desk) == ""
    desk.adopt([backend("a")], START)
    assert admitted(desk) == "a"


@pytest.mark.parametrize("changed", [{"api_key": "new"}, {"api_base_url": "https://moved.test"}])
def test_a_probe_with_the_key_or_at_the_address_of_before_proves_nothing(changed: dict[str, str]) -> None:
    before = backend("a")
    desk = balancer(before)
    desk.adopt([backend("a", **changed)], START)
    desk.probed(before, ProbeResult(401), START)
    view = desk.view("a", START)
    assert (view.status, view.status_code, desk.take_changes()) == (Status.HEALTHY, 0, [])
    probed(desk, "a", ProbeResult(401), START)
    assert desk.view("a", START).status is Status.ERROR


def test_every_probe_is_told_with_its_own_code() -> None:
    desk = balancer(backend("a"))
    probed(desk, "a", ProbeResult(200, 40), START)
    probed(desk, "a", ProbeResult(0, 10_000, "timed out"), START + 60)
    desk.probed(backend("gone"), ProbeResult(200), START)
    assert desk.take_changes() == [
        HealthChanged("a", Health.HEALTHY, 0, 40, 200, 1.0, START),
        HealthChanged("a", Health.DEGRADED, 1, 10_000, 0, 1.0, START + 60),
    ]
    assert desk.take_changes() == []


def test_the_first_failure_of_a_row_is_remembered_until_the_row_ends() -> None:
    desk = balancer(backend("a"))
    assert desk.view("a", START).unwell_since is None
    for number in range(3):
        probed(desk, "a", ProbeResult(503), START + 60 * number)
    assert desk.view("a", START + 120).unwell_since == START
    probed(desk, "a", ProbeResult(200), START + 180)
    assert desk.view("a", START + 180).unwell_since is None
    desk.failed(take(desk, START + 200), START + 200, "broken")
    assert desk.view("a", START + 200).unwell_since == START + 200


def test_a_rate_of_no_calls_can_be_told_from_one_of_good_calls() -> None:
    desk = balancer(backend("a"))
    assert desk.view("a", START).calls_5m == 0
    desk.succeeded(take(desk), START)
    assert (desk.view("a", START).calls_5m, desk.view("a", START + 310).calls_5m) == (1, 0)


def test_the_success_rate_is_that_of_calls_in_the_last_five_minutes() -> None:
    desk = balancer(backend("a", rpm_limit=1000))
    assert desk.view("a", START).success_rate_5m == 1
    for _ in range(3):
        desk.succeeded(take(desk), START)
    desk.failed(take(desk), START, "broken")
    desk.released(take(desk), START)
    probed(desk, "a", ProbeResult(500), START)
    assert desk.view("a", START + 280).success_rate_5m == 0.75
    desk.succeeded(take(desk, START + 280), START + 280)
    assert desk.view("a", START + 280).success_rate_5m == 0.8
    assert desk.view("a", START + 310).success_rate_5m == 1
    desk.limited(take(desk, START + 310), START + 310, LimitHint(), "")
    assert desk.view("a", START + 310).success_rate_5m == 0.5


def test_a_restart_keeps_what_was_known_of_health() -> None:
    desk = Balancer(Tuning())
    states = {
        "down": State(health=Health.DOWN, failures=3),
        "bad": State(Status.ERROR, "The key was refused."),
    }
    desk.adopt([backend("down"), backend("bad")], START, states)
    assert admitted(desk) == ""
    assert desk.view("down", START).health is Health.DOWN
    assert desk.view("bad", START).reason == "The key was refused."
    assert desk.take_changes() == []
