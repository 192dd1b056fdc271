"""`quarterdeck heartbeat AGENT` and what belongs to it."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from deployments.commands import terminal
from deployments.commands.terminal import AsJson
from quarterdeck.kernel.words import counted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rich.console import Console

    from quarterdeck.heartbeat.cards import Breaker
    from quarterdeck.house import House


class AgentFirst(TyperGroup):
    """`heartbeat AGENT` is short for `heartbeat check AGENT`; with `--health`: `heartbeat health AGENT`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            asks_health = "--health" in args
            args = [word for word in args if word != "--health"] if asks_health else args
            args = ["health" if asks_health else "check", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    help="Heartbeats: look for the work of an agent, and bring on what stands still.", cls=AgentFirst
)

Agent = Annotated[str, typer.Argument(help="For example developer.")]


Work = Annotated[str, typer.Argument(help="For example multica:ENG-12, or the key of its item.")]


@app.command()
def check(agent: Agent, as_json: AsJson = False) -> None:
    """Sweep an agent now: find its work, start it, bring on what stands still. `check` may be left out."""
    # OpenClaw says to each command of a turn that it is one
    cause = "openclaw" if os.environ.get("OPENCLAW_SHELL") else "by hand"
    swept = terminal.in_house(lambda house: house.sweeper.sweep(agent, cause))

    def people(console: "Console") -> None:
        console.print(f"{swept.agent}: {swept.result.value}", style="bold", markup=False)
        rows = [
            (name, s.state, s.found, s.todo, s.in_progress, s.own, s.detail)
            for name, s in swept.sources.items()
        ]
        head = ("Source", "State", "Open", "To do", "In progress", "Own", "Why")
        terminal.table(console, head, rows, "No source is connected.")
        for line in (line for s in swept.sources.values() for line in s.first):
            console.print(f"  {line}", markup=False, soft_wrap=True)
        terminal.facts(
            console,
            [
                ("Found", swept.found),
                ("Started", swept.started),
                ("Suspected", swept.suspected),
                ("Stuck", swept.confirmed),
                ("Warnings", swept.warnings),
                ("Detail", swept.detail),
            ],
        )

    terminal.show(swept, as_json, people)
    raise typer.Exit(1 if swept.result.value == "failed" else 0)


@app.command("list")
def list_heartbeats(as_json: AsJson = False) -> None:
    """List the heartbeats: when each agent was swept and is swept next, and what is held back."""
    cards = terminal.in_house(lambda house: house.sweeper.overview())

    def people(console: "Console") -> None:
        head = ("Agent", "Cron", "Zone", "By", "Last", "Next", "Held back")
        rows = [
            (
                *(c.agent, c.cron, c.zone, c.scheduler),
                *(terminal.clock(c.last_finished), terminal.clock(c.next_at)),
                [breaker.name for breaker in c.breakers],
            )
            for c in cards
        ]
        terminal.table(console, head, rows, "No agent has a `heartbeat:` in the roster.")
        for card in cards:
            for work in card.waiting:
                line = (
                    f"Waits for a yes: {work.title}\n  quarterdeck heartbeat allow {card.agent} {work.name}"
                )
                console.print(line, markup=False, soft_wrap=True)

    terminal.show({"items": cards, "next_cursor": None}, as_json, people)


@app.command()
def unblock(agent: Agent, work: Work, as_json: AsJson = False) -> None:
    """Let work go on that a breaker, timeouts or rounds hold back."""
    _told(lambda house: house.sweeper.unblock(terminal.owner(), agent, work), "goes on", as_json)


@app.command()
def limit(
    agent: Agent,
    work: Work,
    rounds: Annotated[int, typer.Argument(min=1, max=100_000, help="How many rounds it may take.")],
    as_json: AsJson = False,
) -> None:
    """Give a piece of work more rounds."""
    _told(
        lambda house: house.sweeper.raise_limit(terminal.owner(), agent, work, rounds),
        f"may take {counted(rounds, 'round')}",
        as_json,
    )


@app.command()
def allow(agent: Agent, work: Work, as_json: AsJson = False) -> None:
    """Say yes to work that involves money or outside resources."""
    _told(lambda house: house.sweeper.allow(terminal.owner(), agent, work), "may begin", as_json)


def _told(do: "Callable[[House], Awaitable[Breaker]]", what: str, as_json: bool) -> None:
    done = terminal.in_house(do)
    terminal.show(done, as_json, lambda console: console.print(f"{done.name} {what}.", markup=False))
