"""`quarterdeck client …`: who may make model calls."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.commands import terminal
from deployments.commands.router_admin import Which, asking, getting, id_of, said
from deployments.commands.terminal import AsJson

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

app = typer.Typer(help="Who may call the router: keys, whom calls are booked to, budgets.")


@app.command("list")
def list_clients(as_json: AsJson = False) -> None:
    """List who may call, with budgets and what they used today."""
    found = asking(getting("/clients"))

    def people(console: "Console") -> None:
        rows = [
            (c["name"], c["agent"], "yes" if c["enabled"] else "no", c["tokens_per_day"], c["cost_per_day"])
            for c in found
        ]
        terminal.table(
            console,
            ("Client", "Agent", "Enabled", "Tokens a day", "USD a day"),
            rows,
            "There is no client yet; `quarterdeck client add` makes one.",
        )

    terminal.show({"items": found, "next_cursor": None}, as_json, people)


@app.command("add")
def add_client(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    agent: Annotated[str, typer.Option(help="Agent that its calls are booked to.")] = "",
    tokens_per_day: Annotated[int | None, typer.Option(min=0, help="Budget of a UTC day.")] = None,
    usd_per_day: Annotated[float | None, typer.Option(min=0, help="Budget of a UTC day.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key for somebody who calls; it is shown only this once."""
    wanted = {
        "name": name,
        "agent": agent,
        "tokens_per_day": tokens_per_day,
        "cost_per_day": usd_per_day,
    }

    async def added(admin: "httpx.AsyncClient") -> Any:
        return said(await admin.post("/clients", json=wanted))

    made = asking(added)
    terminal.show(made, as_json, lambda console: console.print(f"Key of {name}, shown once: {made['key']}"))


@app.command("remove")
def remove_client(which: Which, as_json: AsJson = False) -> None:
    """Take somebody's key away; what was booked stays."""

    async def removed(admin: "httpx.AsyncClient") -> Any:
        return said(await admin.delete(f"/clients/{await id_of(admin, '/clients', which)}"))

    done = asking(removed)
    terminal.show(done, as_json, lambda console: console.print(f"Removed {which}."))
