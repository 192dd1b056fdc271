"""What the router tells Prometheus."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from quarterdeck.router.backend import Pool, Usage
from quarterdeck.router.call import Call, Caller
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.ledger.writer import Totals
from quarterdeck.router.upkeep.metrics import Gauges, Metrics

GAUGES = Gauges(
    pools={"primary": {"total": 2, "enabled": 2, "healthy": 1, "cooling": 1, "error": 0}},
    cooling=1,
    queue_depth=4,
    queue_timeouts=3,
    emergencies=2,
    ledger_waiting=9,
    uptime_seconds=12.5,
    database_bytes=4096,
    wal_bytes=16,
)


def call(**changed: Any) -> Call:
    given: dict[str, Any] = {
        "id": "use_1",
        "at": 0.0,
        "request": "r",
        "attempt": 1,
        "is_answer": True,
        "backend_id": "bkd_1",
        "pool": Pool.PRIMARY,
        "is_emergency": False,
        "model": "m",
        "caller": Caller(),
        "outcome": Outcome.OK,
        "status": 200,
        "is_stream": False,
        "usage": Usage(10, 5, 15),
        "cost": 2_000_000_000_000,
        "latency_ms": 300,
    }
    return Call(**(given | changed))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda: GAUGES, {"bkd_1": 'One "quoted"'}.__getitem__)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus' own parser reads."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_every_metric_has_help_and_a_type(metrics: Metrics) -> None:
    text = metrics.text().decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert names == {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    for name in (
        "sidecar_pool_providers",
        "sidecar_cooldown_active",
        "sidecar_emergency_count",
        "sidecar_db_size_bytes",
        "sidecar_wal_size_bytes",
        "sidecar_requests_total",
        "sidecar_errors_total",
        "sidecar_tokens_total",
        "sidecar_cost_total",
        "sidecar_uptime_seconds",
    ):
        assert name in names


def test_requests_of_clients_and_attempts_are_counted_apart(metrics: Metrics) -> None:
    metrics.record(call(outcome=Outcome.LIMITED, status=429, is_answer=False, usage=Usage(), cost=0))
    metrics.record(call(attempt=2))
    found = samples(metrics)
    assert found["sidecar_requests_total", ()] == 1
    assert found["sidecar_errors_total", ()] == 0
    assert found["sidecar_attempts_total", (("backend", 'One "quoted"'), ("status", "4xx"))] == 1
    assert found["sidecar_attempts_total", (("backend", 'One "quoted"'), ("status", "2xx"))] == 1


def test_tokens_and_dollars_are_summed(metrics: Metrics) -> None:
    metrics.record(call())
    metrics.record(call(usage=Usage(total=7), cost=500_000_000_000))
    found = samples(metrics)
    assert found["sidecar_tokens_total", ()] == 22
    assert found["sidecar_cost_total", ()] == 2.5


def test_a_request_that_no_backend_saw_is_a_failed_one(metrics: Metrics) -> None:
    metrics.refused(Outcome.REFUSED)
    metrics.refused(Outcome.ABORTED)  # left while it waited for a backend: its own wish
    found = samples(metrics)
    assert (found["sidecar_requests_total", ()], found["sidecar_errors_total", ()]) == (2, 1)


@pytest.mark.parametrize("outcome", Outcome)
def test_what_counts_as_an_error_counts_so_in_metrics_and_totals(metrics: Metrics, outcome: Outcome) -> None:
    """A client that leaves is none."""
    totals = Totals()
    metrics.record(call(outcome=outcome))
    totals.add(call(outcome=outcome))
    assert samples(metrics)["sidecar_errors_total", ()] == totals.errors


def test_an_attempt_without_an_answer_is_named_by_how_it_failed(metrics: Metrics) -> None:
    metrics.record(call(outcome=Outcome.UNREACHABLE, status=0))
    assert (
        samples(metrics)["sidecar_attempts_total", (("backend", 'One "quoted"'), ("status", "unreachable"))]
        == 1
    )


def test_two_backends_of_one_name_are_one_series() -> None:
    """As when one is deleted and added again; the format has no room for two of the same labels."""
    metrics = Metrics(lambda: GAUGES, {"bkd_1": "same", "bkd_2": "same", "bkd_3": "other"}.__getitem__)
    for backend in ("bkd_1", "bkd_2", "bkd_2", "bkd_3"):
        metrics.record(call(backend_id=backend))
    lines = metrics.text().decode().splitlines()
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series))
    assert 'sidecar_attempts_total{backend="same",status="2xx"} 3.0' in lines
    assert 'sidecar_attempts_total{backend="other",status="2xx"} 1.0' in lines


def test_latency_falls_into_cumulative_buckets(metrics: Metrics) -> None:
    for milliseconds in (50, 300, 500_000):
        metrics.record(call(latency_ms=milliseconds, ttft_ms=20))
    found = samples(metrics)
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "sidecar_latency_seconds_bucket" and ("pool", "primary") in labels
    }
    assert (buckets["0.05"], buckets["0.5"], buckets["300"], buckets["+Inf"]) == (1, 2, 2, 3)
    assert found["sidecar_ttft_seconds_count", (("pool", "primary"),)] == 3


def test_gauges_are_looked_up_when_scraped(metrics: Metrics) -> None:
    found = samples(metrics)
    assert found["sidecar_pool_providers", (("pool", "primary"), ("type", "cooling"))] == 1
    assert found["sidecar_queue_timeouts_total", ()] == 3
    assert found["sidecar_queue_depth", ()] == 4
    assert found["sidecar_db_size_bytes", ()] == 4096


def test_the_counter_of_emergencies_keeps_its_name(metrics: Metrics) -> None:
    lines = metrics.text().decode().splitlines()
    assert "# TYPE sidecar_emergency_count counter" in lines
    assert "sidecar_emergency_count 2.0" in lines
