"""The whole router in the test's own loop, on a port, and the command line beside it in a thread."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from deployments.cli import run
from quarterdeck.kernel.settings import Settings
from quarterdeck.router import access, config
from quarterdeck.router.service import Router, opened
from tests.fakes.company import environment, settings_of
from tests.fakes.said import Said

KEY = "sk-the-backends-own-key-0001"


@dataclass(frozen=True)
class OpenRouter:
    """A router that runs. `settings` are those of a house that it belongs to."""

    router: Router
    settings: Settings
    capsys: pytest.CaptureFixture[str]

    async def quarterdeck(self, *arguments: str) -> Said:
        """What the command says, with the settings of this home in the environment."""
        self.capsys.readouterr()
        code = await asyncio.to_thread(run, list(arguments))
        return Said(code, *self.capsys.readouterr())

    async def add(self, name: str, url: str, model: str = "gpt") -> dict[str, Any]:
        """A backend, without the command line."""
        body = {
            "name": name,
            "api_base_url": url,
            "api_key": KEY,
            "model_mappings": {model: {"native_id": model}},
        }
        return await self.post("/backends", body)

    async def post(self, path: str, body: Any = None) -> dict[str, Any]:
        async with access.admin(self.settings) as admin:
            made: dict[str, Any] = (await admin.post(path, json=body)).raise_for_status().json()
            return made


@asynccontextmanager
async def open_router(
    home: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[OpenRouter]:
    """Open, and announced in the environment."""
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    settings = settings_of(home, url).model_copy(update={"router_url": address})
    for name, value in (environment(home, url) | {"QUARTERDECK_ROUTER_URL": address}).items():
        monkeypatch.setenv(name, value)
    async with opened(settings, config.RouterSettings(), url) as (router, _):
        server = uvicorn.Server(
            uvicorn.Config(router.application, log_config=None, access_log=False, lifespan="off")
        )
        serving = asyncio.create_task(server._serve([listening]))
        while not server.started:
            await asyncio.sleep(0)
        try:
            yield OpenRouter(router, settings, capsys)
        finally:
            await router.drain()
            server.should_exit = True
            await serving
