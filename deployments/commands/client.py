"""`quarterdeck client …`: who may make model calls."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.commands import terminal
from deployments.commands.router_admin import Which, asking, changed, getting, id_of, said
from deployments.commands.terminal import AsJson
from quarterdeck.kernel.errors import Invalid

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
            (
                *(c["name"], c["agent"], "yes" if c["enabled"] else "no"),
                *(c["tokens_today"], c["tokens_per_day"], f"{c['cost_today']:.4f}", c["cost_per_day"]),
            )
            for c in found
        ]
        terminal.table(
            console,
            ("Client", "Agent", "Enabled", "Tokens today", "of", "USD today", "of"),
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


@app.command()
def edit(
    which: Which,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    agent: Annotated[str | None, typer.Option(help="Agent that its calls are booked to; '' = none.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=0, help="Budget of a UTC day.")] = None,
    usd_per_day: Annotated[float | None, typer.Option(min=0, help="Budget of a UTC day.")] = None,
    no_token_budget: Annotated[bool, typer.Option("--no-token-budget", help="Any number of tokens.")] = False,
    no_usd_budget: Annotated[bool, typer.Option("--no-usd-budget", help="Any amount of money.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change somebody's name, agent or budgets; what is not said stays."""
    said_so = {"name": name, "agent": agent, "tokens_per_day": tokens_per_day, "cost_per_day": usd_per_day}
    values: dict[str, Any] = {field: value for field, value in said_so.items() if value is not None}
    for field, is_free in (("tokens_per_day", no_token_budget), ("cost_per_day", no_usd_budget)):
        if is_free and field in values:
            raise Invalid("A budget and none at the same time.", "Say one of both.", field=field)
        values |= {field: None} if is_free else {}
    card = changed("/clients", which, values)
    terminal.show(card, as_json, lambda console: console.print(f"Changed {card['name']}."))


@app.command()
def enable(which: Which, as_json: AsJson = False) -> None:
    """Let somebody's key in again."""
    card = changed("/clients", which, {"enabled": True})
    terminal.show(card, as_json, lambda console: console.print(f"{card['name']} may call."))


@app.command()
def disable(which: Which, as_json: AsJson = False) -> None:
    """Refuse somebody's key until it is enabled again."""
    card = changed("/clients", which, {"enabled": False})
    terminal.show(card, as_json, lambda console: console.print(f"{card['name']} may not call."))


@app.command()
def renew(which: Which, as_json: AsJson = False) -> None:
    """Make somebody another key, shown only this once; the former one is refused from now on."""

    async def renewed(admin: "httpx.AsyncClient") -> Any:
        return said(await admin.post(f"/clients/{await id_of(admin, '/clients', which)}/key"))

    card = asking(renewed)
    shown = f"Key of {card['name']}, shown once: {card['key']}"
    terminal.show(card, as_json, lambda console: console.print(shown))


@app.command("remove")
def remove_client(which: Which, as_json: AsJson = False) -> None:
    """Take somebody's key away; what was booked stays."""

    async def removed(admin: "httpx.AsyncClient") -> Any:
        return said(await admin.delete(f"/clients/{await id_of(admin, '/clients', which)}"))

    done = asking(removed)
    terminal.show(done, as_json, lambda console: console.print(f"Removed {which}."))
