"""A day of fifteen agents under everything that goes wrong."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from deployments.simulation.demo import happened
from deployments.simulation.jobs import Nature
from deployments.simulation.virtual_time import run
from deployments.simulation.week import Plan


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(wrapper_class=before)


@pytest.mark.parametrize("seed", [4])
def test_whatever_goes_wrong_nothing_is_forgotten_doubled_or_over_its_limit(seed: int) -> None:
    verdict = run(happened(Plan(seed=seed, days=1)))
    assert verdict.broken == ()
    assert (verdict.total.forgotten, verdict.total.doubled) == (0, 0)
    assert sum(row.found for row in verdict.rows) == verdict.total.found > 20
    assert set(verdict.injected) >= {nature.value for nature in Nature if nature is not Nature.PLAIN}
