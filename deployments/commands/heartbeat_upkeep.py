"""`quarterdeck heartbeat health | render | cron | test`: what heartbeats need around them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.commands import terminal
from deployments.commands.heartbeat import Agent, app
from deployments.commands.terminal import AsJson

__all__ = ["app", "tried"]

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.heartbeat.roster import Heartbeat
    from quarterdeck.heartbeat.work import Answer
    from quarterdeck.house import House

Apply = Annotated[bool, typer.Option("--apply", help="Do it; without it only what would be done is told.")]


async def _heartbeats(house: "House") -> "dict[str, Heartbeat]":
    from quarterdeck.heartbeat.roster import read_all

    return read_all(await house.crew.heartbeat_entries())


@app.command()
def health(agent: Agent, as_json: AsJson = False) -> None:
    """Say whether an agent's heartbeat can do its work, as JSON; exit code 1 when it cannot."""
    from dataclasses import asdict

    async def look(house: "House") -> Any:
        from quarterdeck.heartbeat.health import Checkup
        from quarterdeck.kernel.errors import Misconfigured

        complaint, heartbeats = "", {}
        try:
            heartbeats = await _heartbeats(house)
        except Misconfigured as error:
            complaint = error.detail
        return await Checkup(house.database, house.connections, house.sources).look(
            agent, heartbeats, complaint
        )

    found = terminal.in_house(look)
    terminal.show(asdict(found), True, lambda console: None)
    raise typer.Exit(0 if found.ok else 1)


@app.command()
def render(apply: Apply = False, as_json: AsJson = False) -> None:
    """Write each agent's HEARTBEAT.md into its workspace, from one template and the roster."""

    async def work(house: "House") -> Any:
        from quarterdeck.heartbeat import rendering

        found = [rendering.rendered(one) for one in (await _heartbeats(house)).values()]
        for one in found if apply else ():
            if one.outcome is rendering.Outcome.WRITE:
                rendering.write(one)
        return found

    found = terminal.in_house(work)
    items = [
        {"agent": o.agent, "path": o.path, "bytes": len(o.text.encode()), "outcome": o.outcome.value}
        for o in found
    ]

    def people(console: "Console") -> None:
        rows = [tuple(item.values()) for item in items]
        terminal.table(console, ("Agent", "File", "Bytes", "Outcome"), rows, "No agent has a heartbeat.")
        if not apply:
            console.print("Nothing was written; --apply writes them.")

    terminal.show({"items": items, "applied": apply}, as_json, people)


@app.command()
def cron(apply: Apply = False, as_json: AsJson = False) -> None:
    """Bring OpenClaw's automations in line with the agents that it wakes (`scheduler: openclaw`)."""

    async def work(house: "House") -> Any:
        from quarterdeck.heartbeat.automations import Automations

        automations = Automations(house.sources.openclaw)
        steps = await automations.planned(await _heartbeats(house))
        if apply:
            await automations.apply(steps)
        return steps

    steps = terminal.in_house(work)
    items = [
        {"step": s.step.value, "key": s.key, "id": s.id, "cron": s.wanted.expr if s.wanted else ""}
        for s in steps
    ]

    def people(console: "Console") -> None:
        rows = [tuple(item.values()) for item in items]
        terminal.table(console, ("Step", "Automation", "Id", "Cron"), rows, "OpenClaw wakes no agent.")
        if not apply:
            console.print("Nothing was changed; --apply does it.")

    terminal.show({"items": items, "applied": apply}, as_json, people)


async def tried(house: "House", name: str) -> "Answer":
    """Look into a source now. Raises `NotFound` naming those there are."""
    from quarterdeck.kernel.errors import NotFound

    known = {source.name: source for source in house.sources.all}
    if name not in known:
        raise NotFound.among("source", name, known)
    if name in house.sources.polls:
        await house.sources.polls[name].invalidate()
    heartbeats = await _heartbeats(house)
    return await known[name].look([one.watched for one in heartbeats.values()])


@app.command("test")
def test_source(
    source: Annotated[str, typer.Argument(help="board, workboard, multica, documents or plane.")],
    as_json: AsJson = False,
) -> None:
    """Look into a source of work now; exit code 1 when that does not work."""
    answer = terminal.in_house(lambda house: tried(house, source))
    is_well = answer.trouble is None
    told = {
        "source": answer.source,
        "ok": is_well,
        "trouble": answer.trouble,
        "detail": answer.detail,
        "found": len(answer.found),
        "of_agents": sum(found.agent is not None for found in answer.found),
        "is_cached": answer.is_cached,
    }

    def people(console: "Console") -> None:
        terminal.facts(
            console,
            [("Source", source), ("State", answer.trouble or "ok"), ("Detail", answer.detail),
             ("Found", f"{told['found']}, {told['of_agents']} of them of agents")],
        )  # fmt: skip

    terminal.show(told, as_json, people)
    raise typer.Exit(0 if is_well else 1)
