"""`quarterdeck connection …`: what the desk is connected to, without its secrets, and an end to it."""

from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.house import House
    from quarterdeck.kernel.connections import ConnectionInfo

app = typer.Typer(help="Connections to what is outside: where each came from, and an end to it.")

Kind = Annotated[str, typer.Argument(help="Its kind, such as telegram.")]
Name = Annotated[str, typer.Argument(help="Its name.")]


@app.command("list")
def list_connections(as_json: AsJson = False) -> None:
    """List all connections: who entered each, and when; never what is in it."""
    found = terminal.in_house(lambda house: house.connections.all())
    terminal.show(
        {"items": [_shown(info) for info in found], "next_cursor": None},
        as_json,
        lambda console: _describe(console, found),
    )


@app.command()
def forget(kind: Kind, name: Name = "default", as_json: AsJson = False) -> None:
    """Take a connection away, and its secrets with it.

    First delete its block in Prefect and unset its variables: either brings it back.
    """

    async def forgotten(house: "House") -> None:
        async with house.database.command("forget connection") as unit:
            await house.connections.forget(unit, kind, name)

    terminal.in_house(forgotten)
    done = {"kind": kind, "name": name, "status": "forgotten"}
    terminal.show(done, as_json, lambda console: console.print(f"{kind}/{name} is forgotten."))


def _shown(info: "ConnectionInfo") -> dict[str, object]:
    return {"kind": info.kind, "name": info.name, "source": info.source.value, "updated_at": info.updated_at}


def _describe(console: "Console", found: "list[ConnectionInfo]") -> None:
    rows = [(info.kind, info.name, info.source.value, info.updated_at) for info in found]
    empty = "The desk is connected to nothing; blocks in Prefect or variables change that."
    terminal.table(console, ("Kind", "Name", "Entered in", "Changed"), rows, empty)
