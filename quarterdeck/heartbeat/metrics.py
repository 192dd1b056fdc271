"""What Prometheus is told of heartbeats: how their sweeps ended, what was skipped, when the last one ended.

The counts stand in the agents' rows, so they outlive processes, and the sweeps whose rows are forgotten.
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from quarterdeck.heartbeat.model import Pulse, Result

ENDS = tuple(result.value for result in Result if result is not Result.RUNNING)


def families(pulses: Iterable[Pulse]) -> Iterator[Metric]:
    """One sample per agent, and per way in which a sweep can end."""
    swept = CounterMetricFamily(
        "quarterdeck_sweeps", "Sweeps of an agent, by how they ended.", labels=("agent", "result")
    )
    skipped = CounterMetricFamily(
        "quarterdeck_sweeps_skipped", "Ticks that came while a sweep went on.", labels=("agent",)
    )
    last = GaugeMetricFamily(
        "quarterdeck_sweep_last_finished_timestamp_seconds",
        "When the last sweep ended well, in seconds since 1970.",
        labels=("agent",),
    )
    for pulse in pulses:
        for end in ENDS:
            swept.add_metric((pulse.agent, end), pulse.swept.get(end, 0))
        skipped.add_metric((pulse.agent,), pulse.skipped)
        if pulse.last_finished is not None:
            last.add_metric((pulse.agent,), pulse.last_finished.timestamp())
    return iter((swept, skipped, last))
