"""Which backend takes the next call, and what every call teaches about its backend. In memory, no I/O.

A model has lanes, tried in this order: primary, then fallback; in each pool healthy backends before degraded
ones. A lane is a heap by use, so that a choice costs the same with three backends as with three hundred.
Lanes hold only what can be used, and are made anew when that changes, which is rare.
"""

from collections.abc import Container, Iterator, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from math import inf

from quarterdeck.router.backend import POOLS, Backend, Health, Mapping, Pool, Status
from quarterdeck.router.config import Tuning
from quarterdeck.router.limits.rules import LimitHint, Probe, probe_of
from quarterdeck.router.limits.standing import Change, ProbeResult, Standing, State, View

_LANES = tuple((pool, health) for pool in POOLS for health in (Health.HEALTHY, Health.DEGRADED))
_Entry = tuple[float, int, Standing]


@dataclass(slots=True)  # frozen ones take five times as long to make, and each call makes one
class Admission:
    """A call that may go to `backend`, a token taken for it. It must be ended exactly once at the balancer.

    `at` is when it was let through, `epoch` the backend's cooldown generation then. `is_trial` until it is
    answered: nothing else is ever changed.
    """

    backend: Backend
    mapping: Mapping
    is_emergency: bool
    is_trial: bool
    at: float
    epoch: int


@dataclass(frozen=True, slots=True)
class PoolCount:
    """How many backends of a pool are in each state; `healthy` ones are enabled too (section 15.2)."""

    total: int = 0
    enabled: int = 0
    healthy: int = 0
    cooling: int = 0
    error: int = 0


class _Lane:
    """Equally good backends for one model: the least used that has a token goes first."""

    __slots__ = ("_empty", "_ready")

    def __init__(self, standings: Sequence[Standing]) -> None:
        self._ready: list[_Entry] = [(s.bucket.full_at, n, s) for n, s in enumerate(standings)]
        heapify(self._ready)
        self._empty: list[_Entry] = []  # by the time of their next token

    def take(self, tried: Container[str], now: float) -> Standing | None:
        """The chosen one, its token taken."""
        while self._empty and self._empty[0][0] <= now:
            _, order, standing = heappop(self._empty)
            heappush(self._ready, (standing.bucket.full_at, order, standing))
        passed: list[_Entry] = []
        chosen = self._choose(tried, now, passed)
        for entry in passed:
            heappush(self._ready, entry)
        return chosen

    def _choose(self, tried: Container[str], now: float, passed: list[_Entry]) -> Standing | None:
        ready = self._ready
        while ready:
            entry = ready[0]
            used, order, standing = entry
            bucket = standing.bucket
            if used != bucket.full_at:  # it was called for another model
                heapreplace(ready, (bucket.full_at, order, standing))
            elif standing.backend.id in tried or not standing.has_slot:
                passed.append(heappop(ready))
            elif (free_at := bucket.free_at(now)) > now:
                heappop(ready)
                heappush(self._empty, (free_at, order, standing))
            else:
                bucket.take(now)
                heapreplace(ready, (bucket.full_at, order, standing))
                return standing
        return None


class Balancer:
    """Backends, their limits and cooldowns. Everything is told the time: steady epoch seconds.

    `tuning` may be replaced at any time, and counts from then on.
    """

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning
        self._standings: dict[str, Standing] = {}
        self._by_model: dict[str, list[Standing]] = {}
        self._lanes: dict[str, list[_Lane]] = {}
        self._next_expiry = inf
        self._changes: list[Change] = []

    def adopt(self, backends: Sequence[Backend], now: float, states: Map[str, State] | None = None) -> None:
        """Take a new configuration over; what is known of backends that stay is kept.

        `states` are stored ones, for backends that were not here before.
        """
        before, stored = self._standings, states or {}
        self._standings = {}
        for backend in backends:
            standing = before.get(backend.id)
            if standing:
                self._changes += standing.adopt(backend, now)
            else:
                standing = Standing(backend, stored.get(backend.id, State()), now)
            self._standings[backend.id] = standing
        self._index()
        self.sweep(now)

    def _index(self) -> None:
        self._lanes.clear()
        self._by_model = {}
        for standing in self._standings.values():
            if standing.backend.enabled:
                for model in standing.backend.mappings:
                    self._by_model.setdefault(model, []).append(standing)

    def knows(self, model: str) -> bool:
        """Does an enabled backend map it?"""
        return model in self._by_model

    def models(self) -> list[str]:
        return sorted(self._by_model)

    def backends(self) -> Sequence[Backend]:
        return [standing.backend for standing in self._standings.values()]

    def admit(self, model: str, tried: Container[str], now: float) -> Admission | None:
        """The best backend that can take a call of this model now, or None. `tried` holds backend ids."""
        if now >= self._next_expiry:
            self.sweep(now)
        lanes = self._lanes.get(model)
        if lanes is None:
            lanes = self._make_lanes(model)
        for lane in lanes:
            if standing := lane.take(tried, now):
                return _admitted(standing, model, now, is_emergency=False)
        return None

    def _make_lanes(self, model: str) -> list[_Lane]:
        if model not in self._by_model:
            return []
        groups: dict[tuple[Pool, Health], list[Standing]] = {lane: [] for lane in _LANES}
        for standing in self._by_model[model]:
            if standing.is_routable:
                groups[standing.backend.pool, standing.health].append(standing)
        made = self._lanes[model] = [_Lane(group) for group in groups.values() if group]
        return made

    def admit_emergency(self, model: str, tried: Container[str], now: float) -> Admission | None:
        """The same beyond the pools' limits: a small allowance of its own for each backend (section 9)."""
        self._settle(now)
        able = [
            (_LANES.index((standing.backend.pool, standing.health)), bucket.full_at, n)
            for n, standing in enumerate(self._by_model.get(model, ()))
            if standing.is_routable
            and standing.has_slot
            and standing.backend.id not in tried
            and (bucket := standing.emergency_bucket(self.tuning, now))
            and bucket.free_at(now) <= now
        ]
        if not able:
            return None
        standing = self._by_model[model][min(able)[-1]]
        assert standing.emergency  # those without one are not able
        standing.emergency.take(now)
        return _admitted(standing, model, now, is_emergency=True)

    def wait_hint(self, model: str, tried: Container[str], now: float) -> float | None:
        """Seconds until it may be worth asking again, 0 = now; None = waiting is of no use (section 7)."""
        longest = self.tuning.cooldown_precheck_threshold_seconds
        waits = [wait for rest, wait in self._waits(model, tried, now) if rest <= longest]
        return min(waits, default=None)

    def back_in(self, model: str, now: float) -> float | None:
        """Seconds until some backend of the model may take a call again; None = nobody can say."""
        return min((wait for _, wait in self._waits(model, (), now)), default=None)

    def _waits(self, model: str, tried: Container[str], now: float) -> Iterator[tuple[float, float]]:
        """For each backend that time alone can bring back: how long it still cools, and how long to wait."""
        self._settle(now)
        for standing in self._by_model.get(model, ()):
            if standing.backend.id in tried or standing.health is Health.DOWN:
                continue
            if standing.status in (Status.HEALTHY, Status.COOLING):
                rest = max(standing.until - now, 0.0)
                slot = 0.0 if standing.has_slot else self.tuning.rate_limiter_refill_interval_ms / 1000
                yield rest, max(rest, slot, standing.bucket.free_at(now) - now)

    def answered(self, admission: Admission, now: float) -> None:
        """A trial's answer has begun and may take minutes: it has done its duty, and the next may go."""
        standing = self._standings.get(admission.backend.id)
        if admission.is_trial and standing and admission.epoch == standing.epoch:
            self._changed(standing, standing.succeeded(admission.epoch, is_trial=True, now=now))
            admission.is_trial = False

    def succeeded(self, admission: Admission, now: float) -> None:
        """It was answered well."""
        standing = self._ended(admission, now, ok=True)
        if standing and (admission.is_trial or standing.count or standing.failures):
            is_trial = admission.is_trial
            self._changed(standing, standing.succeeded(admission.epoch, is_trial=is_trial, now=now))

    def limited(self, admission: Admission, now: float, hint: LimitHint, summary: str) -> None:
        """It was answered with 429: the backend cools. `summary` holds no secrets."""
        self._settle(now)
        standing = self._ended(admission, now, ok=False)
        if standing:
            self._changed(standing, standing.limited(admission.epoch, hint, summary, self.tuning, now))

    def failed(self, admission: Admission, now: float, reason: str) -> None:
        """Nothing came, too late, or nonsense. Calls of one volley that fail together are one failure."""
        standing = self._ended(admission, now, ok=False)
        if standing:
            if admission.is_trial:
                standing.give_back_trial(admission.epoch, is_broken=True)
            is_new = admission.at >= standing.failed_at
            self._changed(standing, standing.failed(reason, now) if is_new else [])

    def bad_key(self, admission: Admission, now: float, reason: str) -> None:
        """The key was refused: a person must look, or a probe succeed."""
        standing = self._ended(admission, now, ok=False)
        if standing:
            if admission.is_trial:
                standing.give_back_trial(admission.epoch)
            self._changed(standing, standing.bad_key(reason, now))

    def released(self, admission: Admission, now: float) -> None:
        """It says nothing of the backend: the request was wrong, or the client left."""
        standing = self._ended(admission, now)
        if standing and admission.is_trial:
            standing.give_back_trial(admission.epoch)

    def unused(self, admission: Admission, now: float) -> None:
        """It was never sent: the token goes back too."""
        standing = self._standings.get(admission.backend.id)
        if standing:
            bucket = standing.emergency if admission.is_emergency else standing.bucket
            if bucket:
                bucket.give_back(admission.at)
            self._forget_lanes(standing)
        self.released(admission, now)

    def _ended(self, admission: Admission, now: float, *, ok: bool | None = None) -> Standing | None:
        """Who it went to; None when that backend is gone, or has another address or key by now."""
        standing = self._standings.get(admission.backend.id)
        if standing is None or admission.epoch < standing.born:
            return None
        standing.in_flight -= 1
        if not standing.is_at(admission.backend):
            return None
        if ok is not None:
            standing.traffic.add(now, ok=ok)
        return standing

    def probed(self, backend: Backend, result: ProbeResult, now: float) -> None:
        """A probe came back (section 10). It says nothing of a backend with another address or key by now."""
        standing = self._standings.get(backend.id)
        if standing is None or not standing.is_at(backend):
            return
        standing.probed(result, now)
        changes: list[Change] = []
        match probe_of(result.status):
            case Probe.GOOD:
                changes = standing.found_good(now)
            case Probe.BAD_KEY:
                changes = standing.bad_key(result.reason or f"The probe was refused: {result.status}.", now)
            case Probe.INCONCLUSIVE:
                standing.found_reachable()
            case Probe.FAILED:
                standing.failed(result.reason or f"The probe was answered with {result.status}.", now)
        self._changed(standing, [*changes, standing.health_changed(now)])

    def not_probed(self, backend_id: str, now: float) -> None:
        """No probe can ask it: if it is down, calls are tried on it, one at a time."""
        standing = self._standings.get(backend_id)
        if standing and standing.health is Health.DOWN:
            standing.found_reachable()
            self._changed(standing, [standing.health_changed(now)])

    def reset(self, backend_id: str, now: float) -> None:
        """A person says that it is well again. An unknown backend is ignored."""
        if standing := self._standings.get(backend_id):
            self._changed(standing, standing.reset(now))

    def _settle(self, now: float) -> None:
        if now >= self._next_expiry:
            self.sweep(now)

    def sweep(self, now: float) -> None:
        """Cooldowns that are over end. `admit` does it by itself in time."""
        for standing in self._standings.values():
            if standing.until and standing.until <= now:
                self._changed(standing, standing.expire(now))
        self._next_expiry = min((s.until for s in self._standings.values() if s.until), default=inf)

    def _changed(self, standing: Standing, changes: list[Change]) -> None:
        if changes:
            self._changes += changes
            if standing.until:
                self._next_expiry = min(self._next_expiry, standing.until)
            self._forget_lanes(standing)

    def _forget_lanes(self, standing: Standing) -> None:
        for model in standing.backend.mappings:
            self._lanes.pop(model, None)

    def view(self, backend_id: str, now: float) -> View:
        """All that is known of a backend; KeyError if there is none."""
        self._settle(now)
        return self._standings[backend_id].view(self.tuning, now)

    def pools(self, now: float) -> Map[Pool, PoolCount]:
        """Both pools, always."""
        self._settle(now)
        return {pool: self._count(pool) for pool in POOLS}

    def _count(self, pool: Pool) -> PoolCount:
        statuses = [s.status for s in self._standings.values() if s.backend.pool is pool]
        return PoolCount(
            total=len(statuses),
            enabled=len(statuses) - statuses.count(Status.DISABLED),
            healthy=statuses.count(Status.HEALTHY),
            cooling=statuses.count(Status.COOLING),
            error=statuses.count(Status.ERROR),
        )

    def take_changes(self) -> list[Change]:
        """What happened since the last time, in order."""
        taken, self._changes = self._changes, []
        return taken


def _admitted(standing: Standing, model: str, now: float, *, is_emergency: bool) -> Admission:
    backend, is_trial = standing.backend, standing.step > 0
    standing.in_flight += 1
    standing.trials += is_trial
    return Admission(backend, backend.mappings[model], is_emergency, is_trial, now, standing.epoch)
