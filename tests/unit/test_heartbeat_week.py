"""A day of fifteen agents under everything that goes wrong, and shorter ones that nobody thought of."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from deployments.simulation.demo import happened
from deployments.simulation.jobs import Nature
from deployments.simulation.virtual_time import run
from deployments.simulation.week import Plan
from tests.fakes.drawn_days import drawn

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("seed", [4])
def test_whatever_goes_wrong_nothing_is_forgotten_doubled_or_over_its_limit(seed: int) -> None:
    verdict = run(happened(Plan(seed=seed, days=1)))
    assert verdict.broken == ()
    assert (verdict.total.forgotten, verdict.total.doubled) == (0, 0)
    assert sum(row.found for row in verdict.rows) == verdict.total.found > 20
    assert set(verdict.injected) >= {nature.value for nature in Nature if nature is not Nature.PLAIN}


@settings(max_examples=2, phases=(Phase.reuse, Phase.generate), print_blob=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_is_forgotten_doubled_or_over_its_limit_in_any_morning(seed: int) -> None:
    """The first example is always seed 0; what is found is tried again first the next time."""
    assert run(happened(drawn(seed, days=0.4))).broken == ()
