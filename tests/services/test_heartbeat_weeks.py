"""A whole week of heartbeats, and proof that its verdict would notice if the rules were wrong."""

from collections.abc import Callable

import pytest

from deployments.simulation.demo import happened
from deployments.simulation.jobs import Nature
from deployments.simulation.virtual_time import run
from deployments.simulation.week import Plan
from quarterdeck.heartbeat import judging, overview, settling
from quarterdeck.heartbeat.stall import Rung

Break = Callable[[pytest.MonkeyPatch], None]


def test_a_week_leaves_nothing_forgotten_nothing_doubled_and_no_limit_exceeded() -> None:
    verdict = run(happened(Plan(seed=1)))
    assert verdict.broken == ()
    assert verdict.total.found > 200
    assert verdict.total.recovered > 10
    assert verdict.sweeps["died"] > 50


def without_the_breaker(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settling, "repeats", lambda *_: 1)


def without_the_merge(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(overview, "merged", lambda found, _: [overview.Piece((place,)) for place in found])


def without_the_ladder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(judging, "rung", lambda *_: Rung.NOTHING)


@pytest.mark.parametrize(
    ("breaks", "plan", "complaint"),
    [
        (without_the_breaker, Plan(days=1), "runs ended the same way"),
        (without_the_merge, Plan(days=0.5, natures=(Nature.SLOW,) * 8, outages=False, slots=2), "doubled"),
        (without_the_ladder, Plan(days=1), "forgotten"),
    ],
)
def test_what_is_broken_is_noticed(
    breaks: Break, plan: Plan, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch)
    found = run(happened(plan))
    assert any(complaint in sentence for sentence in found.broken), found.broken
