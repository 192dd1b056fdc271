"""`quarterdeck project …`"""

from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson, Cursor, Limit

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Lines of work: each numbers its items and has a pipeline and a repository.")


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
        rows = [(p.key, p.name, p.pipeline, p.repository, p.default_branch) for p in page.items]
        terminal.table(
            console,
            ("Key", "Name", "Pipeline", "Repository", "Branch"),
            rows,
            "There is no project yet; `quarterdeck project create` makes one.",
        )

    terminal.show(page, as_json, people)
