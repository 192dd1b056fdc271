"""The arithmetic of the router's bench: medians over rounds, ratios, limits and verdicts. No effects."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MB = 1e6
NOT_MEASURED = "not measured"
PEERS = ("LiteLLM proxy", "Portkey", "bare relay", "bare acompletion")
SOCKET_NOISE = 8
"""Sockets by which the floor may differ: aborted streams close theirs, at any moment some are made anew."""


@dataclass(frozen=True)
class Sample:
    """One window of one subject in one scene.

    Times are in seconds. `whole`: events of the streams that ended in it. `database`: CPU time of the
    gateway's database, not in `cpu`. `other`: share of the gateway's CPU that went to other programs.
    """

    subject: str
    scene: str
    requests: int
    events: int
    whole: int
    errors: int
    seconds: float
    cpu: float
    database: float
    other: float
    median: float
    first_median: float

    @property
    def answers(self) -> float:
        """Requests that were answered; streams count by their events, for the window cuts them."""
        return self.requests * self.events / self.whole if self.whole else float(self.requests)


@dataclass(frozen=True)
class Row:
    """One line of the table. `ok` is None when it is there to be read, or could not be measured."""

    measure: str
    limit: str
    measured: str
    ok: bool | None = None
    value: float | None = None

    @property
    def verdict(self) -> str:
        """What the last column says."""
        return {True: "ok", False: "MISSED", None: ""}[self.ok]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all values do not exceed; 0 when there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


class Results:
    """All samples, asked for medians over rounds."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def of(self, subject: str, scene: str) -> list[Sample]:
        """The windows in which anything was answered."""
        return [s for s in self._samples if (s.subject, s.scene) == (subject, scene) and s.answers]

    def errors(self, subject: str) -> int:
        """Answers that were none, in all scenes."""
        return sum(sample.errors for sample in self._samples if sample.subject == subject)

    def cpu_ms(self, subject: str, scene: str) -> float | None:
        """CPU milliseconds per request (per stream, where streams are asked for)."""
        return _median([1000 * s.cpu / s.answers for s in self.of(subject, scene)])

    def database_ms(self, subject: str, scene: str) -> float | None:
        """CPU milliseconds per request of its database."""
        return _median([1000 * s.database / s.answers for s in self.of(subject, scene)])

    def events_per_second(self, subject: str, scene: str) -> float | None:
        """Events of streams that reached the client, per second."""
        return _median([s.events / s.seconds for s in self.of(subject, scene)])

    def per_second(self, subject: str, scene: str) -> float | None:
        """Requests answered per second."""
        return _median([s.answers / s.seconds for s in self.of(subject, scene)])

    def added_ms(self, subject: str, scene: str, first: bool = False) -> float | None:
        """Median milliseconds until the answer (or its `first` event), less those of asking directly."""
        ours, direct = (self._wait(one, scene, first) for one in (subject, "direct"))
        return None if ours is None or direct is None else 1000 * (ours - direct)

    def _wait(self, subject: str, scene: str, first: bool) -> float | None:
        """Other work moves times by a factor: the half of the windows with less of it counts."""
        quiet = sorted(self.of(subject, scene), key=lambda sample: sample.other)
        quiet = quiet[: (len(quiet) + 1) // 2]
        return _median([s.first_median if first else s.median for s in quiet])

    def other(self) -> float:
        """Share of the gateway's CPU that went to other programs, median."""
        return _median([s.other for s in self._samples if s.subject != "direct"]) or 0.0


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def cheaper(measure: str, times: float, ours: float | None, theirs: float | None, unit: str) -> Row:
    """A cost: `theirs` must be at least so many `times` `ours`."""
    limit = f">= {times:g} x less"
    return _compared(measure, limit, ours, theirs, unit, lambda a, b: b / a, lambda ratio: ratio >= times)


def at_most(measure: str, times: float, ours: float | None, theirs: float | None, unit: str) -> Row:
    """A cost: `ours` must be at most so many `times` `theirs`."""
    limit = f"<= {times:g} x"
    return _compared(measure, limit, ours, theirs, unit, lambda a, b: a / b, lambda ratio: ratio <= times)


def faster(measure: str, times: float, ours: float | None, theirs: float | None, unit: str) -> Row:
    """A throughput: `ours` must be at least so many `times` `theirs`."""
    limit = f">= {times:g} x"
    return _compared(measure, limit, ours, theirs, unit, lambda a, b: a / b, lambda ratio: ratio >= times)


def _compared(
    measure: str,
    limit: str,
    ours: float | None,
    theirs: float | None,
    unit: str,
    divide: Callable[[float, float], float],
    holds: Callable[[float], bool],
) -> Row:
    if not ours or not theirs:
        return Row(measure, limit, NOT_MEASURED)
    ratio = divide(ours, theirs)
    said = f"{ratio:.3g} x ({number(ours)} against {number(theirs)} {unit})"
    return Row(measure, limit, said, holds(ratio), ratio)


def below(measure: str, limit: float, value: float | None, unit: str) -> Row:
    """`value` must not exceed `limit`."""
    if value is None:
        return Row(measure, f"<= {limit:g} {unit}", NOT_MEASURED)
    return Row(measure, f"<= {limit:g} {unit}", f"{number(value)} {unit}", value <= limit, value)


def number(value: float) -> str:
    """Three digits, or whole thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def router_rows(results: Results, resident: tuple[float, float] | None) -> list[Row]:
    """What is promised of the router, and what was found. `resident`: MB of the router, of its helpers."""
    ours, way = "router", "router, LiteLLM way"
    plain = {name: results.cpu_ms(name, "plain 32") for name in (ours, way, *PEERS)}
    burst = {name: results.events_per_second(name, "burst 32") for name in (ours, *PEERS)}
    stream = {name: results.cpu_ms(name, "burst 32") for name in (way, "bare acompletion")}
    firsts = [(n, results.added_ms(ours, f"paced {n}", first=True)) for n in (1, 32)]
    cpu, bare = "CPU per request", "bare acompletion"
    return [
        cheaper(f"{cpu} against LiteLLM proxy", 40, plain[ours], plain["LiteLLM proxy"], "ms"),
        cheaper(f"{cpu} against Portkey", 4, plain[ours], plain["Portkey"], "ms"),
        at_most(f"{cpu} against bare relay", 1.7, plain[ours], plain["bare relay"], "ms"),
        below("added median, 1 connection", 0.5, results.added_ms(ours, "plain 1"), "ms"),
        faster("chunks/s against LiteLLM proxy", 40, burst[ours], burst["LiteLLM proxy"], "a second"),
        *[below(f"first chunk added, {n} paced", 1.0, value, "ms") for n, value in firsts],
        at_most("LiteLLM way against acompletion", 1.1, plain[way], plain[bare], "ms a request"),
        at_most("the same, streamed", 1.1, stream[way], stream[bare], "ms a stream"),
        below("resident, after the load", 120, resident[0] if resident else None, "MB"),
        _beside("PostgreSQL's CPU per request, beside", results.database_ms(ours, "plain 32"), "ms"),
        _beside("its token counter, beside", resident[1] if resident else None, "MB"),
    ]


def _beside(measure: str, value: float | None, unit: str) -> Row:
    """What is told without a limit."""
    return Row(measure, "", NOT_MEASURED if value is None else f"{number(value)} {unit}", value=value)


@dataclass(frozen=True)
class Reading:
    """What the router held at one moment, and its helpers beside it. Memory in bytes."""

    seconds: float
    resident: int
    proportional: int
    sockets: int
    helpers: int = 0


def last_two_thirds(readings: Sequence[Reading]) -> list[Reading]:
    """The readings after the first third of the time, in which caches and pools fill."""
    start = readings[-1].seconds / 3
    return [reading for reading in readings if reading.seconds >= start]


def growth(values: Sequence[float]) -> float:
    """From the median of the first tenth to that of the last: a trend, not two chance readings."""
    tenth = max(1, len(values) // 10)
    return statistics.median(values[-tenth:]) - statistics.median(values[:tenth])


def risen(values: Sequence[int]) -> int:
    """How much the floor rose from the first fifth to the last: pools breathe, a leak lifts the floor."""
    fifth = max(1, len(values) // 5)
    return min(values[-fifth:]) - min(values[:fifth])


def soak_rows(readings: Sequence[Reading], found: Mapping[str, float]) -> list[Row]:
    """The verdict of a soak."""
    later = last_two_thirds(readings)
    span = (later[-1].seconds - later[0].seconds) / 60
    grown = growth([r.proportional for r in later]) / MB
    resident = growth([r.resident for r in later]) / MB
    sockets = [r.sockets for r in later]
    more_sockets = risen(sockets)
    return [
        below(f"memory growth, last {span:.0f} min", 2, resident, "MB"),
        _beside("the same in PSS, which others move", grown, "MB"),
        below("resident, at the most", 120, max(r.resident for r in readings) / MB, "MB"),
        Row(
            "sockets",
            "constant",
            f"floor {more_sockets:+d} ({min(sockets)} to {max(sockets)})",
            abs(more_sockets) <= SOCKET_NOISE,
            more_sockets,
        ),
        _beside("its token counter, at the end", readings[-1].helpers / MB, "MB"),
        Row("requests", "", f"{found['requests']:,.0f}, {found['aborted']:,.0f} more aborted"),
        Row("errors", "0", f"{found['errors']:,.0f}", not found["errors"], found["errors"]),
    ]
