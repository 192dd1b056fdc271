"""What Prometheus is told, as text at `/metrics` on a port of its own.

Counting is a few additions per call; the families are only made when somebody scrapes. Counters begin
at zero with the process and never go down, whatever is deleted meanwhile.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from quarterdeck.router.backend import PICO, Pool
from quarterdeck.router.call import Call
from quarterdeck.router.exchange import NO_ERROR, Outcome

LATENCY = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Upper bounds in seconds: model calls take from a cached answer to minutes."""


@dataclass(slots=True)
class Histogram:
    """Counts per bucket, the last one for everything above."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY, seconds)] += 1
        self.total += seconds

    def cumulated(self) -> list[tuple[str, float]]:
        """Buckets as Prometheus has them: everything up to each bound."""
        so_far, buckets = 0, []
        for bound, count in zip((*map(str, LATENCY), "+Inf"), self.counts, strict=True):
            so_far += count
            buckets.append((bound, float(so_far)))
        return buckets


@dataclass(frozen=True)
class Gauges:
    """What is looked up at the moment of the scrape. Sizes are in bytes, as last measured."""

    pools: Mapping[str, Mapping[str, int]]
    cooling: int
    queue_depth: int
    queue_timeouts: int
    emergencies: int
    ledger_waiting: int
    uptime_seconds: float
    database_bytes: int
    wal_bytes: int


class Metrics:
    """Counts calls. `names` gives the name of a backend for its label, also of one that was deleted."""

    def __init__(self, gauges: Callable[[], Gauges], names: Callable[[str], str]) -> None:
        self._gauges = gauges
        self._names = names
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._requests = self._errors = self._tokens = self._cost = 0
        self._latency = {pool: Histogram() for pool in Pool}
        self._ttft = {pool: Histogram() for pool in Pool}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def record(self, call: Call) -> None:
        """Count one attempt."""
        self._attempts[call.backend_id, _class(call)] += 1
        if call.is_answer:
            self._requests += 1
            self._errors += call.outcome not in NO_ERROR
        self._tokens += call.usage.total or call.usage.prompt + call.usage.completion
        self._cost += call.cost
        self._latency[call.pool].observe(call.latency_ms / 1000)
        if call.ttft_ms is not None:
            self._ttft[call.pool].observe(call.ttft_ms / 1000)

    def refused(self, outcome: Outcome) -> None:
        """Count a client's request that no backend was asked about."""
        self._requests += 1
        self._errors += outcome not in NO_ERROR

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        # the library insists on `_total` for counters; this one is older than that habit
        return generate_latest(self._registry).replace(
            b"sidecar_emergency_count_total", b"sidecar_emergency_count"
        )

    def collect(self) -> Iterable[Metric]:
        """The families; called by the registry."""
        now = self._gauges()
        yield from self._of_pools(now)
        yield from self._of_calls()
        for name, text, value in (
            ("cooldown_active", "Backends that cool now.", now.cooling),
            ("queue_depth", "Requests that wait for a backend.", now.queue_depth),
            ("ledger_waiting", "Calls that are not in the database yet.", now.ledger_waiting),
            ("db_size_bytes", "Size of the router's tables.", now.database_bytes),
            ("wal_size_bytes", "Size of the database's write-ahead log.", now.wal_bytes),
            ("uptime_seconds", "Seconds since the router started.", now.uptime_seconds),
        ):
            yield GaugeMetricFamily(f"sidecar_{name}", text, value)
        yield CounterMetricFamily(
            "sidecar_emergency_count", "Uses of the emergency channel.", now.emergencies
        )
        yield CounterMetricFamily(
            "sidecar_queue_timeouts", "Requests that waited too long.", now.queue_timeouts
        )

    def _of_pools(self, now: Gauges) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "sidecar_pool_providers", "Backends per pool and state.", labels=("pool", "type")
        )
        for pool, counts in now.pools.items():
            for kind, count in counts.items():
                family.add_metric((pool, kind), count)
        yield family

    def _of_calls(self) -> Iterator[Metric]:
        for name, text, value in (
            ("requests", "Requests of clients.", self._requests),
            ("errors", "Requests of clients that failed.", self._errors),
            ("tokens", "Tokens of all attempts.", self._tokens),
            ("cost", "Dollars of all attempts.", self._cost / PICO),
        ):
            yield CounterMetricFamily(f"sidecar_{name}", text, value)
        attempts = CounterMetricFamily(
            "sidecar_attempts", "Attempts per backend and class of answer.", labels=("backend", "status")
        )
        for labels, count in self._named().items():
            attempts.add_metric(labels, count)
        yield attempts
        yield _family("sidecar_latency_seconds", "Length of an attempt.", self._latency)
        yield _family("sidecar_ttft_seconds", "Time to the first content of a stream.", self._ttft)

    def _named(self) -> Mapping[tuple[str, str], int]:
        """Attempts by name: backends may share one, and a series must not be told twice."""
        named: Counter[tuple[str, str]] = Counter()
        for (backend, status), count in self._attempts.items():
            named[self._names(backend), status] += count
        return named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application of the metrics port."""
        if scope["type"] != "http":
            return
        is_ours = scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD")
        body = self.text() if is_ours else b"Metrics are at /metrics.\n"
        kind = CONTENT_TYPE_LATEST if is_ours else "text/plain; charset=utf-8"
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200 if is_ours else 404, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _class(call: Call) -> str:
    """`2xx` to `5xx`, or how it failed where there was no answer."""
    return f"{call.status // 100}xx" if call.status else call.outcome.value


def _family(name: str, text: str, per_pool: Mapping[Pool, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=("pool",))
    for pool, histogram in per_pool.items():
        family.add_metric((pool.value,), histogram.cumulated(), histogram.total)
    return family
