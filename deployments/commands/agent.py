"""`quarterdeck agent …`"""

from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="The crew: who it is, and how busy.")


@app.command("list")
def list_agents(as_json: AsJson = False) -> None:
    """List the agents."""
    agents = terminal.in_house(lambda house: house.crew.agents())

    def people(console: "Console") -> None:
        rows = [
            (a.slug, a.name, a.runtime, a.status, f"{a.current_tasks} of {a.max_concurrent}") for a in agents
        ]
        head = ("Agent", "Name", "Runtime", "Status", "Runs")
        terminal.table(console, head, rows, "The crew is empty; `quarterdeck setup` imports the roster.")

    terminal.show({"items": agents, "next_cursor": None}, as_json, people)


@app.command()
def show(
    slug: Annotated[str, typer.Argument(help="For example developer.")], as_json: AsJson = False
) -> None:
    """Show an agent."""
    agent = terminal.in_house(lambda house: house.crew.agent_card(slug))

    def people(console: "Console") -> None:
        console.print(f"{agent.slug}  {agent.name}", style="bold", markup=False)
        terminal.facts(
            console,
            [
                ("Status", f"{agent.status}, {agent.current_tasks} of {agent.max_concurrent} runs"),
                ("Runtime", agent.runtime),
                ("Model", agent.model),
                ("Prompt", agent.system_prompt),
                ("Since", agent.created_at),
            ],
        )

    terminal.show(agent, as_json, people)
