"""Whole weeks of heartbeats, days that nobody thought of, and proof that the verdict notices broken rules."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from deployments.simulation.demo import happened
from deployments.simulation.jobs import Nature
from deployments.simulation.virtual_time import run
from deployments.simulation.week import Plan
from quarterdeck.crew import rules as crew_rules
from quarterdeck.heartbeat import checking, judging, overview, rules, service, settling
from quarterdeck.heartbeat.stall import Rung
from tests.fakes.drawn_days import drawn

pytestmark = pytest.mark.usefixtures("quiet")

Break = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("seed", [1])
def test_a_week_leaves_nothing_forgotten_nothing_doubled_and_no_limit_exceeded(seed: int) -> None:
    verdict = run(happened(Plan(seed=seed)))
    assert verdict.broken == ()
    assert verdict.total.found > 200
    assert verdict.total.recovered > 10
    assert verdict.sweeps["died"] > 50


@settings(max_examples=6, phases=(Phase.reuse, Phase.generate), print_blob=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_is_forgotten_doubled_or_over_its_limit_on_any_day(seed: int) -> None:
    assert run(happened(drawn(seed, days=0.5))).broken == ()


def without_the_breaker(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settling, "repeats", lambda *_: 1)


def without_the_merge(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(overview, "merged", lambda found, _: [overview.Piece((place,)) for place in found])


def without_knowing_who_is_at_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checking, "_held", lambda piece: [])


def without_the_ladder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(judging, "rung", lambda *_: Rung.NOTHING)


def without_the_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(service, "LEASE", timedelta(seconds=-1))


def with_a_lease_that_never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(service, "LEASE", timedelta(days=99))


def without_the_days_budget(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules, "day_over", lambda *_: "")


def without_the_items_budget(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules, "item_over", lambda *_: "")


def without_slots(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(crew_rules, "free_slots", lambda *_: 1)


CALM: dict[str, Any] = {"natures": (), "outages": False}
MORNING: dict[str, Any] = {"days": 0.4, "jobs_a_day": 1, "outages": False}


@pytest.mark.parametrize(
    ("breaks", "plan", "complaint"),
    [
        (without_the_breaker, Plan(natures=(Nature.FAILS,) * 5, **MORNING), "runs ended the same way"),
        (without_the_merge, Plan(days=0.3, jobs_a_day=20, slots=2, **CALM), "doubled"),
        (without_knowing_who_is_at_it, Plan(days=0.8, natures=(Nature.SLOW,) * 8, jobs_a_day=1), "doubled"),
        (without_the_ladder, Plan(natures=(Nature.STALLS,), **MORNING), "forgotten"),
        (without_the_lease, Plan(days=0.2, overlaps=0.3, **CALM), "sweeps of an agent at once"),
        (with_a_lease_that_never_ends, Plan(days=0.2, deaths=0.1, **CALM), "was swept no more"),
        (without_the_days_budget, Plan(days=0.3, jobs_a_day=30, day_rounds=1, **CALM), "runs on Monday"),
        (
            without_the_items_budget,
            Plan(natures=(Nature.WANDERS,) * 30, item_tokens=1500, **MORNING),
            "of 1500 tokens",
        ),
        (without_slots, Plan(days=0.25, jobs_a_day=40, **CALM), "runs at once"),
    ],
)
def test_what_is_broken_is_noticed_and_nothing_is_complained_of_without_that(
    breaks: Break, plan: Plan, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(happened(plan)).broken == ()
    breaks(monkeypatch)
    found = run(happened(plan))
    assert any(complaint in sentence for sentence in found.broken), found.broken
