"""`quarterdeck heartbeat AGENT` and what belongs to it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from deployments.commands import terminal
from deployments.commands.terminal import AsJson

if TYPE_CHECKING:
    from rich.console import Console


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


@app.command("list")
def list_heartbeats(as_json: AsJson = False) -> None:
    """List the agents that have a heartbeat, and when each is swept."""

    async def look(house: Any) -> Any:
        from quarterdeck.heartbeat.roster import read_all

        return read_all(await house.crew.heartbeat_entries())

    found = terminal.in_house(look)
    rows = [(h.agent, h.category.value, h.cron, h.zone, h.scheduler.value) for h in found.values()]

    def people(console: "Console") -> None:
        head = ("Agent", "Category", "Cron", "Zone", "Scheduler")
        terminal.table(console, head, rows, "No agent has a `heartbeat:` in the roster.")

    items = [dict(zip(("agent", "category", "cron", "zone", "scheduler"), r, strict=True)) for r in rows]
    terminal.show({"items": items, "next_cursor": None}, as_json, people)
