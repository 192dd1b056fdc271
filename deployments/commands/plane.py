"""`quarterdeck plane …`: the tracker from which work arrives."""

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson, Limit
from quarterdeck.kernel.errors import Conflict, Invalid

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.house import House
    from quarterdeck.pipeline.mirror_trial import Trial

app = typer.Typer(help="Plane: where work arrives, and where people decide by comment.")


@app.callback()
def _group() -> None:
    """Plane: where work arrives, and where people decide by comment."""


async def tried(house: "House") -> "Trial":
    """Ask Plane now."""
    from quarterdeck.pipeline.mirror_trial import try_plane

    return await try_plane(house.plane, house.mirror, house.crew, house.connections)


@app.command()
def test(as_json: AsJson = False) -> None:
    """Try the connection to Plane now; exit code 1 when something is missing."""
    trial = terminal.in_house(tried)

    def people(console: "Console") -> None:
        projects, followed = ", ".join(trial.projects), ", ".join(trial.followed)
        terminal.facts(console, [("User", trial.user), ("Projects", projects), ("Followed", followed)])
        for problem in trial.problems:
            console.print(problem, markup=False)

    terminal.show(trial, as_json, people)
    raise typer.Exit(0 if trial.ok else 1)


@app.command()
def link(
    project: Annotated[str, typer.Argument(help="Key of the project here.")],
    plane_project: Annotated[str, typer.Argument(help="Identifier (such as ORC) or id of Plane's.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Take in the issues that are open there already, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let a project follow one of Plane's: every new issue becomes a work item."""
    card = terminal.in_house(
        lambda house: house.mirror.link(terminal.owner(), project, plane_project, everything=everything)
    )
    terminal.show(
        card, as_json, lambda console: console.print(f"{card.project_key} follows {card.identifier}.")
    )


@app.command()
def links(as_json: AsJson = False) -> None:
    """List which project follows which, and how far each was read."""
    found = terminal.in_house(lambda house: house.mirror.links())

    def people(console: "Console") -> None:
        rows = [(one.project_key, one.identifier, one.name, one.swept_at) for one in found]
        empty = "No project follows one of Plane's; `quarterdeck plane link` makes one."
        terminal.table(console, ("Project", "Plane", "Name", "Last looked at"), rows, empty)

    terminal.show({"items": found, "next_cursor": None}, as_json, people)


@app.command()
def posts(
    dead: Annotated[bool, typer.Option("--dead", help="Only what Plane refused.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List what Plane is told, newest first, and what became of it."""
    from quarterdeck.forge.tracker_model import PostState

    state = PostState.DEAD if dead else None
    found = terminal.in_house(lambda house: house.posts.page(state, limit))

    def people(console: "Console") -> None:
        rows = [(one.id, one.item_key, one.kind.value, one.state.value, one.reason) for one in found]
        terminal.table(console, ("No.", "Item", "What", "State", "Reason"), rows, "Nothing.")

    terminal.show({"items": found, "next_cursor": None}, as_json, people)


@app.command()
def resend(
    post: Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="Its number in the list.")],
    as_json: AsJson = False,
) -> None:
    """Tell Plane again what it refused."""
    card = terminal.in_house(lambda house: house.posts.resend(post))
    terminal.show(card, as_json, lambda console: console.print(f"Post {card.id} waits to be sent."))


@app.command()
def dismiss(
    post: Annotated[
        int | None, typer.Argument(metavar="POST", min=1, max=2**63 - 1, help="Its number in the list.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Dismiss what Plane refused and nobody misses there, or all of it: it is trouble no more."""
    if everything == (post is not None):
        raise Invalid("Say which.", "Give a post's number, or --all.", code="usage")
    if post is not None:
        card = terminal.in_house(lambda house: house.posts.dismiss(post, terminal.owner().name))
        terminal.show(card, as_json, lambda console: console.print(f"Post {card.id} is dismissed."))
        return
    done = terminal.in_house(_dismiss_all)
    terminal.show({"dismissed": done}, as_json, lambda console: console.print(f"{done} posts are dismissed."))


async def _dismiss_all(house: "House") -> int:
    from quarterdeck.forge.tracker_model import PostState

    done = 0
    while dead := await house.posts.page(PostState.DEAD, 200):
        for post in dead:
            with suppress(Conflict):  # somebody sent it again meanwhile
                await house.posts.dismiss(post.id, terminal.owner().name)
                done += 1
    return done
