"""`quarterdeck check-agents`"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from quarterdeck.crew.model import Agent
    from quarterdeck.crew.remote import Connected
    from quarterdeck.crew.route_check import Checked, Options, Route
    from quarterdeck.house import House

USUAL = Path("config/matrix-agents.yaml")


def check_agents(
    config: Annotated[
        Path | None, typer.Option(help=f"Registry file; unset = {USUAL} if it is there, else the roster.")
    ] = None,
    agent: Annotated[list[str] | None, typer.Option(help="Only this agent; may stand several times.")] = None,
    base_url: Annotated[
        str,
        typer.Option(
            help="Address of agents without one; unset = the block `Quarterdeck WebSocket agent` (of the"
            " roster's agents), then AGENT_BASE_URL, then AGENT_WS_URL."
        ),
    ] = "",
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds for one agent.")] = 10.0,
    concurrency: Annotated[int, typer.Option(min=1, max=100, help="Agents checked at the same time.")] = 5,
    chat_id: Annotated[int | None, typer.Option(min=0, help="One chat id for all.")] = None,
    chat_id_base: Annotated[
        int, typer.Option(min=0, help="Otherwise this plus the agent's place in the list.")
    ] = 900_000,
    message: Annotated[str, typer.Option(help="Send this, and expect a whole answer.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check the way to every agent behind a WebSocket and to OpenClaw; exit code 1 when one fails."""
    from quarterdeck.crew.agent_api_runtime import fallback_url
    from quarterdeck.crew.route_check import Options

    file = config or (USUAL if USUAL.exists() else None)
    address = base_url or (fallback_url(os.environ) if file else "")
    options = Options(address, timeout, concurrency, chat_id, chat_id_base, message)
    results = _of_file(file, agent or [], options) if file else _of_roster(agent or [], options)
    terminal.show(results, as_json, lambda console: _table(console, results))
    raise typer.Exit(0 if all(result["ok"] for result in results) else 1)


def _of_file(file: Path, wanted: list[str], options: "Options") -> list[dict[str, object]]:
    import asyncio

    from quarterdeck.crew.route_check import check_all, chosen, read_registry

    routes = chosen(read_registry(file), wanted)
    return _plain(asyncio.run(check_all(routes, options)))


def _of_roster(wanted: list[str], options: "Options") -> list[dict[str, object]]:
    from quarterdeck.crew.route_check import Checked, check_all, check_gateway, chosen

    async def work(house: "House") -> list[Checked]:
        agents = [await house.crew.agent(card.slug) for card in await house.crew.agents()]
        gateways = sorted(
            {str(a.parameters.get("connection", "default")) for a in agents if a.runtime == "openclaw"}
        )
        if not gateways and await house.connections.get("openclaw"):
            gateways = ["default"]
        socketed = [agent for agent in agents if agent.runtime == "agent_api"]
        routes, troubles = await _routes(socketed, house.connections, options.base_url)
        is_wanted = [name for name in gateways if not wanted or f"openclaw/{name}" in wanted]
        rest = [name for name in wanted if not name.startswith("openclaw/")]
        found = await check_all(chosen(routes, rest) if rest or not wanted else [], options)
        found = [replace(one, error=troubles.get(one.agent_id, one.error)) for one in found]
        for name in is_wanted:
            found += await check_gateway(f"openclaw/{name}", await house.connections.get("openclaw", name))
        return found

    return _plain(terminal.in_house(work))


async def _routes(
    agents: "Sequence[Agent]", connections: "Connected", given: str
) -> "tuple[list[Route], dict[str, str]]":
    """The ways to these agents, as their runtime finds them; and why some have none. `given` is for those
    without an address of their own."""
    from quarterdeck.crew.agent_api_runtime import Parameters, base_url
    from quarterdeck.crew.route_check import Route
    from quarterdeck.kernel.errors import Misconfigured

    routes, troubles = [], {}
    for agent in agents:
        wanted = Parameters.model_validate(agent.parameters)
        base = wanted.base_url or given
        try:
            base = base or await base_url(wanted, connections, os.environ)
        except Misconfigured as error:
            troubles[agent.slug] = error.detail
        routes.append(Route(id=agent.slug, label=agent.name, base_url=base))
    return routes, troubles


def _plain(results: "list[Checked]") -> list[dict[str, object]]:
    from dataclasses import asdict

    return [asdict(result) for result in results]


def _table(console: "Console", results: list[dict[str, object]]) -> None:
    rows = [
        (
            "OK" if r["ok"] else "FAIL",
            r["agent_id"],
            r["stage"],
            "" if r["latency_ms"] is None else f"{r['latency_ms']} ms",
            r["chat_id"],
            r["ws_url"] or r["base_url"],
            r["response_type"] if r["ok"] else r["error"],
        )
        for r in results
    ]
    head = ("", "Agent", "Stage", "Latency", "Chat", "Address", "Answer")
    terminal.table(console, head, rows, "No agent is behind a WebSocket, and OpenClaw is not connected.")
