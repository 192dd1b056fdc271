"""What Prometheus is told of heartbeats: how their sweeps ended, what was skipped, when the last one ended.

The counts stand in the agents' rows, so they outlive processes, and the sweeps whose rows are forgotten.
"""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from quarterdeck.heartbeat.model import Pulse, Result

ENDS = tuple(result.value for result in Result if result is not Result.RUNNING)


def families(pulses: Mapping[str, Pulse | None]) -> Iterator[Metric]:
    """By agent: one sample per way in which a sweep can end, 0 also for one that was never swept."""
    swept = CounterMetricFamily(
        "quarterdeck_sweeps", "Sweeps of an agent, by how they ended.", labels=("agent", "result")
    )
    skipped = CounterMetricFamily(
        "quarterdeck_sweeps_skipped", "Ticks that came while a sweep went on.", labels=("agent",)
    )
    last = GaugeMetricFamily(
        "quarterdeck_sweep_last_finished_timestamp_seconds",
        "When the last sweep that did not fail ended, in seconds since 1970; a degraded one counts.",
        labels=("agent",),
    )
    for agent, pulse in pulses.items():
        for end in ENDS:
            swept.add_metric((agent, end), pulse.swept.get(end, 0) if pulse else 0)
        skipped.add_metric((agent,), pulse.skipped if pulse else 0)
        if pulse and pulse.last_finished is not None:
            last.add_metric((agent,), pulse.last_finished.timestamp())
    return iter((swept, skipped, last))
