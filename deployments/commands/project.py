"""`quarterdeck project …`"""

from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson, Cursor, Limit

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.board.cards import ProjectCard

app = typer.Typer(help="Lines of work: each numbers its items and has a pipeline and a repository.")

Key = Annotated[str, typer.Argument(metavar="KEY", help="The project's key, for example ET.")]
Version = Annotated[int | None, typer.Option(help="Refuse if the project has changed since.")]


@app.command()
def create(
    key: Annotated[str, typer.Argument(help="Beginning of its items' keys, for example ET.")],
    name: Annotated[str, typer.Argument(help="What people call it.")],
    pipeline: Annotated[str, typer.Option(help="The stages that its items go through.")] = "default",
    repository: Annotated[str, typer.Option(help="Where its code is; empty = named like the key.")] = "",
    default_branch: Annotated[str, typer.Option("--branch", help="What work is merged into.")] = "main",
    description: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Create a project."""
    from quarterdeck.board.cards import ProjectDraft

    draft = terminal.form(
        ProjectDraft,
        key=key,
        name=name,
        pipeline=pipeline,
        repository=repository,
        default_branch=default_branch,
        description=description,
    )
    card = terminal.in_house(lambda house: house.board.create_project(terminal.owner(), draft))
    terminal.show(card, as_json, lambda console: console.print(f"Created project {card.key}."))


@app.command("list")
def list_projects(cursor: Cursor = None, limit: Limit = 50, as_json: AsJson = False) -> None:
    """List the projects."""
    page = terminal.in_house(lambda house: house.board.projects(cursor, limit))

    def people(console: "Console") -> None:
        rows = [
            (p.key, p.name, p.pipeline, p.repository, p.default_branch, "yes" if p.archived else "")
            for p in page.items
        ]
        terminal.table(
            console,
            ("Key", "Name", "Pipeline", "Repository", "Branch", "Archived"),
            rows,
            "There is no project yet; `quarterdeck project create` makes one.",
        )
        if page.next_cursor:
            console.print(f"There are more: --cursor {page.next_cursor}")

    terminal.show(page, as_json, people)


@app.command()
def show(key: Key, as_json: AsJson = False) -> None:
    """Show a project."""
    card = terminal.in_house(lambda house: house.board.project(key))

    def people(console: "Console") -> None:
        console.print(f"{card.key}: {card.name}{' (archived)' if card.archived else ''}", style="bold")
        terminal.facts(
            console,
            [
                ("Pipeline", card.pipeline),
                ("Repository", card.repository),
                ("Branch", card.default_branch),
                ("Created", card.created_at),
                ("Version", card.version),
                ("Description", card.description),
            ],
        )

    terminal.show(card, as_json, people)


@app.command()
def edit(
    key: Key,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="The stages of items to come.")] = None,
    repository: Annotated[
        str | None, typer.Option(help="Where its code is; only while no item is open.")
    ] = None,
    default_branch: Annotated[
        str | None, typer.Option("--branch", help="What work is merged into; only while no item is open.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Change a project; what is not named stays as it is."""
    named = {
        "name": name,
        "pipeline": pipeline,
        "repository": repository,
        "default_branch": default_branch,
        "description": description,
    }
    card = _changed(key, version, **{field: value for field, value in named.items() if value is not None})
    terminal.show(
        card, as_json, lambda console: console.print(f"{card.key} is at version {card.version} now.")
    )


@app.command()
def archive(key: Key, version: Version = None, as_json: AsJson = False) -> None:
    """Put a project away: nothing is filed in it any more; what is open goes on."""
    card = _changed(key, version, archived=True)
    terminal.show(card, as_json, lambda console: console.print(f"{card.key} is archived."))


@app.command()
def unarchive(key: Key, version: Version = None, as_json: AsJson = False) -> None:
    """Take a project back that was put away."""
    card = _changed(key, version, archived=False)
    terminal.show(card, as_json, lambda console: console.print(f"{card.key} takes items again."))


def _changed(key: str, version: int | None, **named: object) -> "ProjectCard":
    from quarterdeck.board.cards import ProjectChanges

    told = named if version is None else named | {"version": version}
    changes = terminal.form(ProjectChanges, **told)
    return terminal.in_house(lambda house: house.board.edit_project(terminal.owner(), key, changes))
