"""`make bench-router`: what the router costs beside its peers; nothing here asserts a time.

    python -m tests.bench.router [--rounds 5] [--seconds 3] [--quick] [--json] [--only NAME ...]

Each gateway is one process alone on the first CPU; the provider and the load are on the last. Rounds are
interleaved in random order, figures are medians. Other work on the machine moves times by a factor, CPU
per request by 10 to 20 %: that is the figure to trust. The exit code is 0 even where a limit is missed.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deployments.supervisor import ROOT
from tests.bench import router_ours as ours
from tests.bench import router_subjects as subjects
from tests.bench.router_figures import Results, Row, Sample, number, router_rows
from tests.bench.router_load import Found, Plan
from tests.bench.router_subjects import Launch, NotMeasured, Places, Running, free_port

SCENES: dict[str, tuple[int, str]] = {
    "plain 1": (1, "plain"),
    "plain 32": (32, "plain"),
    "burst 32": (32, "burst"),
    "paced 1": (1, "paced"),
    "paced 32": (32, "paced"),
}
"""Connections, and what they ask for: a plain answer, a stream back to back, one at a model's pace."""

WIDTH = 120
COLUMNS = (
    "CPU ms, 1",
    "CPU ms, 32",
    "added ms, 1",
    "CPU ms/stream",
    "chunks/s",
    "first +ms, 1",
    "first +ms, 32",
    "errors",
)
_SLOW = ("plain 32", "burst 32")
LAUNCHES: dict[str, Callable[[int, Places, Path], Launch]] = {
    "LiteLLM proxy": subjects.litellm_proxy,
    "Portkey": subjects.portkey,
    "bare relay": subjects.bare_relay,
    "bare acompletion": subjects.bare_acompletion,
}
PRIORITY = -15
"""How nice the bench and what it starts are, when they are to come before other programs."""

ENOUGH = {"plain": 64, "burst": 64, "paced": 16}
"""Answers a window needs before it may end: a slow gateway gets a longer one. Paced streams take 0.5 s."""

WANTED: dict[str, tuple[str, ...]] = {
    "direct": tuple(SCENES),
    "router": tuple(SCENES),
    "bare relay": tuple(SCENES),
    "Portkey": tuple(SCENES),
    "LiteLLM proxy": ("plain 1", *_SLOW),
    "bare acompletion": _SLOW,
    "router, LiteLLM way": _SLOW,
}
"""Who is measured in which scenes: where a limit says so, or where it explains one."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.router", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="windows per subject and scene")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a window")
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--priority", action="store_true", help="before other programs (needs root)")
    parser.add_argument("--json", action="store_true", help="print figures for programs")
    parser.add_argument("--only", nargs="*", choices=WANTED, help="measure only these")
    wanted = parser.parse_args()
    if wanted.quick:
        wanted.rounds, wanted.seconds = 1, 1.0
    if wanted.priority:
        os.nice(PRIORITY)
    names = set(wanted.only or WANTED) | {"direct"}
    with tempfile.TemporaryDirectory(prefix="quarterdeck-bench-") as folder:
        bench = Bench(Path(folder), wanted.seconds)
        try:
            bench.open(names)
            bench.measure(wanted.rounds)
            _print(bench, as_json=wanted.json)
        finally:
            bench.close()
    return 0


class Bench:
    """Everything that is measured, running side by side."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._stack = ExitStack()
        self.running: dict[str, Running] = {}
        self.left_out: dict[str, str] = {}
        self.samples: list[Sample] = []

    def open(self, names: set[str]) -> None:
        """Start the provider, then every subject; who does not start is left out, with the reason."""
        port = free_port()
        self.places = Places.here(port)
        self._keep(subjects.mock(self.places, port, self._folder))
        for name in [name for name in WANTED if name in names - {"direct"}]:
            tell(f"start {name}")
            try:
                self._keep(self._start(name))
            except NotMeasured as why:
                self.left_out[name] = str(why)
                tell(f"{name}: not measured: {why}")

    def _start(self, name: str) -> Running:
        if name in LAUNCHES:
            port = free_port()
            return subjects.start(
                LAUNCHES[name](port, self.places, self._folder), port, self.places, self._folder
            )
        return ours.start(name, self.places, self._folder)

    def _keep(self, running: Running) -> None:
        self._stack.callback(running.stop)
        self.running[running.name] = running

    def measure(self, rounds: int) -> None:
        """Every subject in every scene it is wanted in, in a new order each round."""
        cells = [(name, scene) for name in self.running for scene in WANTED[name]]
        for round_ in range(rounds):
            random.shuffle(cells)
            for name, scene in cells:
                if name in self.left_out:
                    continue
                try:
                    self.samples.append(self._window(name, scene))
                    tell(f"round {round_ + 1}: {_line(self.samples[-1])}")
                except NotMeasured as why:
                    self.left_out[name] = str(why)
                    tell(f"{name}: given up: {why}")

    def _window(self, name: str, scene: str) -> Sample:
        connections, kind = SCENES[scene]
        running = self.running[name]
        plan = Plan(
            port=running.port,
            headers=dict(running.headers),
            connections=connections,
            seconds=self._seconds,
            mix={kind: 1.0},
            watched=running.watched,
            database=running.database,
            enough=ENOUGH[kind],
            cpu=self.places.gateway,
        )
        found = load(plan, self.places.load)
        if found.errors:
            tell(f"{name}, {scene}: {found.errors} errors, first: {found.complaint}")
        kept = {key: value for key, value in asdict(found).items() if key in Sample.__dataclass_fields__}
        return Sample(subject=name, scene=scene, **kept)

    def resident(self) -> tuple[float, float] | None:
        """MB of the router and its helpers after all that load; its LiteLLM way is another router here."""
        return ours.resident(self.running["router"]) if "router" in self.running else None

    def close(self) -> None:
        """Stop everything."""
        self._stack.close()


def load(plan: Plan, cpu: int) -> Found:
    """Run the load in a process of its own on `cpu`. Raises `NotMeasured` when it cannot go on."""
    command = ["taskset", "-c", str(cpu), sys.executable, "-m", "tests.bench.router_load"]
    given = json.dumps(asdict(plan))
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise NotMeasured(f"the load broke off: {done.stderr.strip()[-200:]}")
    return Found(**json.loads(done.stdout))


def tell(line: str) -> None:
    """Progress, beside the table."""
    print(f"  {line}", file=sys.stderr, flush=True)


def _line(sample: Sample) -> str:
    each = 1000 * sample.cpu / sample.answers if sample.answers else 0
    rate = sample.answers / sample.seconds
    return f"{sample.subject}, {sample.scene}: {each:.3f} ms CPU each, {rate:,.0f} answers/s"


def _print(bench: Bench, as_json: bool) -> None:
    results = Results(bench.samples)
    rows = router_rows(results, bench.resident())
    if as_json:
        print(json.dumps(_figures(bench, rows), indent=2))
        return
    console = Console(width=WIDTH)
    console.print(_peers(results, [name for name in WANTED if name in bench.running]))
    for name, why in bench.left_out.items():
        console.print(f"{name}: not measured: {why}", markup=False)
    console.print(limits_table(rows))
    console.print(verdict(rows))
    console.print(f"Other programs used {results.other():.0%} of the gateways' CPU meanwhile.")


def _figures(bench: Bench, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
        "other": Results(bench.samples).other(),
        "samples": [asdict(sample) for sample in bench.samples],
        "not_measured": bench.left_out,
    }


def _peers(results: Results, names: Sequence[str]) -> Table:
    table = Table("medians", *COLUMNS)
    for name in names:
        figures = [
            results.cpu_ms(name, "plain 1"),
            results.cpu_ms(name, "plain 32"),
            results.added_ms(name, "plain 1"),
            results.cpu_ms(name, "burst 32"),
            results.events_per_second(name, "burst 32"),
            results.added_ms(name, "paced 1", first=True),
            results.added_ms(name, "paced 32", first=True),
        ]
        said = ["" if figure is None else number(figure) for figure in figures]
        table.add_row(name, *said, str(results.errors(name)))
    return table


def limits_table(rows: Sequence[Row]) -> Table:
    """The table of limits and verdicts."""
    table = Table("measure", "limit", "measured", "")
    for row in rows:
        table.add_row(row.measure, row.limit, row.measured, row.verdict)
    return table


def verdict(rows: Sequence[Row]) -> str:
    """One line: what was missed, what was not measured."""
    missed = [row.measure for row in rows if row.ok is False]
    unknown = [row.measure for row in rows if row.ok is None and row.limit]
    said = f"MISSED: {', '.join(missed)}." if missed else "No limit that was measured is missed."
    return said + (f" Not measured: {', '.join(unknown)}." if unknown else "")


if __name__ == "__main__":
    sys.exit(main())
