"""`quarterdeck agent …`"""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.crew.trial import Trial

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


@app.command()
def test(
    slug: Annotated[str, typer.Argument(help="For example developer.")],
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long its answer may take.")] = 60.0,
    ask: Annotated[bool, typer.Option(help="Send a few words, and expect an answer.")] = True,
    as_json: AsJson = False,
) -> None:
    """Try an agent now: is its runtime there, and does it answer? Exit code 1 when not.

    Asking costs a few tokens. A program (runtime `command`) is only looked for, never started.
    """
    from quarterdeck.crew.trial import PROMPT, try_agent

    prompt = PROMPT if ask else ""
    trial = terminal.in_house(lambda house: try_agent(house.crew, slug, seconds=seconds, prompt=prompt))
    terminal.show(trial_facts(trial), as_json, lambda console: _describe_trial(console, trial))
    raise typer.Exit(0 if trial.ok else 1)


@app.command()
def wake(
    slug: Annotated[str, typer.Argument(help="For example analyst.")],
    text: Annotated[str, typer.Argument(help="What it is told.")],
    mode: Annotated[
        Literal["now", "next-heartbeat"],
        typer.Option(help="`now` calls its model at once; `next-heartbeat`: it reads it then."),
    ] = "now",
    as_json: AsJson = False,
) -> None:
    """Wake an agent of OpenClaw with a few words; its answer is not waited for.

    For example: `quarterdeck agent wake analyst "ET-007 waits for your review."`
    """
    from quarterdeck.crew.waking import Wake

    wanted = terminal.form(Wake, text=text, mode=mode)
    woken = terminal.in_house(lambda house: house.crew.wake(terminal.owner(), slug, wanted))
    terminal.show(
        woken, as_json, lambda console: console.print(f"OpenClaw took it for {woken.agent}: {woken.outcome}.")
    )


def trial_facts(trial: "Trial") -> dict[str, object]:
    """As JSON knows it."""
    from dataclasses import asdict

    return asdict(trial)


def _describe_trial(console: "Console", trial: "Trial") -> None:
    verdict = "ok" if trial.ok else f"{trial.fault.value}: {trial.problem}" if trial.fault else ""
    terminal.facts(
        console,
        [
            ("Agent", f"{trial.agent} ({trial.runtime})"),
            ("Found", trial.found),
            ("Answer", trial.answer),
            ("Seconds", trial.seconds),
            ("Tokens", trial.tokens),
            ("Cost", None if trial.cost_usd is None else f"{trial.cost_usd} USD"),
            ("Result", verdict),
        ],
    )
    if trial.instruction:
        console.print(trial.instruction, markup=False)
