"""Which backend takes the next call, and what is told of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quarterdeck.router.backend import Backend, Health, Limit, Pool, Status
from quarterdeck.router.config import Tuning
from quarterdeck.router.limits.balancer import Admission, Balancer, PoolCount
from quarterdeck.router.limits.rules import Hint, LimitHint
from quarterdeck.router.limits.standing import ProbeResult
from tests.fakes.backends import MODEL, START, admitted, backend, balancer, break_it, probed, take

# -- the choice --------------------------------------------------------------------------------------------


def test_equals_take_turns() -> None:
    desk = balancer(*map(backend, "abc"))
    assert [admitted(desk) for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]
    # even when calls are so rare that all buckets are full again
    assert [admitted(desk, now=START + 1000 * n) for n in range(1, 7)] == ["a", "b", "c", "a", "b", "c"]


def test_the_least_used_share_goes_first() -> None:
    desk = balancer(backend("small", rpm_limit=10), backend("large", rpm_limit=40))
    counts = Counter(admitted(desk) for _ in range(50))
    assert counts == {"small": 10, "large": 40}
    desk = balancer(backend("small", rpm_limit=10), backend("large", rpm_limit=40))
    assert Counter(admitted(desk) for _ in range(25)) == {"small": 5, "large": 20}


def test_use_for_one_model_counts_for_all() -> None:
    desk = balancer(backend("a", "one", "two"), backend("b", "one", "two"))
    assert [admitted(desk, "two") for _ in range(2)] == ["a", "b"]
    for _ in range(3):
        assert admitted(desk, "one", ("b",)) == "a"
    assert [admitted(desk, "two") for _ in range(4)] == ["b", "b", "b", "a"]


def test_the_fallback_pool_is_used_when_the_primary_one_has_nothing() -> None:
    desk = balancer(backend("spare", pool=Pool.FALLBACK), backend("first", rpm_limit=2))
    assert [admitted(desk) for _ in range(4)] == ["first", "first", "spare", "spare"]
    assert admitted(desk, now=START + 60) == "first"


def test_nobody_is_tried_twice() -> None:
    desk = balancer(*map(backend, "ab"), backend("c", pool=Pool.FALLBACK))
    tried: list[str] = []
    while name := admitted(desk, tried=tried):
        tried.append(name)
    assert tried == ["a", "b", "c"]
    assert admitted(desk) in "ab"  # those who were passed over are still there


def test_only_enabled_backends_that_map_the_model_are_asked() -> None:
    desk = balancer(
        backend("other", "small"),
        backend("off", enabled=False),
        backend("locked", fault="no key"),
        backend("a"),
    )
    assert {admitted(desk) for _ in range(5)} == {"a"}
    assert admitted(desk, "nonsense") == ""
    assert desk.models() == [MODEL, "small"]
    assert (desk.knows(MODEL), desk.knows("nonsense")) == (True, False)


def test_a_model_that_only_a_disabled_backend_maps_is_unknown() -> None:
    desk = balancer(backend("off", enabled=False))
    assert not desk.knows(MODEL)
    assert desk.models() == []


def test_a_model_whose_backends_are_all_unwell_is_still_known() -> None:
    desk = balancer(backend("locked", fault="its key does not open"))
    assert desk.knows(MODEL)
    assert admitted(desk) == ""
    view = desk.view("locked", START)
    assert (view.status, view.reason) == (Status.ERROR, "its key does not open")


def test_an_admission_names_what_the_backend_calls_the_model() -> None:
    admission = take(balancer(backend("a")))
    assert admission.mapping.native_id == f"a/{MODEL}"
    assert (admission.at, admission.is_trial, admission.is_emergency) == (START, False, False)


def test_a_rolling_minute_of_one_does_not_hide_the_others() -> None:
    desk = balancer(backend("a", rpm_limit=3), backend("b", rpm_limit=1000))
    for _ in range(3):
        assert admitted(desk, tried=("b",)) == "a"
    assert {admitted(desk, now=START + 59) for _ in range(20)} == {"b"}
    assert admitted(desk, now=START + 60) == "a"


def test_many_equals_share_the_load_evenly() -> None:
    desk = balancer(*(backend(f"b{n}") for n in range(300)))
    counts = Counter(admitted(desk, now=START + n / 100) for n in range(3000))
    assert set(counts.values()) == {10}


# -- the emergency channel ---------------------------------------------------------------------------------


def emergency(desk: Balancer, model: str = MODEL, tried: Sequence[str] = (), now: float = START) -> str:
    admission = desk.admit_emergency(model, tried, now)
    if admission is None:
        return ""
    assert admission.is_emergency
    desk.succeeded(admission, now)
    return admission.backend.id


def test_an_exhausted_pool_says_no_and_the_emergency_channel_has_its_own_allowance() -> None:
    desk = balancer(backend("a", rpm_limit=20))
    assert [admitted(desk) for _ in range(21)] == ["a"] * 20 + [""]
    before = desk.view("a", START).level
    assert [emergency(desk) for _ in range(3)] == ["a", "a", ""]
    assert desk.view("a", START).level == before
    assert emergency(desk, now=START + 60) == "a"


def test_an_emergency_takes_nothing_from_the_normal_bucket() -> None:
    desk = balancer(backend("a", rpm_limit=20))
    while emergency(desk):
        pass
    assert desk.view("a", START).level.tokens == 20
    assert [admitted(desk) for _ in range(21)] == ["a"] * 20 + [""]


def test_emergencies_go_only_to_backends_that_map_the_model_and_are_well() -> None:
    desk = balancer(
        backend("other", "small"),
        backend("off", enabled=False),
        backend("locked", fault="no key"),
        backend("cooling"),
        backend("down"),
        backend("bad"),
        backend("weak"),
        backend("spare", pool=Pool.FALLBACK),
        backend("well", rpm_limit=10),
    )
    others = {"cooling", "down", "bad", "weak", "well", "spare"}
    limited = desk.admit(MODEL, others - {"cooling"}, START)
    assert limited
    desk.limited(limited, START, LimitHint(), "")
    break_it(desk, "down", 3)
    break_it(desk, "weak", 1)
    probed(desk, "bad", ProbeResult(401), START)
    assert [emergency(desk) for _ in range(10)] == ["well", *["weak"] * 4, *["spare"] * 4, ""]
    assert emergency(desk, "nonsense") == ""
    assert emergency(desk, tried=others, now=START + 60) == ""


def test_the_emergency_fraction_counts_at_once_and_zero_closes_the_channel() -> None:
    desk = balancer(backend("a", rpm_limit=20))
    desk.tuning = Tuning(emergency_rpm_fraction=0)
    assert emergency(desk) == ""
    desk.tuning = Tuning(emergency_rpm_fraction=0.5)
    assert [emergency(desk) for _ in range(11)] == ["a"] * 10 + [""]


def test_a_429_in_an_emergency_cools_too() -> None:
    desk = balancer(backend("a"))
    admission = desk.admit_emergency(MODEL, (), START)
    assert admission
    desk.limited(admission, START, LimitHint(), "")
    assert desk.view("a", START).status is Status.COOLING


def test_an_emergency_does_not_crowd_a_trial() -> None:
    desk = balancer(backend("a"))
    desk.limited(take(desk), START, LimitHint(), "")
    trial = take(desk, START + 30)
    assert emergency(desk, now=START + 30) == ""
    desk.succeeded(trial, START + 30)
    assert emergency(desk, now=START + 30) == "a"


def test_an_unused_emergency_admission_goes_back() -> None:
    desk = balancer(backend("a", rpm_limit=10))
    admission = desk.admit_emergency(MODEL, (), START)
    assert admission
    assert emergency(desk) == ""
    desk.unused(admission, START)
    assert emergency(desk) == "a"


# -- waiting -----------------------------------------------------------------------------------------------


def test_waiting_is_for_the_next_token() -> None:
    desk = balancer(backend("a", rpm_limit=1), backend("b", rpm_limit=1))
    assert desk.wait_hint(MODEL, (), START) == 0
    admitted(desk)
    admitted(desk, now=START + 10)
    assert desk.wait_hint(MODEL, (), START + 20) == pytest.approx(40)
    assert desk.wait_hint(MODEL, ("a",), START + 20) == pytest.approx(50)
    assert desk.wait_hint(MODEL, ("a", "b"), START + 20) is None
    assert desk.wait_hint("nonsense", (), START) is None


def test_waiting_for_a_cooldown_is_of_use_only_near_its_end() -> None:
    desk = balancer(backend("a"))
    desk.limited(take(desk), START, LimitHint(), "")
    assert desk.wait_hint(MODEL, (), START + 19.9) is None
    assert desk.wait_hint(MODEL, (), START + 20) == pytest.approx(10)
    assert desk.back_in(MODEL, START) == pytest.approx(30)
    desk.tuning = Tuning(cooldown_precheck_threshold_seconds=25)
    assert desk.wait_hint(MODEL, (), START + 5) == pytest.approx(25)


def test_waiting_for_a_trial_to_end_is_of_use() -> None:
    desk = balancer(backend("a"))
    desk.limited(take(desk), START, LimitHint(), "")
    take(desk, START + 30)
    assert desk.wait_hint(MODEL, (), START + 30) == pytest.approx(0.05)


def test_nobody_can_say_when_an_error_ends() -> None:
    desk = balancer(backend("a", fault="locked"), backend("off", enabled=False))
    assert desk.wait_hint(MODEL, (), START) is None
    assert desk.back_in(MODEL, START) is None


def test_an_unused_token_goes_back_at_once() -> None:
    desk = balancer(backend("a", rpm_limit=1))
    admission = take(desk)
    assert admitted(desk) == ""
    desk.unused(admission, START + 1)
    assert desk.view("a", START + 1).in_flight == 0
    assert admitted(desk, now=START + 1) == "a"


# -- changes of the configuration --------------------------------------------------------------------------


def test_a_new_configuration_keeps_buckets_and_a_deleted_backend_loses_its_own() -> None:
    desk = balancer(backend("a", rpm_limit=2), backend("b", rpm_limit=2))
    assert [admitted(desk) for _ in range(5)] == ["a", "b", "a", "b", ""]
    desk.adopt([backend("a", rpm_limit=2)], START)
    assert admitted(desk) == ""
    assert [found.id for found in desk.backends()] == ["a"]
    desk.adopt([backend("a", rpm_limit=2), backend("b", rpm_limit=2)], START)
    assert [admitted(desk) for _ in range(3)] == ["b", "b", ""]


def test_a_change_of_the_limit_counts_at_once() -> None:
    desk = balancer(backend("a", rpm_limit=40))
    assert admitted(desk) == "a"
    desk.adopt([backend("a", rpm_limit=2)], START)
    assert desk.view("a", START).level.capacity == 2
    assert [admitted(desk) for _ in range(2)] == ["a", ""]


def test_models_pools_and_names_change_with_the_configuration() -> None:
    desk = balancer(backend("a"), backend("b"))
    desk.adopt([replace(backend("a"), pool=Pool.FALLBACK), backend("b", MODEL, "new", rpm_limit=1)], START)
    assert [admitted(desk) for _ in range(2)] == ["b", "a"]
    assert desk.models() == [MODEL, "new"]


def test_calls_of_a_backend_that_is_gone_or_came_anew_change_nothing() -> None:
    desk = balancer(backend("a"))
    flying = [take(desk) for _ in range(6)]
    desk.adopt([], START)
    desk.limited(flying[0], START, LimitHint(), "")
    desk.adopt([backend("a")], START)
    desk.limited(flying[1], START, LimitHint(), "")
    desk.failed(flying[2], START, "")
    desk.bad_key(flying[3], START, "401")
    desk.succeeded(flying[4], START)
    desk.unused(flying[5], START)
    view = desk.view("a", START)
    assert (view.status, view.health, view.in_flight) == (Status.HEALTHY, Health.HEALTHY, 0)
    assert view.level.tokens == 40
    assert desk.take_changes() == []


# -- what people see ---------------------------------------------------------------------------------------


def test_pools_count_as_healthy_only_what_is_enabled_and_healthy() -> None:
    desk = balancer(
        backend("well"),
        backend("off", enabled=False),
        backend("locked", fault="no key"),
        backend("cooling", "other"),
        backend("bad"),
    )
    admission = desk.admit("other", (), START)
    assert admission
    desk.limited(admission, START, LimitHint(Limit.RATE, 9, Hint.RETRY_AFTER), "")
    probed(desk, "bad", ProbeResult(401), START)
    assert desk.pools(START) == {
        Pool.PRIMARY: PoolCount(total=5, enabled=4, healthy=1, cooling=1, error=2),
        Pool.FALLBACK: PoolCount(),
    }
    assert desk.pools(START + 9)[Pool.PRIMARY].cooling == 0


def test_in_flight_counts_what_has_not_ended() -> None:
    desk = balancer(backend("a"))
    flying = [take(desk) for _ in range(4)]
    assert desk.view("a", START).in_flight == 4
    desk.succeeded(flying[0], START)
    desk.failed(flying[1], START, "")
    desk.released(flying[2], START)
    desk.bad_key(flying[3], START, "401")
    assert desk.view("a", START).in_flight == 0


def test_a_view_of_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(KeyError):
        balancer().view("a", START)


# -- all choices against a plain search --------------------------------------------------------------------


class Choices(RuleBasedStateMachine):
    """Lanes beside a search through all backends: the same pool, the same health, as little used."""

    MODELS = ("one", "two")

    @initialize(data=st.data(), count=st.integers(1, 7))
    def begin(self, data: st.DataObject, count: int) -> None:
        self.now = START
        self.desk = Balancer(Tuning())
        self.names = [f"b{number}" for number in range(count)]
        self.configure(data)

    @rule(data=st.data())
    def configure(self, data: st.DataObject) -> None:
        self.backends = [
            backend(
                name,
                *data.draw(st.sampled_from([("one",), ("two",), ("one", "two")])),
                pool=data.draw(st.sampled_from(Pool)),
                rpm_limit=data.draw(st.sampled_from([1, 2, 5, 40])),
                enabled=data.draw(st.booleans()) or data.draw(st.booleans()),
            )
            for name in data.draw(st.lists(st.sampled_from(self.names), unique=True, min_size=1))
        ]
        self.desk.adopt(self.backends, self.now)

    @rule(seconds=st.one_of(st.floats(0, 2), st.floats(0, 100)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data(), status=st.sampled_from([200, 200, 401, 500, 500]))
    def a_probe_comes_back(self, data: st.DataObject, status: int) -> None:
        probed(self.desk, data.draw(st.sampled_from(self.names)), ProbeResult(status), self.now)

    def key(self, found: Backend) -> tuple[bool, bool, float]:
        view = self.desk.view(found.id, self.now)
        return found.pool is Pool.FALLBACK, view.health is Health.DEGRADED, view.level.utilization

    def usable(self, model: str, tried: set[str], least: float) -> dict[str, tuple[bool, bool, float]]:
        """How good each is that can be used now; so much counts as a token: levels are rounded."""
        mapped = [one for one in self.backends if one.enabled and model in one.mappings]
        return {one.id: self.key(one) for one in mapped if one.id not in tried and self.can(one, least)}

    def can(self, one: Backend, least: float) -> bool:
        view = self.desk.view(one.id, self.now)
        is_well = view.status is Status.HEALTHY and view.health is not Health.DOWN
        has_room = view.level.tokens >= least and view.level.last_minute < one.rpm_limit
        return is_well and has_room and (not view.step or view.in_flight < view.step)

    @rule(data=st.data(), model=st.sampled_from(MODELS), end=st.integers(0, 9), wanted=st.integers(1, 6))
    def calls_come(self, data: st.DataObject, model: str, end: int, wanted: int) -> None:
        for _ in range(wanted):
            tried = data.draw(st.sets(st.sampled_from(self.names), max_size=2))
            surely, maybe = self.usable(model, tried, 1.02), self.usable(model, tried, 0.98)
            admission = self.desk.admit(model, tried, self.now)
            if admission is None:
                assert surely == {}
                return
            pool, health, use = maybe[admission.backend.id]
            assert all((pool, health, use - 0.001) <= other for other in surely.values())
            self.finish(admission, end)

    def finish(self, admission: Admission, end: int) -> None:
        match end:
            case 0:
                self.desk.limited(admission, self.now, LimitHint(), "")
            case 1:
                self.desk.failed(admission, self.now, "broken")
            case 2:
                self.desk.unused(admission, self.now)
            case _:
                self.desk.succeeded(admission, self.now)

    @invariant()
    def nothing_is_left_in_flight(self) -> None:
        assert all(self.desk.view(one.id, self.now).in_flight == 0 for one in self.backends)

    @precondition(lambda self: self.backends)
    @invariant()
    def waiting_helps_where_something_can_be_used(self) -> None:
        for model in self.MODELS:
            if self.usable(model, set(), 1.02):
                assert self.desk.wait_hint(model, (), self.now) == pytest.approx(0, abs=0.001)


TestChoices = Choices.TestCase
TestChoices.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
