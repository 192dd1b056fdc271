"""`quarterdeck webhook`: what other programs sent us, and what became of it."""

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson, Cursor, Limit

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.pipeline.deliveries import DeliveryDetail

app = typer.Typer(help="Deliveries of other programs, and what became of them.")

Number = Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="Its number in the list.")]
Source = Annotated[str, typer.Argument(help="One of: plane, gitea, openclaw, generic.")]
Address = Annotated[
    str, typer.Option(help="Address of the web process; unset = QUARTERDECK_PUBLIC_URL, else this machine's.")
]
OfSource = Annotated[
    Literal["plane", "gitea", "openclaw", "generic"] | None,
    typer.Option(help="Only of plane, gitea, openclaw or generic."),
]
Settled = Literal["waiting", "done", "ignored", "failed"]


@app.callback()
def _group() -> None:
    """Deliveries of other programs, and what became of them."""


@app.command("list")
def list_deliveries(
    source: OfSource = None,
    state: Annotated[Settled | None, typer.Option(help="Only in this state.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List deliveries, newest first, each with what became of it."""
    from quarterdeck.kernel.inbox import Standing

    wanted = Standing(state) if state else None
    page = terminal.in_house(
        lambda house: house.deliveries.page(terminal.owner(), source, wanted, cursor, limit)
    )

    def people(console: "Console") -> None:
        rows = [(d.id, d.received_at, d.source, d.event, d.state.value, d.outcome) for d in page.items]
        head = ("No.", "Received", "Source", "Event", "State", "Outcome")
        terminal.table(console, head, rows, "No deliveries.")
        if page.next_cursor:
            console.print(f"There are more: --cursor {page.next_cursor}")

    terminal.show(page, as_json, people)


@app.command()
def show(number: Number, as_json: AsJson = False) -> None:
    """Show a delivery with its content; secrets in it are not shown."""
    found = terminal.in_house(lambda house: house.deliveries.show(terminal.owner(), number))
    terminal.show(found, as_json, lambda console: _describe(console, found))


@app.command()
def replay(number: Number, as_json: AsJson = False) -> None:
    """Have a delivery worked on again as it came."""
    found = terminal.in_house(lambda house: house.deliveries.replay(terminal.owner(), number))
    terminal.show(found, as_json, lambda console: console.print(f"Delivery {found.id} waits for the desk."))


@app.command()
def test(source: Source, url: Address = "", as_json: AsJson = False) -> None:
    """Ring at the desk's door as a source would, and see what comes of it; exit code 1 when nothing does."""
    from deployments import home

    settings = terminal.here()
    where = url or settings.public_url or home.web_address(settings)
    card = terminal.in_house(
        lambda house: house.deliveries.test(terminal.owner(), source, where, house.database.clock.now())
    )
    terminal.show(card, as_json, lambda console: console.print(f"{where} let it in. {card.outcome}"))


def _describe(console: "Console", found: "DeliveryDetail") -> None:
    terminal.facts(
        console,
        [
            ("Number", found.id),
            ("Source", found.source),
            ("Event", found.event),
            ("State", found.state.value),
            ("Outcome", found.outcome),
            ("Received", found.received_at),
            ("Attempts", found.attempts),
            ("Next try", found.next_try_at),
            ("Finished", found.finished_at),
            ("Sender's id", found.delivery_id),
            *found.headers.items(),
        ],
    )
    body = "(forgotten)" if found.body is None else json.dumps(found.body, ensure_ascii=False, indent=2)
    console.print(body, markup=False)
