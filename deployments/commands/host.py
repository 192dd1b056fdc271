"""`quarterdeck host …`: hosts that have agents at work, and those that will not come back."""

from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson
from quarterdeck.kernel.errors import Invalid

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.pipeline.hosts import HostCard

app = typer.Typer(help="Hosts: who has agents at work, and who is gone for good.")

Host = Annotated[str, typer.Argument(metavar="HOST", help="Its name, as `quarterdeck host list` says it.")]


@app.command("list")
def list_hosts(as_json: AsJson = False) -> None:
    """List the hosts that have open runs: whose, since when, and whether anybody looks after them."""
    cards = terminal.in_house(lambda house: house.hosts.all())
    terminal.show({"items": cards, "next_cursor": None}, as_json, lambda console: _describe(console, cards))


@app.command()
def gone(
    host: Host,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for programs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Declare a host gone for good: its open runs end as lost, and their items go on elsewhere.

    Shows first what would end, and asks. Should the host come back, what it tells of them counts no more.
    """
    if not yes:
        _must_be_meant(host, as_json)
    done = terminal.in_house(lambda house: house.hosts.declare_gone(terminal.owner(), host))

    def people(console: "Console") -> None:
        for run in done.runs:
            console.print(f"Run {run.id} of {run.agent} on {run.item} has ended: {run.error}.", markup=False)

    terminal.show(done, as_json, people)


def _must_be_meant(host: str, as_json: bool) -> None:
    """Show what would end, and ask a person. Raises `Invalid` where there is none."""
    card = terminal.in_house(lambda house: house.hosts.other(host))
    if as_json:
        raise Invalid("With --json nobody can be asked.", "Say --yes if it is meant.", code="usage")
    terminal.show(card, as_json, lambda console: _describe(console, [card]))
    if card.silent < card.runs:
        print("A desk may still look after some of them: see that it is closed, and its agents with it.")
    typer.confirm(f"Is {host} gone for good? Its open runs end as lost.", abort=True)


def _describe(console: "Console", cards: "list[HostCard]") -> None:
    rows = [
        (
            f"{card.host} (this host)" if card.is_here else card.host,
            card.runs,
            f"{card.silent} of them" if card.silent else "no",
            card.agents,
            card.items,
            card.since,
        )
        for card in cards
    ]
    head = ("Host", "Open runs", "Silent", "Agents", "Items", "Since")
    terminal.table(console, head, rows, "No run is open on any host.")
