"""`quarterdeck notify | outbox | dead-letters`: messages and what became of them."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson, Cursor, Limit
from quarterdeck.kernel.errors import Conflict, Invalid
from quarterdeck.kernel.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.house import House
    from quarterdeck.kernel.paging import Page
    from quarterdeck.notify.model import Letter

notify = typer.Typer(help="Channels that tell people what happens.")
outbox = typer.Typer(help="All messages and where they stand.")
dead_letters = typer.Typer(help="Messages that could not be delivered.")


@notify.callback()
def _group() -> None:
    """Channels that tell people what happens."""


@notify.command()
def test(
    channel: Annotated[
        str | None, typer.Argument(help="log or telegram; without it telegram where it is connected.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a test message now; exit code 1 when it did not arrive."""
    trial = terminal.in_house(lambda house: house.notify.test(channel))
    terminal.show(trial, as_json, lambda console: console.print(f"{trial.channel}: {trial.detail}"))
    raise typer.Exit(0 if trial.ok else 1)


@outbox.command("list")
def list_outbox(
    item: Annotated[str | None, typer.Option(help="Only messages about this item.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List messages, newest first."""
    page = terminal.in_house(lambda house: house.notify.messages(item, cursor, limit))
    _list(page, as_json)


Which = Annotated[
    int | None, typer.Argument(metavar="MESSAGE", min=1, max=2**63 - 1, help="Its number in the list.")
]


@outbox.command("resend")
@dead_letters.command("resend")
def resend(
    message: Which = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, in their order.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a dead letter again, or all of them."""

    async def sent(house: "House", number: int) -> "Letter":
        return await house.notify.resend(number, terminal.owner().name)

    _deal_with(_which(message, everything), sent, ("resent", "waits to be sent", "wait to be sent"), as_json)


@dead_letters.command("dismiss")
def dismiss(
    message: Which = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Dismiss a dead letter that nobody misses, or all of them: they are trouble no more."""

    async def dismissed(house: "House", number: int) -> "Letter":
        return await house.notify.dismiss(number, terminal.owner().name)

    words = ("dismissed", "is dismissed", "are dismissed")
    _deal_with(_which(message, everything), dismissed, words, as_json)


def _which(message: int | None, everything: bool) -> int | None:
    """The message that is meant; None = all."""
    if everything == (message is not None):
        raise Invalid("Say which.", "Give a message's number, or --all.", code="usage")
    return message


def _deal_with(
    message: int | None,
    deal: "Callable[[House, int], Awaitable[Letter]]",
    words: tuple[str, str, str],
    as_json: bool,
) -> None:
    """One dead letter, or all; `words`: what JSON calls the count, and what is said of one and of many."""
    name, of_one, of_many = words
    if message is not None:
        letter = terminal.in_house(lambda house: deal(house, message))
        terminal.show(letter, as_json, lambda console: console.print(f"Message {letter.id} {of_one}."))
        return
    done = terminal.in_house(lambda house: _all_dead(house, deal))
    told = f"{counted(done, f'message {of_one}', f'messages {of_many}')}."
    terminal.show({name: done}, as_json, lambda console: console.print(told))


async def _all_dead(house: "House", deal: "Callable[[House, int], Awaitable[Letter]]") -> int:
    """Every letter that is dead now, in their order; how many."""
    page = await house.notify.dead_letters(limit=200)
    numbers = [letter.id for letter in page.items]
    while page.next_cursor:
        page = await house.notify.dead_letters(page.next_cursor, limit=200)
        numbers += [letter.id for letter in page.items]
    done = 0
    for number in sorted(numbers):
        with suppress(Conflict):  # somebody else was first
            await deal(house, number)
            done += 1
    return done


@dead_letters.command("list")
def list_dead_letters(cursor: Cursor = None, limit: Limit = 50, as_json: AsJson = False) -> None:
    """List messages that could not be delivered, newest first, each with its reason."""
    _list(terminal.in_house(lambda house: house.notify.dead_letters(cursor, limit)), as_json)


def _list(page: "Page[Letter]", as_json: bool) -> None:
    def people(console: "Console") -> None:
        rows = [
            (m.id, m.created_at, m.channel, m.state.value + (" (possibly twice)" if m.possibly_twice else ""),
             m.reason, m.text.splitlines()[0] if m.text else "")
            for m in page.items
        ]  # fmt: skip
        terminal.table(console, ("No.", "Made", "Channel", "State", "Reason", "Text"), rows, "No messages.")
        if page.next_cursor:
            console.print(f"There are more: --cursor {page.next_cursor}")

    terminal.show(page, as_json, people)
