"""How a backend comes back after a cooldown: one trial, then a ramp; and all of it at once, at random."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quarterdeck.router.backend import Limit, Status
from quarterdeck.router.limits.balancer import Admission
from quarterdeck.router.limits.rules import Hint, LimitHint
from quarterdeck.router.limits.standing import CooldownEnded, CooldownExtended, CooldownStarted, ProbeResult
from tests.fakes.backends import PLAIN, Desk, probed


def test_after_a_cooldown_one_trial_goes_and_then_a_ramp() -> None:
    desk = Desk()
    desk.limited()
    desk.now += 30
    in_flight = []
    for allowed in (1, 2, 4, 8, 16):
        volley = [*in_flight, *desk.volley()]
        assert len(volley) == allowed
        assert all(admission.is_trial for admission in volley)
        assert (desk.view.step, desk.view.in_flight) == (allowed, allowed)
        desk.succeed(volley[0])
        in_flight = volley[1:]
    assert desk.view.step == 0
    assert not desk.admitted().is_trial


def test_a_429_in_the_ramp_escalates() -> None:
    desk = Desk()
    desk.limited()
    desk.now += 30
    desk.limited()
    assert (desk.view.count, desk.view.until) == (2, desk.now + 60)
    desk.now += 60
    assert len(desk.volley()) == 1


def test_a_failed_trial_begins_the_ramp_anew() -> None:
    desk = Desk()
    desk.limited()
    desk.now += 30
    desk.succeed(desk.admitted())
    first, second = desk.volley()
    desk.balancer.failed(first, desk.now, "broken")
    assert desk.admit() is None
    desk.balancer.released(second, desk.now)
    assert len(desk.volley()) == 1


def test_a_trial_that_fails_when_the_ramp_is_over_does_not_begin_it_anew() -> None:
    desk = Desk()
    desk.limited()
    desk.now += 30
    in_flight: list[Admission] = []
    for _ in range(5):
        first, *in_flight = [*in_flight, *desk.volley()]
        desk.succeed(first)
    desk.balancer.failed(in_flight[0], desk.now, "broken")
    assert desk.view.step == 0


@pytest.mark.parametrize("end", ["succeeded", "released", "failed"])
def test_a_long_answer_lets_the_next_trials_go_when_it_begins(end: str) -> None:
    desk = Desk()
    desk.limited()
    desk.now += 30
    answering = desk.admitted()
    desk.balancer.answered(answering, desk.now)
    assert (desk.view.count, desk.view.step, desk.view.in_flight) == (0, 2, 1)
    assert len(desk.volley()) == 2
    getattr(desk.balancer, end)(answering, desk.now, *["cut"] * (end == "failed"))
    assert (desk.view.step, desk.view.in_flight) == (2, 2)
    assert desk.admit() is None


def test_the_beginning_of_an_answer_means_nothing_where_nothing_is_tried() -> None:
    desk = Desk()
    plain = desk.admitted()
    before = desk.view
    desk.balancer.answered(plain, desk.now)
    assert desk.view == before
    desk.limited()
    desk.now += 30
    trial = desk.admitted()
    desk.balancer.limited(trial, desk.now, PLAIN, "")
    before = desk.view
    desk.balancer.answered(trial, desk.now)
    assert desk.view == before
    desk.balancer.adopt([], desk.now)
    desk.balancer.answered(trial, desk.now)


@pytest.mark.parametrize("end", ["released", "unused"])
def test_a_trial_that_proves_nothing_gives_its_place_back(end: str) -> None:
    desk = Desk()
    desk.limited()
    desk.now += 30
    (trial,) = desk.volley()
    getattr(desk.balancer, end)(trial, desk.now)
    assert desk.view.step == 1
    assert len(desk.volley()) == 1


def test_a_trial_with_a_refused_key_gives_its_place_back() -> None:
    desk = Desk()
    desk.limited()
    desk.now += 30
    desk.balancer.bad_key(desk.admitted(), desk.now, "401")
    probed(desk.balancer, "a", ProbeResult(200), desk.now)
    assert len(desk.volley()) == 1


def test_trials_with_another_key_do_not_keep_their_places() -> None:
    desk = Desk()
    desk.limited()
    desk.now += 30
    desk.succeed(desk.admitted())
    old = desk.volley()
    desk.balancer.adopt([replace(desk.backend, api_key="new")], desk.now)
    for admission in old:
        desk.balancer.answered(admission, desk.now)
        desk.succeed(admission)
    assert desk.view.step == 2
    assert len(desk.volley()) == 2


# -- all of it at once -------------------------------------------------------------------------------------


@dataclass(eq=False)
class Sent:
    """A request in flight: the generation of the backend and the time in which it began."""

    admission: Admission
    generation: int
    at: float


class Cooling(RuleBasedStateMachine):
    """One backend beside the words of sections 7 and 10: a count, a time, a ramp, failures, generations."""

    @initialize()
    def begin(self) -> None:
        self.desk = Desk()
        self.sent: list[Sent] = []
        self.count, self.until, self.step, self.generation = 0, 0.0, 0, 0
        self.failures, self.failed_at, self.has_error = 0, 0.0, False
        self.is_event_open = False

    # what happens

    @rule(seconds=st.one_of(st.floats(0, 5), st.floats(0, 200), st.just(30.0)))
    def time_passes(self, seconds: float) -> None:
        self.desk.now += seconds
        self.forget_what_is_over()

    @rule()
    def the_cooldown_runs_out(self) -> None:
        self.desk.now = max(self.desk.now, self.until)
        self.forget_what_is_over()

    @rule(wanted=st.integers(1, 20))
    def requests_come(self, wanted: int) -> None:
        for _ in range(wanted):
            trials = sum(sent.admission.is_trial for sent in self.sent if sent.generation == self.generation)
            is_well = not self.has_error and not self.until and self.failures < 3
            admission = self.desk.admit()
            assert (admission is not None) == (is_well and (not self.step or trials < self.step))
            if admission:
                assert admission.is_trial == (self.step > 0)
                self.sent.append(Sent(admission, self.generation, self.desk.now))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), seconds=st.one_of(st.none(), st.floats(0.1, 900)), is_order=st.booleans())
    def one_is_limited(self, data: st.DataObject, seconds: float | None, is_order: bool) -> None:
        sent = self.take(data)
        source = (Hint.RETRY_AFTER if is_order else Hint.TEXT) if seconds else Hint.NONE
        self.desk.balancer.limited(sent.admission, self.desk.now, LimitHint(Limit.RATE, seconds, source), "")
        ordered = seconds if is_order else None
        if sent.generation == self.generation:
            self.count += 1
            self.begin_generation()
            back_off = min(30 * 2.0 ** min(self.count - 1, 10), 600)
            self.until = self.desk.now + (ordered or max(back_off, seconds or 0))
        elif self.until and ordered:
            self.until = max(self.until, self.desk.now + ordered)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def one_succeeds(self, data: st.DataObject) -> None:
        sent = self.take(data)
        self.desk.succeed(sent.admission)
        self.failures = 0
        if sent.generation == self.generation:
            self.count = 0
            if sent.admission.is_trial and self.step:
                self.step = 0 if self.step == 16 else self.step * 2

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def one_begins_to_be_answered(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from(self.sent))
        was_trial = sent.admission.is_trial
        self.desk.balancer.answered(sent.admission, self.desk.now)
        if was_trial and sent.generation == self.generation:
            self.count, self.failures = 0, 0
            self.step = 0 if self.step in (0, 16) else self.step * 2

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def one_breaks(self, data: st.DataObject) -> None:
        sent = self.take(data)
        self.desk.balancer.failed(sent.admission, self.desk.now, "broken")
        if sent.at >= self.failed_at:
            self.failures += 1
            self.failed_at = self.desk.now
        if sent.generation == self.generation and sent.admission.is_trial and self.step:
            self.step = 1

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), end=st.sampled_from(["released", "unused"]))
    def one_proves_nothing(self, data: st.DataObject, end: str) -> None:
        getattr(self.desk.balancer, end)(self.take(data).admission, self.desk.now)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def one_has_a_bad_key(self, data: st.DataObject) -> None:
        self.desk.balancer.bad_key(self.take(data).admission, self.desk.now, "401")
        self.has_error = True

    @rule(status=st.sampled_from([200, 404, 429, 401, 500, 0]))
    def a_probe_comes_back(self, status: int) -> None:
        probed(self.desk.balancer, "a", ProbeResult(status), self.desk.now)
        if status == 200:
            self.failures = 0
            if self.has_error:
                self.has_error = False
                self.begin_generation()
        elif status == 401:
            self.has_error = True
        elif status in (500, 0):
            self.failures += 1
            self.failed_at = self.desk.now
        elif self.failures >= 3:
            self.failures = 2
            self.begin_generation()

    @rule()
    def a_person_resets_it(self) -> None:
        self.desk.balancer.reset("a", self.desk.now)
        if self.until or self.count or self.failures or self.has_error:
            self.begin_generation()
            self.count, self.until, self.failures, self.failed_at, self.has_error = 0, 0.0, 0, 0.0, False

    # how the model goes on

    def take(self, data: st.DataObject) -> Sent:
        sent = data.draw(st.sampled_from(self.sent))
        self.sent.remove(sent)
        return sent

    def begin_generation(self) -> None:
        self.generation += 1
        self.step = 1

    def forget_what_is_over(self) -> None:
        if self.desk.now >= self.until:
            self.until = 0.0

    # what always holds

    @invariant()
    def it_is_seen_as_it_is(self) -> None:
        view = self.desk.view
        expected = Status.ERROR if self.has_error else Status.COOLING if self.until else Status.HEALTHY
        assert view.status is expected
        assert view.until == (pytest.approx(self.until) if self.until else None)
        assert (view.count, view.step, view.failures) == (self.count, self.step, self.failures)
        assert view.in_flight == len(self.sent)

    @invariant()
    def at_most_one_cooldown_is_open_in_the_log(self) -> None:
        self.desk.balancer.sweep(self.desk.now)
        for change in self.desk.changes():
            match change:
                case CooldownStarted():
                    assert not self.is_event_open
                    self.is_event_open = True
                case CooldownExtended():
                    assert self.is_event_open
                case CooldownEnded():
                    assert self.is_event_open
                    self.is_event_open = False
        assert self.is_event_open == bool(self.until)


TestCooling = Cooling.TestCase
TestCooling.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
