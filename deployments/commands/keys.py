"""`quarterdeck keys …`: the master keys under which secrets are kept."""

from typing import TYPE_CHECKING, Any

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson
from quarterdeck.kernel.words import counted

if TYPE_CHECKING:
    from quarterdeck.house import House

app = typer.Typer(help="Master keys under which secrets are kept.")


@app.callback()
def _group() -> None:
    """Master keys under which secrets are kept."""


@app.command()
def rotate(as_json: AsJson = False) -> None:
    """Make a new master key and seal every secret with it; old keys stay readable."""

    async def rotated(house: "House") -> dict[str, Any]:
        key = house.keyring.rotate()
        return {"key": key, "sealed_anew": await house.keyring.reencrypt()}

    done = terminal.in_house(rotated)
    sealed = counted(sum(done["sealed_anew"].values()), "secret")
    terminal.show(
        done,
        as_json,
        lambda console: console.print(f"New master key {done['key']}; {sealed} sealed anew."),
    )
