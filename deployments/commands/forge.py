"""`quarterdeck forge …`: the code host."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.forge.gitea_hooks import Installed
    from quarterdeck.house import House
    from quarterdeck.pipeline.gitea_upkeep import GiteaUpkeep, Trial

app = typer.Typer(help="The code host: Gitea and the desk's way to it; tests that run again.")

Project = Annotated[str, typer.Argument(help="Key of a project; without one, all that have code in Gitea.")]


@app.callback()
def _group() -> None:
    """The code host: Gitea and the desk's way to it; tests that run again."""


@app.command()
def test(project: Project = "", as_json: AsJson = False) -> None:
    """Try the connection to Gitea now; exit code 1 when something is missing."""
    trial = terminal.in_house(lambda house: upkeep(house).test(project))
    terminal.show(asdict(trial), as_json, lambda console: _describe(console, trial))
    raise typer.Exit(0 if trial.ok else 1)


@app.command("install-hooks")
def install_hooks(project: Project = "", as_json: AsJson = False) -> None:
    """Let Gitea tell the desk what happens: create or renew its hook in each repository."""
    done: list[Installed] = terminal.in_house(lambda house: upkeep(house).install_hooks(project))

    def people(console: "Console") -> None:
        for one in done:
            console.print(f"{one.repository}: {'renewed' if one.replaced else 'created'} hook {one.hook}.")

    items = [asdict(one) for one in done]
    terminal.show({"items": items, "next_cursor": None}, as_json, people)


@app.command()
def rerun(
    project: Annotated[str, typer.Argument(help="Key of a project that is not in Gitea.")],
    what: Annotated[
        str, typer.Argument(help="A branch, or the whole id of a commit; the default branch if not said.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Run the tests of a commit again, after they failed without its fault."""
    begun = terminal.in_house(lambda house: house.retests.begin(terminal.owner(), project, what))

    def people(console: "Console") -> None:
        console.print(f"The desk tests {begun.commit} of {begun.repository} again.")

    terminal.show(begun, as_json, people)


def upkeep(house: "House") -> "GiteaUpkeep":
    """Of an open house."""
    from quarterdeck.pipeline.gitea_upkeep import GiteaUpkeep

    return GiteaUpkeep(house.database, house.connections, house.forge.gitea, house.settings.public_url)


def _describe(console: "Console", trial: "Trial") -> None:
    console.print(f"Gitea {trial.version} at {trial.url}; we are {trial.login}.")
    rows = [
        (sight.repository, "archived" if sight.is_archived else "may push" if sight.may_push else "read only",
         "installed" if sight.has_hook else "none, or not visible to us")
        for sight in trial.repositories
    ]  # fmt: skip
    terminal.table(console, ("Repository", "Rights", "Hook"), rows, "No project has its code in Gitea.")
