"""Can every agent behind a WebSocket, and every OpenClaw gateway, be reached? (`quarterdeck check-agents`)

Stages of a check: `config` (no address), `connect`, `status` (the first frame), `message`, `timeout`;
for OpenClaw `health`, `token`, `hooks_token`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.crew import agent_api
from quarterdeck.crew.agent_api import Limits, Names, UnexpectedFrame
from quarterdeck.crew.openclaw import Address, Gateway
from quarterdeck.kernel.documents import load_yaml
from quarterdeck.kernel.errors import Invalid, Misconfigured, QuarterdeckError, Unavailable
from quarterdeck.kernel.log import redact

HEARTBEAT = 30.0


class Route(BaseModel):
    """One agent of a registry file."""

    model_config = ConfigDict(str_strip_whitespace=True)

    id: str = Field(min_length=1)
    label: str = Field(min_length=1)
    base_url: str = ""


class Registry(BaseModel):
    """The registry file: its agents, in order."""

    agents: list[Route] = Field(min_length=1)


@dataclass(frozen=True)
class Options:
    """What is checked, and how. `chat_id` is for all; else each gets `chat_id_base` + its place."""

    base_url: str = ""
    timeout: float = 10.0
    concurrency: int = 5
    chat_id: int | None = None
    chat_id_base: int = 900_000
    message: str = ""


@dataclass(frozen=True)
class Checked:
    """What became of one check; its addresses are without their passwords."""

    agent_id: str
    label: str
    chat_id: int | None = None
    base_url: str = ""
    ws_url: str = ""
    ok: bool = False
    stage: str = "config"
    latency_ms: float | None = None
    error: str = ""
    response_type: str = ""


def read_registry(path: Path) -> list[Route]:
    """The agents of a registry file. Raises `Misconfigured` naming file and line."""
    document = load_yaml(path)
    routes = document.validate(Registry).agents
    ids = [route.id for route in routes]
    for place, agent_id in enumerate(ids):
        if agent_id in ids[:place]:
            raise document.wrong(("agents", place, "id"), f"duplicate agent id {agent_id}")
    return routes


def chosen(routes: Sequence[Route], wanted: Collection[str]) -> list[tuple[int, Route]]:
    """The agents that are asked for, with their places in the registry. Raises `Invalid` for none."""
    found = [(place, route) for place, route in enumerate(routes) if not wanted or route.id in wanted]
    if not found and wanted:
        known = ", ".join(route.id for route in routes) or "none"
        raise Invalid(f"No agent is called {', '.join(wanted)}.", f"There is: {known}.", field="agent")
    return found


async def check_all(routes: Sequence[tuple[int, Route]], options: Options) -> list[Checked]:
    """Every route, some at the same time; the results in the order of the registry."""
    room = asyncio.Semaphore(options.concurrency)

    async def one(place: int, route: Route) -> Checked:
        async with room:
            return await check(place, route, options)

    return list(await asyncio.gather(*(one(place, route) for place, route in routes)))


async def check(place: int, route: Route, options: Options) -> Checked:
    """One route: connect, expect the status, and with a message read to the end of its answer."""
    chat_id = options.chat_id_base + place if options.chat_id is None else options.chat_id
    base = route.base_url or options.base_url
    result = Checked(route.id, route.label, chat_id, redact(base))
    try:
        url = agent_api.ws_url(base, chat_id)
    except (Misconfigured, Invalid) as error:
        return replace(result, error=error.detail if base else "it has no address")
    result = replace(result, ws_url=redact(url))
    progress = _Progress()
    began = time.monotonic()
    try:
        async with asyncio.timeout(options.timeout):
            await _talk(url, options, progress)
        ended = replace(result, ok=True, stage=progress.stage)
    except TimeoutError:
        ended = replace(result, stage="timeout", error=f"nothing within {options.timeout:g} s")
    except UnexpectedFrame as error:
        progress.type = error.type
        ended = replace(result, stage=progress.stage, error=error.detail)
    except QuarterdeckError as error:
        is_late = isinstance(error, Unavailable) and error.code == "timed_out"
        ended = replace(result, stage="timeout" if is_late else progress.stage, error=error.detail)
    latency = round((time.monotonic() - began) * 1000, 1)
    return replace(ended, latency_ms=latency, response_type=progress.type)


@dataclass
class _Progress:
    stage: str = "connect"
    type: str = ""

    def opened(self) -> None:
        self.stage = "status"


async def _talk(url: str, options: Options, progress: _Progress) -> None:
    names = Names()
    limits = Limits(options.timeout, options.timeout)
    opened = agent_api.connected(url, limits, names, heartbeat=HEARTBEAT, on_open=progress.opened)
    async with opened as agent:
        progress.type = names.status
        if options.message:
            progress.stage, progress.type = "message", names.error
            async with aclosing(agent.ask(options.message)) as events:
                async for _ in events:
                    pass
            progress.type = names.end


async def check_gateway(name: str, connection: dict[str, Any] | None) -> list[Checked]:
    """An OpenClaw gateway: is it live, and are both tokens good?"""
    label = f"OpenClaw {name}"
    try:
        address = Address.of(connection)
    except Misconfigured as error:
        return [Checked(name, label, error=error.detail)]
    gateway = Gateway(address)
    steps: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("health", gateway.health),
        ("token", gateway.agents),
    ]
    if address.hooks_token:
        steps.append(("hooks_token", gateway.check_hooks))
    try:
        shown = redact(address.url)
        return [await _step(Checked(name, label, base_url=shown, stage=s), do) for s, do in steps]
    finally:
        await gateway.close()


async def _step(result: Checked, do: Callable[[], Awaitable[Any]]) -> Checked:
    began = time.monotonic()
    try:
        await do()
        ended = replace(result, ok=True)
    except QuarterdeckError as error:
        ended = replace(result, error=error.detail)
    return replace(ended, latency_ms=round((time.monotonic() - began) * 1000, 1))
