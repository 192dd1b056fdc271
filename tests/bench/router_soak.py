"""`make soak-router`: what the router holds after half an hour at half load.

    python -m tests.bench.router_soak [--minutes 30] [--priority] [--json]

Plain answers, streams, streams at a model's pace and streams that the client leaves are mixed. Half load is
half of what one CPU can do of that mix, measured first. Exit code 0 even where a limit is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments.supervisor import ROOT
from tests.bench import router_ours as ours
from tests.bench import router_subjects as subjects
from tests.bench.router import PRIORITY, WIDTH, limits_table, load, tell, verdict
from tests.bench.router_figures import MB, Reading, soak_rows
from tests.bench.router_load import Plan
from tests.bench.router_subjects import Places, Running, free_port

MIX = {"plain": 0.80, "burst": 0.14, "paced": 0.03, "aborted": 0.03}
CONNECTIONS = 256
"""More than are in flight at half load: paced streams last half a second."""

CALIBRATION = 10.0
EVERY = 5.0
"""Seconds between two readings."""

TELL_EVERY = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.router_soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long")
    parser.add_argument("--priority", action="store_true", help="before other programs (needs root)")
    parser.add_argument("--json", action="store_true", help="print figures for programs")
    wanted = parser.parse_args()
    if wanted.priority:
        os.nice(PRIORITY)
    with tempfile.TemporaryDirectory(prefix="quarterdeck-soak-") as folder, ExitStack() as stack:
        port = free_port()
        places = Places.here(port)
        stack.callback(subjects.mock(places, port, Path(folder)).stop)
        router = ours.start(ours.PLAIN, places, Path(folder))
        stack.callback(router.stop)
        rate = _half_load(router, places)
        tell(f"half load: {rate:,.0f} requests a second for {wanted.minutes:g} minutes")
        found, readings = _soak(router, places, rate, wanted.minutes * 60)
    _print(readings, found, as_json=wanted.json)
    return 0


def _plan(router: Running, places: Places, **more: Any) -> Plan:
    return Plan(
        port=router.port,
        headers=dict(router.headers),
        connections=CONNECTIONS,
        mix=MIX,
        watched=router.watched,
        database=router.database,
        cpu=places.gateway,
        **more,
    )


def _half_load(router: Running, places: Places) -> float:
    """Requests a second that keep the router's CPU half busy, its database's share included."""
    found = load(_plan(router, places, seconds=CALIBRATION), places.load)
    used = (found.cpu + found.database) / (found.requests + found.aborted)
    tell(f"{1000 * used:.3f} ms of CPU a request in this mix: {1 / used:,.0f} a second at most")
    return 0.5 / used


def _soak(
    router: Running, places: Places, rate: float, seconds: float
) -> tuple[dict[str, Any], list[Reading]]:
    plan = _plan(router, places, seconds=seconds, rate=rate)
    command = ["taskset", "-c", str(places.load), sys.executable, "-m", "tests.bench.router_load"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as loading:
        assert loading.stdin is not None and loading.stdout is not None
        loading.stdin.write(json.dumps(asdict(plan)))
        loading.stdin.close()
        readings = list(_readings(router, loading, seconds))
        found: dict[str, Any] = json.loads(loading.stdout.read())
    if found["errors"]:
        tell(f"{found['errors']} errors, first: {found['complaint']}")
    return found, readings


def _readings(router: Running, loading: "subprocess.Popen[str]", seconds: float) -> Iterator[Reading]:
    """While the load goes on: when it has ended its connections are gone, which is no fall of the floor."""
    began = told = time.monotonic()
    while time.monotonic() + EVERY < began + seconds and loading.poll() is None:
        time.sleep(EVERY)
        reading = _read(router, time.monotonic() - began)
        yield reading
        if time.monotonic() >= told + TELL_EVERY:
            told += TELL_EVERY
            tell(_line(reading))


def _read(router: Running, at: float) -> Reading:
    process, *helpers = ours.family(router)
    full = process.memory_full_info()
    return Reading(
        seconds=at,
        resident=full.rss,
        proportional=full.pss,
        helpers=sum(helper.memory_info().rss for helper in helpers),
        sockets=len(process.net_connections("all")),
    )


def _line(reading: Reading) -> str:
    return (
        f"{reading.seconds / 60:5.1f} min: RSS {reading.resident / MB:.1f} MB,"
        f" PSS {reading.proportional / MB:.1f} MB, helpers {reading.helpers / MB:.0f} MB,"
        f" {reading.sockets} sockets"
    )


def _print(readings: Sequence[Reading], found: dict[str, Any], as_json: bool) -> None:
    rows = soak_rows(readings, found)
    if as_json:
        said = [asdict(row) | {"verdict": row.verdict} for row in rows]
        print(json.dumps({"rows": said, "readings": [asdict(one) for one in readings]}, indent=2))
        return
    console = Console(width=WIDTH)
    console.print(limits_table(rows))
    console.print(verdict(rows))


if __name__ == "__main__":
    sys.exit(main())
