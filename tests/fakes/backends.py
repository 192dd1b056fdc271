"""Backends for tests that need no provider, only the choice between them."""

from collections.abc import Sequence
from typing import Any

from quarterdeck.router.backend import Backend, Mapping
from quarterdeck.router.config import Tuning
from quarterdeck.router.limits.balancer import Admission, Balancer
from quarterdeck.router.limits.rules import LimitHint
from quarterdeck.router.limits.standing import ProbeResult

MODEL = "large"
START = 1_800_000_000.0
"""Now, where a test does not care when."""
PLAIN = LimitHint()
"""A 429 without a word about when to come back."""


def backend(name: str, *models: str, **values: Any) -> Backend:
    """An enabled primary backend, its id like its name, that maps these models (or `MODEL`)."""
    mappings = {model: Mapping(model, f"{name}/{model}") for model in models or (MODEL,)}
    values = {
        "api_base_url": f"https://{name}.test",
        "api_key": f"key-of-{name}",
        "mappings": mappings,
    } | values
    return Backend(id=name, name=name, **values)


def probed(desk: Balancer, name: str, result: ProbeResult, now: float) -> None:
    """A probe of this backend came back: as it is now, or of one that is gone."""
    asked = next((one for one in desk.backends() if one.id == name), backend(name))
    desk.probed(asked, result, now)


def balancer(*backends: Backend, tuning: Tuning | None = None) -> Balancer:
    made = Balancer(tuning or Tuning())
    made.adopt(backends, START)
    return made


def admitted(desk: Balancer, model: str = MODEL, tried: Sequence[str] = (), now: float = START) -> str:
    """Who took it, '' = nobody; it was answered well at once."""
    admission = desk.admit(model, tried, now)
    if admission is None:
        return ""
    desk.succeeded(admission, now)
    return admission.backend.id


def take(desk: Balancer, now: float = START) -> Admission:
    """A call that is in flight."""
    admission = desk.admit(MODEL, (), now)
    assert admission
    return admission


def break_it(desk: Balancer, name: str, times: int, now: float = START) -> None:
    """So many probes find it broken."""
    for _ in range(times):
        probed(desk, name, ProbeResult(500), now)


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
