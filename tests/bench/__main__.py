"""`make bench`: what the desk costs, measured on a real one; nothing here asserts a time.

    python -m tests.bench [--items 10] [--flood 200]
    python -m tests.bench --only-deliveries --items 20      # a minute to open the desk, two seconds an item
    python -m tests.bench --only-heartbeats
    python -m tests.bench --only-telegram

Figures are medians; programs are timed in interleaved rounds beside a bare interpreter, because the
machine may be busy with other work.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deployments.supervisor import ROOT
from tests.bench.desk import measure_desk
from tests.bench.heartbeats import measure_heartbeats
from tests.bench.telegram import measure_telegram

ROUNDS = 9
DEMO_PATIENCE = 300
AGENTS, FLOWS = 1000, 100
"""Agents of a round, and agents that are swept as flows."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--items", type=int, default=10, help="items that travel one after another")
    parser.add_argument("--flood", type=int, default=200, help="items in flight at the same time")
    parser.add_argument("--no-demo", action="store_true", help="leave the demo out")
    parser.add_argument("--only-deliveries", action="store_true", help="delivery -> stage started, no more")
    parser.add_argument("--only-heartbeats", action="store_true", help="rounds of many agents, no more")
    parser.add_argument("--only-telegram", action="store_true", help="32 bots in one listener, no more")
    wanted = parser.parse_args()
    console = Console()
    if wanted.only_heartbeats:
        console.print(_table(measure_heartbeats(AGENTS, FLOWS)))
        return 0
    if wanted.only_telegram:
        console.print(_table(_telegram()))
        return 0
    rows = [] if wanted.only_deliveries else [*_help_time()]
    if not (wanted.no_demo or wanted.only_deliveries):
        rows.append(_demo_time())
    with tempfile.TemporaryDirectory(prefix="quarterdeck-bench-") as folder:
        rows += asyncio.run(
            measure_desk(Path(folder), wanted.items, wanted.flood, only_deliveries=wanted.only_deliveries)
        )
    if not wanted.only_deliveries:
        rows += measure_heartbeats(AGENTS, FLOWS)
        rows += _telegram()
    console.print(_table(rows))
    return 0


def _telegram() -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory(prefix="quarterdeck-bench-") as folder:
        return asyncio.run(measure_telegram(Path(folder)))


def _table(rows: list[tuple[str, str, str]]) -> Table:
    table = Table("measure", "target", "measured")
    for row in rows:
        table.add_row(*row)
    return table


def _help_time() -> list[tuple[str, str, str]]:
    commands = {
        "help": [sys.executable, "-m", "deployments.cli", "--help"],
        "bare": [sys.executable, "-c", "pass"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            times[name].append(time.perf_counter() - began)
    middle = {name: statistics.median(values) for name, values in times.items()}
    said = f"{middle['help']:.2f} s ({middle['help'] / middle['bare']:.1f} times a bare interpreter)"
    return [("quarterdeck --help", "<= 0.3 s", said)]


def _demo_time() -> tuple[str, str, str]:
    """From the command to the first stage change, as somebody at the terminal sees it."""
    with tempfile.TemporaryDirectory(prefix="quarterdeck-demo-") as home:
        began = time.perf_counter()
        demo = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "demo"],
            cwd=ROOT,
            env=os.environ | {"QUARTERDECK_HOME": home},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert demo.stdout is not None
        first = 0.0
        for line in demo.stdout:
            if "🔄" in line and not first:
                first = time.perf_counter() - began
        demo.wait(DEMO_PATIENCE)
        whole = time.perf_counter() - began
    said = f"{first:.0f} s (whole demo {whole:.0f} s, exit code {demo.returncode})"
    return ("demo until the first stage change", "<= 60 s", said)


if __name__ == "__main__":
    sys.exit(main())
