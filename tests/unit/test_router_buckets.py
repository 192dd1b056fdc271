"""How often one backend may be called."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from quarterdeck.router.limits.bucket import Bucket

START = 1_800_000_000.0


def taken(bucket: Bucket, now: float, most: int = 10_000) -> int:
    """How many calls go at this moment."""
    for number in range(most):
        if bucket.free_at(now) > now:
            return number
        bucket.take(now)
    return most


@pytest.mark.parametrize("rpm", [1, 7, 40, 1000])
def test_a_full_bucket_lets_exactly_its_limit_through_at_once(rpm: int) -> None:
    assert taken(Bucket(rpm), START) == rpm


@pytest.mark.parametrize("rpm", [1, 7, 40, 1000])
def test_the_first_minute_admits_the_limit_and_not_nearly_twice_as_many(rpm: int) -> None:
    bucket = Bucket(rpm)
    assert sum(taken(bucket, START + tick * 0.05) for tick in range(1200)) == rpm
    assert taken(bucket, START + 60) == rpm


def test_a_bucket_tells_when_the_next_call_may_go() -> None:
    bucket = Bucket(2)
    bucket.take(START)
    bucket.take(START + 10)
    assert bucket.free_at(START + 10) == pytest.approx(START + 60)
    assert taken(bucket, START + 59.9) == 0
    assert taken(bucket, START + 60) == 1
    assert bucket.free_at(START + 60) == pytest.approx(START + 70)


def test_what_was_not_used_is_given_back() -> None:
    bucket = Bucket(1)
    bucket.take(START)
    bucket.give_back(START)
    assert bucket.level(START).tokens == 1
    assert taken(bucket, START) == 1


def test_its_level_is_told_in_tokens_and_shares() -> None:
    bucket = Bucket(40)
    assert taken(bucket, START, 10) == 10
    level = bucket.level(START + 1)
    assert (level.tokens, level.capacity, level.rate_per_minute) == (30.67, 40, 40.0)
    assert (level.utilization, level.last_minute) == (0.2333, 10)
    assert bucket.level(START + 60).tokens == 40
    assert bucket.level(START + 60).last_minute == 0


def test_a_higher_limit_refills_first_and_then_adds_no_tokens() -> None:
    bucket = Bucket(40)
    taken(bucket, START, 30)
    bucket.change(80, START + 3)  # two more at the old rate
    assert bucket.level(START + 3).tokens == 12
    assert bucket.level(START + 6).tokens == 16  # at the new rate


def test_a_lower_limit_trims_the_tokens_and_counts_what_went_before() -> None:
    bucket = Bucket(40)
    taken(bucket, START, 15)
    bucket.change(10, START)
    assert bucket.level(START).tokens == 10
    assert taken(bucket, START + 1) == 0
    assert taken(bucket, START + 60) == 10


@given(st.integers(-5, 0))
def test_a_senseless_limit_lets_one_call_a_minute_through(rpm: int) -> None:
    assert taken(Bucket(rpm), START) == 1


class Calls(RuleBasedStateMachine):
    """A bucket beside the plain words of section 5: tokens that refill, and a log of the last minute."""

    @initialize(rpm=st.integers(1, 90))
    def begin(self, rpm: int) -> None:
        self.now = self.refilled_at = START
        self.rpm, self.tokens = rpm, float(rpm)
        self.bucket = Bucket(rpm)
        self.log: deque[float] = deque()
        self.admitted: list[float] = []

    def refill(self) -> None:
        self.tokens = min(self.tokens + (self.now - self.refilled_at) * self.rpm / 60, self.rpm)
        self.refilled_at = self.now
        while self.log and self.log[0] <= self.now - 60:
            self.log.popleft()

    @rule(seconds=st.one_of(st.floats(0, 3), st.floats(0, 70), st.sampled_from([60.0, 59.999, 1.5])))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(wanted=st.integers(1, 100))
    def calls_come(self, wanted: int) -> None:
        for _ in range(wanted):
            self.refill()
            is_free = self.bucket.free_at(self.now) <= self.now
            if abs(self.tokens - 1) > 0.02:  # closer than that is a matter of rounding
                assert is_free == (self.tokens >= 1 and len(self.log) < self.rpm)
            if is_free:
                self.bucket.take(self.now)
                self.tokens -= 1
                self.log.append(self.now)
                self.admitted.append(self.now)

    @rule()
    def wait_for_the_next(self) -> None:
        self.now = max(self.now, self.bucket.free_at(self.now))
        assert self.bucket.free_at(self.now) <= self.now
        assert self.bucket.free_at(self.now) <= self.now + 60

    @rule()
    def the_last_call_did_not_go(self) -> None:
        self.refill()
        if self.log and self.tokens <= self.rpm - 1:
            self.bucket.give_back(self.log[-1])
            self.tokens += 1
            self.log.pop()
            self.admitted = self.admitted[:-1]

    @rule(rpm=st.integers(1, 90))
    def the_limit_changes(self, rpm: int) -> None:
        self.refill()
        self.bucket.change(rpm, self.now)
        self.rpm, self.tokens = rpm, min(self.tokens, rpm)
        self.admitted = []  # which limit would count for a minute that had two?

    @invariant()
    def no_minute_admits_more_than_the_limit(self) -> None:
        for first, beyond in zip(self.admitted, self.admitted[self.rpm :], strict=False):
            assert beyond - first >= 60 - 1e-6

    @invariant()
    def its_level_is_right(self) -> None:
        self.refill()
        level = self.bucket.level(self.now)
        assert level.tokens == pytest.approx(max(self.tokens, 0), abs=0.03)
        assert level.last_minute == len(self.log)
        assert 0 <= level.utilization <= 1


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
