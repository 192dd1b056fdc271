"""`quarterdeck demo --heartbeat`: let the week happen, and print what became of it."""

import json
import logging
import time
from collections.abc import Mapping

import structlog
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from deployments.simulation.verdict import Verdict, judged
from deployments.simulation.virtual_time import run
from deployments.simulation.week import Plan, Week
from quarterdeck.kernel.words import counted


async def happened(plan: Plan) -> Verdict:
    """Let it happen, and judge it."""
    week = Week(plan)
    await week.live()
    return judged(week)


def main(console: Console, *, days: float = 7, seed: int = 1, as_json: bool = False) -> int:
    """Show the week. Exit code 0: nothing was forgotten, nothing done twice, no limit exceeded."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    began = time.monotonic()
    if not as_json:
        console.print(f"[bold]{days:g} days of fifteen agents[/], with everything that can go wrong …")
    verdict = run(happened(Plan(seed=seed, days=days)))
    if as_json:
        print(json.dumps(verdict.as_json(), ensure_ascii=False, indent=2))
    else:
        _show(console, verdict, time.monotonic() - began)
    return 1 if verdict.broken else 0


def _show(console: Console, verdict: Verdict, seconds: float) -> None:
    console.print(_injected(verdict.injected))
    console.print(_agents(verdict))
    told = ", ".join(f"{many} {name}" for name, many in sorted(verdict.sweeps.items()))
    console.print(f"{counted(sum(verdict.sweeps.values()), 'sweep')} in {seconds:.0f} s: {told}.")
    for sentence in verdict.broken:
        console.print(f"  [red]{sentence}[/]", markup=True, highlight=False)
    if not verdict.broken:
        console.print(
            "[green]Nothing was forgotten, nothing was done twice, every loop was stopped, no budget, slot "
            "or rate was exceeded, and no agent was swept twice at once.[/]"
        )


def _injected(injected: Mapping[str, int]) -> Table:
    table = Table(title="\nWhat went wrong, on purpose", title_justify="left", box=SIMPLE)
    table.add_column("injected")
    table.add_column("times", justify="right")
    for what, times in injected.items():
        table.add_row(what, str(times))
    return table


COLUMNS = ("found", "started", "recovered", "escalated", "blocked", "forgotten", "doubled")


def _agents(verdict: Verdict) -> Table:
    table = Table(
        title="\nWhat became of the work", title_justify="left", box=SIMPLE, padding=0, show_edge=False
    )
    table.add_column("agent", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in verdict.rows:
        table.add_row(row.agent, *(str(getattr(row, name)) for name in COLUMNS))
    table.add_section()
    table.add_row("all", *(str(getattr(verdict.total, name)) for name in COLUMNS), style="bold")
    return table
