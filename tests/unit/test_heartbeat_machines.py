"""Whatever happens in whatever order: the ladder of recovery, the breaker and the lease keep their word."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deployments.simulation.memory import MemoryDatabase, MemoryRecords
from quarterdeck.crew.service import Crew
from quarterdeck.heartbeat.model import Pulse, Result, Sweep
from quarterdeck.heartbeat.roster import Limits, read_all
from quarterdeck.heartbeat.rules import fingerprint, repeats
from quarterdeck.heartbeat.service import LEASE, Sweeper
from quarterdeck.heartbeat.stall import LAST, Episode, Rung, Standing, climbed, rung, standing
from quarterdeck.heartbeat.sweeping import SweepUnderWay
from quarterdeck.kernel.errors import Conflict, Stale
from tests.fakes.clock import ManualClock

QUICK = settings(max_examples=40, stateful_step_count=30, deadline=None)
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
LIMITS = Limits(
    max_rounds=100,
    stagnation=timedelta(minutes=30),
    recovery=timedelta(minutes=45),
    dependency_wait=timedelta(hours=2),
)


class Ladder(RuleBasedStateMachine):
    """A piece of work that moves when it likes, and is looked at now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.sign = BEGIN
        self.episode = Episode()
        self.steps: list[Rung] = []
        self.retried: set[datetime] = set()

    @rule(minutes=st.integers(1, 60))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @precondition(lambda self: self.now > self.sign)
    @rule()
    def it_moves(self) -> None:
        self.sign = self.now

    @rule()
    def it_is_looked_at(self) -> None:
        state = standing(self.sign, self.now, LIMITS)
        step = rung(self.episode, state, self.sign)
        if step in (Rung.RETRY, Rung.ACT, Rung.GIVE_UP):
            assert self.now - self.sign > LIMITS.recovery  # what moves is never touched
            assert state is Standing.CONFIRMED
        if step in (Rung.RETRY, Rung.GIVE_UP):
            assert self.sign not in self.retried  # one standstill is one timeout
            self.retried.add(self.sign)
        if step is Rung.ACT:
            assert self.steps[-1] is Rung.RETRY  # people are told only when the retry brought nothing
        if step is Rung.RESUMED:
            assert self.steps[-1] is Rung.RETRY
        self.episode = climbed(self.episode, step, self.sign)
        if step is not Rung.NOTHING:
            self.steps.append(step)

    @invariant()
    def every_timeout_is_counted_once_and_from_the_third_nothing_is_retried(self) -> None:
        assert self.episode.timeouts == len(self.retried)
        assert self.steps.count(Rung.RETRY) <= LAST - 1
        if Rung.GIVE_UP in self.steps:
            assert Rung.RETRY not in self.steps[self.steps.index(Rung.GIVE_UP) :]


class Breaker(RuleBasedStateMachine):
    """Runs that end in some way; whatever is only numbers and spaces does not make another way."""

    def __init__(self) -> None:
        super().__init__()
        self.print, self.count = "", 0
        self.ends: list[tuple[str, str]] = []

    @rule(
        reason=st.sampled_from(("found", "recovery")),
        end=st.sampled_from(("broke", "no file", "done")),
        number=st.integers(0, 999),
        space=st.sampled_from((" ", "\n", "   ")),
    )
    def a_run_ends(self, reason: str, end: str, number: int, space: str) -> None:
        now = fingerprint("developer", "board:1", reason, False, f"{end}{space}at {number}")
        self.count, self.print = repeats(self.print, self.count, now), now
        self.ends.append((reason, end))

    @invariant()
    def the_same_end_in_a_row_is_what_is_counted(self) -> None:
        row = 0
        for one in reversed(self.ends):
            if one != self.ends[-1]:
                break
            row += 1
        assert self.count == row


class Lease(RuleBasedStateMachine):
    """Sweeps of one agent by many processes, some of which stand still for long or die."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.database = MemoryDatabase(self.clock)
        crew = Crew(self.database, {}, Path())
        self.sweeper = Sweeper(self.database, crew, records=MemoryRecords())
        self.beats = read_all({"developer": {"category": "development"}})
        self.alive: list[tuple[datetime, SweepUnderWay]] = []
        self.holder: tuple[datetime, SweepUnderWay] | None = None
        self.skipped = 0

    def teardown(self) -> None:
        self.runner.close()

    @rule(minutes=st.integers(1, 6))
    def time_passes(self, minutes: int) -> None:
        self.clock.go(minutes * 60)

    @rule()
    def a_tick_comes(self) -> None:
        is_held = self.holder is not None and self.clock.now() < self.holder[0] + LEASE
        try:
            begun = self.runner.run(self.sweeper.begin("developer", "schedule", self.beats))
        except Conflict as refusal:
            assert is_held
            self.skipped += 1
            assert refusal.code == "sweep_goes_on"
        else:
            assert not is_held
            self.holder = (self.clock.now(), begun)
            self.alive.append(self.holder)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def a_sweep_comes_to_its_end(self, data: st.DataObject) -> None:
        one = self.alive.pop(data.draw(st.integers(0, len(self.alive) - 1)))
        try:
            self.runner.run(one[1].finish())
        except Stale:
            assert one is not self.holder  # it was taken over: what it found out is not written
        else:
            assert one is self.holder
            self.holder = None

    @invariant()
    def skipped_ticks_are_counted_and_one_sweep_at_most_goes_on(self) -> None:
        pulse = self.database.tables.rows[Pulse].get("developer")
        assert (pulse.skipped if pulse else 0) == self.skipped
        sweeps = self.database.tables.rows[Sweep].values()
        assert sum(sweep.result is Result.RUNNING for sweep in sweeps) == (self.holder is not None)


TestLadder = Ladder.TestCase
TestLadder.settings = QUICK
TestBreaker = Breaker.TestCase
TestBreaker.settings = QUICK
TestLease = Lease.TestCase
TestLease.settings = settings(QUICK, max_examples=20)
