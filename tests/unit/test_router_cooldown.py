"""What a 429 does to a backend, and how it comes back."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from quarterdeck.router.backend import Limit, Status
from quarterdeck.router.config import Tuning
from quarterdeck.router.limits.balancer import Admission, Balancer
from quarterdeck.router.limits.rules import DAY, Hint, LimitHint
from quarterdeck.router.limits.standing import (
    CooldownEnded,
    CooldownExtended,
    CooldownStarted,
    CountReset,
    ProbeResult,
    State,
    StatusChanged,
)
from quarterdeck.router.upkeep import changes_log
from tests.fakes.backends import MODEL, START, backend, probed

PLAIN = LimitHint()


def exactly(seconds: float) -> LimitHint:
    return LimitHint(Limit.RATE, seconds, Hint.RETRY_AFTER)


class Desk:
    """A balancer with one backend, and a clock to turn."""

    def __init__(self, tuning: Tuning | None = None, **values: object) -> None:
        self.now = START
        self.balancer = Balancer(tuning or Tuning())
        self.backend = backend("a", rpm_limit=1000, **values)
        self.balancer.adopt([self.backend], self.now)

    def admit(self) -> Admission | None:
        return self.balancer.admit(MODEL, (), self.now)

    def admitted(self) -> Admission:
        admission = self.admit()
        assert admission
        return admission

    def volley(self) -> list[Admission]:
        """All that can be in flight at once (at most a hundred)."""
        return [admission for _ in range(100) if (admission := self.admit())]

    def limited(self, hint: LimitHint = PLAIN, summary: str = "limited") -> None:
        self.balancer.limited(self.admitted(), self.now, hint, summary)

    def succeed(self, admission: Admission) -> None:
        self.balancer.succeeded(admission, self.now)

    def changes(self) -> list[object]:
        return list(self.balancer.take_changes())

    @property
    def view(self):
        return self.balancer.view("a", self.now)


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
    answering = desk.balancer.answered(desk.admitted(), desk.now)
    assert (desk.view.count, desk.view.step, desk.view.in_flight) == (0, 2, 1)
    assert len(desk.volley()) == 2
    getattr(desk.balancer, end)(answering, desk.now, *["cut"] * (end == "failed"))
    assert (desk.view.step, desk.view.in_flight) == (2, 2)
    assert desk.admit() is None


def test_the_beginning_of_an_answer_means_nothing_where_nothing_is_tried() -> None:
    desk = Desk()
    plain = desk.admitted()
    assert desk.balancer.answered(plain, desk.now) is plain
    desk.limited()
    desk.now += 30
    trial = desk.admitted()
    desk.balancer.limited(trial, desk.now, PLAIN, "")
    assert desk.balancer.answered(trial, desk.now) is trial
    desk.balancer.adopt([], desk.now)
    assert desk.balancer.answered(trial, desk.now) is trial


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


def test_a_disabled_backend_goes_on_cooling() -> None:
    desk = Desk()
    desk.limited()
    desk.balancer.adopt([replace(desk.backend, enabled=False)], desk.now)
    assert (desk.view.status, desk.view.reason) == (Status.DISABLED, "")
    desk.balancer.adopt([desk.backend], desk.now + 29)
    desk.now += 29
    assert desk.view.status is Status.COOLING


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
        sent.admission = self.desk.balancer.answered(sent.admission, self.desk.now)
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
