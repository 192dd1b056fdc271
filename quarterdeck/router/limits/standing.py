"""How one backend stands while the router runs: cooling, half-open, broken; and what it tells of changes."""

from collections import deque
from dataclasses import dataclass
from itertools import count

from quarterdeck.router.backend import Backend, Health, Limit, Status
from quarterdeck.router.config import Tuning
from quarterdeck.router.limits.bucket import Bucket, Level
from quarterdeck.router.limits.rules import (
    DAY,
    FAILURES_UNTIL_DOWN,
    Hint,
    LimitHint,
    emergency_rpm,
    health_of,
    rest_seconds,
    sentence_of,
)

LAST_STEP = 16
"""After so many trials at a time the next success opens a backend fully."""

_SLOT = 10.0
_SLOTS = 30  # of ten seconds: five minutes

_epochs = count(1)


@dataclass(frozen=True, slots=True)
class State:
    """What was stored of a backend before a restart. `cooldown_until` is in epoch seconds."""

    status: Status = Status.HEALTHY
    reason: str = ""
    cooldown_until: float | None = None
    kind: Limit = Limit.RATE
    count: int = 0
    health: Health = Health.HEALTHY
    failures: int = 0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe saw; `status` 0 = no answer, and then `reason` says why."""

    status: int
    latency_ms: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CooldownStarted:
    backend_id: str
    kind: Limit
    count: int
    seconds: float
    until: float
    at: float
    summary: str


@dataclass(frozen=True, slots=True)
class CooldownExtended:
    """A 429 of the same volley asked for more time: the same cooldown ends later."""

    backend_id: str
    seconds: float
    until: float
    at: float


@dataclass(frozen=True, slots=True)
class CooldownEnded:
    """It expired, or a person ended it; the count of 429s in a row is kept."""

    backend_id: str
    at: float


@dataclass(frozen=True, slots=True)
class CountReset:
    """A success (or a person) ended the row of 429s."""

    backend_id: str
    at: float


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """healthy, cooling or error; whether a backend is disabled or its key opens is configuration."""

    backend_id: str
    status: Status
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """After every probe, and when calls changed the state."""

    backend_id: str
    state: Health
    failures: int
    latency_ms: int
    status_code: int
    success_rate: float
    at: float


Change = CooldownStarted | CooldownExtended | CooldownEnded | CountReset | StatusChanged | HealthChanged


@dataclass(frozen=True, slots=True)
class View:
    """All that a person wants to see of a backend. Times are epoch seconds, None = never or not known.

    `step`: how many calls may be in flight while it is half-open, 0 = it is fully open. `next_probe`: when
    it is tried again. `unwell_since`: the first of `failures`, None also where that was before a restart.
    `calls_5m`: the calls of which `success_rate_5m` is the good share.
    """

    status: Status
    health: Health
    reason: str
    kind: Limit | None
    until: float | None
    next_probe: float | None
    count: int
    step: int
    in_flight: int
    failures: int
    unwell_since: float | None
    success_rate_5m: float
    calls_5m: int
    latency_ms: int
    status_code: int
    checked_at: float | None
    level: Level


class Traffic:
    """Successes and failures of the last five minutes, to ten seconds."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: deque[list[int]] = deque(maxlen=_SLOTS)

    def add(self, now: float, *, ok: bool) -> None:
        slot = int(now // _SLOT)
        slots = self._slots
        if not slots or slots[-1][0] != slot:
            slots.append([slot, 0, 0])
        slots[-1][1 if ok else 2] += 1

    def success_rate(self, now: float) -> float:
        """1 when there was no call."""
        good, bad = self._recent(now)
        return good / (good + bad) if good or bad else 1.0

    def calls(self, now: float) -> int:
        return sum(self._recent(now))

    def _recent(self, now: float) -> tuple[int, int]:
        first = int(now // _SLOT) - _SLOTS
        recent = [slot for slot in self._slots if slot[0] > first]
        return sum(slot[1] for slot in recent), sum(slot[2] for slot in recent)


class Standing:
    """One backend's live state. Its methods return what changed; the balancer keeps the order of all.

    Calls carry the `epoch` in which they were let through: it changes with each cooldown, so that late
    answers of an earlier epoch change nothing in this one.
    """

    __slots__ = (
        *("backend", "bucket", "emergency", "traffic", "born", "epoch", "in_flight", "step", "trials"),
        *("until", "kind", "count", "cooldown_reason", "error", "health", "failures", "failed_at"),
        *("failure_reason", "unwell_since", "latency_ms", "status_code", "checked_at"),
    )

    def __init__(self, backend: Backend, state: State, now: float) -> None:
        self.backend = backend
        self.bucket = Bucket(backend.rpm_limit)
        self.emergency: Bucket | None = None
        self.traffic = Traffic()
        self.in_flight = 0
        self.latency_ms, self.status_code, self.checked_at = 0, 0, 0.0
        self._begin(state, now)
        self.born = self.epoch

    def _begin(self, state: State, now: float) -> None:
        self.epoch = next(_epochs)
        self.trials = 0
        self.until = min(state.cooldown_until or 0.0, now + DAY)
        if state.status is Status.COOLING:
            self.until = self.until or now  # nobody knows until when: it is over, and its event is closed
        self.kind, self.count = state.kind, state.count
        self.error = (state.reason or "unknown") if state.status is Status.ERROR else ""
        self.cooldown_reason = state.reason if self.until else ""
        self.step = 1 if self.count or self.until or self.error else 0
        self.health, self.failures = state.health, state.failures
        self.failed_at, self.failure_reason, self.unwell_since = 0.0, "", 0.0

    def emergency_bucket(self, tuning: Tuning, now: float) -> Bucket | None:
        """Its own allowance for emergencies, as the tuning now has it; None = it may give nothing."""
        rpm = emergency_rpm(tuning, self.backend.rpm_limit)
        if not rpm:
            return None
        if self.emergency is None:
            self.emergency = Bucket(rpm)
        self.emergency.change(rpm, now)
        return self.emergency

    def adopt(self, backend: Backend, now: float) -> list[Change]:
        """The same backend with other values. What was learnt with another address or key is void."""
        is_same_door = self.is_at(backend)
        self.backend = backend
        self.bucket.change(backend.rpm_limit, now)
        if is_same_door:
            return []
        self.epoch, self.trials = next(_epochs), 0
        return self.reset(now)

    def is_at(self, backend: Backend) -> bool:
        """Is this the door and the key that we now use?"""
        mine = self.backend
        return mine is backend or (mine.api_base_url, mine.api_key) == (backend.api_base_url, backend.api_key)

    @property
    def live_status(self) -> Status:
        """What calls and probes made of it."""
        if self.error:
            return Status.ERROR
        return Status.COOLING if self.until else Status.HEALTHY

    @property
    def status(self) -> Status:
        if not self.backend.enabled:
            return Status.DISABLED
        return Status.ERROR if self.backend.fault else self.live_status

    @property
    def is_routable(self) -> bool:
        return self.status is Status.HEALTHY and self.health is not Health.DOWN

    @property
    def has_slot(self) -> bool:
        """May one more call be in flight?"""
        return not self.step or self.trials < self.step

    def limited(self, epoch: int, hint: LimitHint, summary: str, tuning: Tuning, now: float) -> list[Change]:
        """A 429. Those of one volley are one event; only an order to wait longer counts among them."""
        if epoch != self.epoch:
            return self._extended(hint, now)
        self.count += 1
        self.epoch = next(_epochs)
        self.step, self.trials = 1, 0
        seconds = rest_seconds(tuning, self.count, hint, now)
        self.until, self.kind, self.cooldown_reason = now + seconds, hint.kind, summary
        return [
            CooldownStarted(self.backend.id, hint.kind, self.count, seconds, self.until, now, summary),
            self._status(now),
        ]

    def _extended(self, hint: LimitHint, now: float) -> list[Change]:
        wait = hint.seconds if hint.source is Hint.RETRY_AFTER else None
        if wait is None or not self.until or now + wait <= self.until:
            return []
        self.until = now + wait
        return [CooldownExtended(self.backend.id, wait, self.until, now)]

    def expire(self, now: float) -> list[Change]:
        """The cooldown is over: half-open, one trial first; the count stays until a success."""
        ended_at, self.until = min(self.until, now), 0.0
        self.cooldown_reason = ""
        return [CooldownEnded(self.backend.id, ended_at), self._status(now)]

    def succeeded(self, epoch: int, *, is_trial: bool, now: float) -> list[Change]:
        changes: list[Change] = []
        if epoch == self.epoch:
            if is_trial:
                self.trials -= 1
                self.step = self.step * 2 if 0 < self.step < LAST_STEP else 0
            if self.count:
                self.count = 0
                changes.append(CountReset(self.backend.id, now))
        return changes + self._set_failures(0, "", now) if self.failures else changes

    def failed(self, reason: str, now: float) -> list[Change]:
        """It could not be reached, or answered with nonsense: counts toward its health."""
        self.failed_at = now
        return self._set_failures(self.failures + 1, reason, now)

    def give_back_trial(self, epoch: int, *, is_broken: bool = False) -> None:
        """A trial ended without a success; a broken one begins the ramp anew, if it is not over."""
        if epoch == self.epoch:
            self.trials -= 1
            if is_broken and self.step:
                self.step = 1

    def bad_key(self, reason: str, now: float) -> list[Change]:
        if self.error:
            return []
        self.error = reason
        return [self._status(now)]

    def probed(self, result: ProbeResult, now: float) -> None:
        self.latency_ms, self.status_code, self.checked_at = result.latency_ms, result.status, now

    def found_good(self, now: float) -> list[Change]:
        """A probe was answered well."""
        changes = self._lift(now)
        self.failures, self.failure_reason, self.health = 0, "", Health.HEALTHY
        return changes

    def found_reachable(self) -> None:
        """A probe was answered with neither yes nor no, or there is nobody to ask.

        Where probes say nothing, only calls can show that a backend is back: it gets trials, one at a time.
        """
        if self.health is Health.DOWN:
            self.failures = FAILURES_UNTIL_DOWN - 1
            self.health = health_of(self.failures)
            self._half_open()

    def _lift(self, now: float) -> list[Change]:
        if not self.error:
            return []
        self.error = ""
        self._half_open()
        return [self._status(now)]

    def _half_open(self) -> None:
        self.epoch = next(_epochs)
        self.step, self.trials = 1, 0

    def reset(self, now: float) -> list[Change]:
        """Forget what is held against it; it is tried carefully all the same."""
        if not (self.until or self.count or self.error or self.failures):
            return []
        changes: list[Change] = []
        if self.until:
            changes.append(CooldownEnded(self.backend.id, now))
        if self.count:
            changes.append(CountReset(self.backend.id, now))
        status, health = self.live_status, self.health
        self._begin(State(), now)
        self.step = 1
        if status is not Status.HEALTHY:
            changes.append(self._status(now))
        if health is not Health.HEALTHY:
            changes.append(self.health_changed(now))
        return changes

    def _set_failures(self, failures: int, reason: str, now: float) -> list[Change]:
        if not self.failures:
            self.unwell_since = now
        before, self.failures, self.failure_reason = self.health, failures, reason
        self.health = health_of(failures)
        return [self.health_changed(now)] if self.health is not before else []

    def _status(self, now: float) -> StatusChanged:
        return StatusChanged(self.backend.id, self.live_status, self.error or self.cooldown_reason, now)

    def health_changed(self, now: float) -> HealthChanged:
        rate = self.traffic.success_rate(now)
        code, latency = self.status_code, self.latency_ms
        return HealthChanged(self.backend.id, self.health, self.failures, latency, code, rate, now)

    def view(self, tuning: Tuning, now: float) -> View:
        return View(
            status=self.status,
            health=self.health,
            reason=self._reason(),
            kind=self.kind if self.until else None,
            until=self.until or None,
            next_probe=self._next_probe(tuning),
            count=self.count,
            step=self.step,
            in_flight=self.in_flight,
            failures=self.failures,
            unwell_since=self.unwell_since or None if self.failures else None,
            success_rate_5m=round(self.traffic.success_rate(now), 4),
            calls_5m=self.traffic.calls(now),
            latency_ms=self.latency_ms,
            status_code=self.status_code,
            checked_at=self.checked_at or None,
            level=self.bucket.level(now),
        )

    def _reason(self) -> str:
        if not self.backend.enabled:
            return ""
        return self.backend.fault or self.error or sentence_of(self.cooldown_reason) or self.failure_reason

    def _next_probe(self, tuning: Tuning) -> float | None:
        match self.status:
            case Status.DISABLED:
                return None
            case Status.COOLING:
                return self.until
            case _ if self.checked_at:
                return self.checked_at + tuning.health_check_interval_seconds
            case _:
                return None
