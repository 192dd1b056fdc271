"""The router as it really runs: a process of its own, in a home of its own, on free ports."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from deployments.supervisor import ROOT
from quarterdeck.kernel.http import trusted
from quarterdeck.router.access import Addresses

ADMIN, PROXY = "admins-token-0001", ""
STARTED_WITHIN = 180.0


class RouterProcess:
    """Started by `async with`, ended in order at its end. Without `database_url` it brings its own server."""

    def __init__(self, home: Path, database_url: str = "", **environment: str) -> None:
        self.home = home
        self.log = home / "router.log"
        told = {
            "PATH": os.environ["PATH"],
            "QUARTERDECK_HOME": str(home),
            "SIDECAR_PORT": "0",
            "SIDECAR_METRICS_PORT": "0",
            "SIDECAR_ADMIN_TOKEN": ADMIN,
            "SIDECAR_DRAIN_SECONDS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if database_url:
            told["QUARTERDECK_DATABASE_URL"] = database_url
        self.environment: Mapping[str, str] = told | environment
        self.process: subprocess.Popen[bytes] | None = None
        self.addresses = Addresses("", "")
        self._client = httpx.AsyncClient(timeout=30, verify=trusted())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self.stop()

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Start the process, and do not wait for anything."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "deployments.router"],
                env=dict(self.environment),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def start(self) -> None:
        """Start it and wait until it says where it listens."""
        said = self.home / "run" / "router.json"
        said.unlink(missing_ok=True)
        self.process = self.spawn()
        give_up = time.monotonic() + STARTED_WITHIN
        while not said.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, self.log.read_text()
            await asyncio.sleep(0.02)
        self.addresses = Addresses(**json.loads(said.read_text()))

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 30)

    async def kill(self) -> None:
        """kill -9, and what it left behind of itself."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self.process.wait, 30)
        for child in children:
            if "postgres" not in " ".join(child.cmdline() if child.is_running() else []):
                child.kill() if child.is_running() else None

    async def admin(self, method: str, path: str, token: str = ADMIN, **options: Any) -> httpx.Response:
        return await self._client.request(
            method,
            f"{self.addresses.calls}/api/admin{path}",
            headers={"Authorization": f"Bearer {token}"},
            **options,
        )

    async def add_backend(self, url: str, *models: str, **changes: Any) -> str:
        """A backend that takes many calls; its id."""
        wanted = {
            "name": "One",
            "api_base_url": url,
            "api_key": "sk-a-real-looking-key-0001",
            "rpm_limit": 1000,
            "model_mappings": {
                model: {"native_id": f"native-{model}", "cost": {"input": 2.5e-6, "output": 1e-5}}
                for model in models
            },
        }
        answer = await self.admin("POST", "/backends", json=wanted | changes)
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["id"])

    async def ask(self, model: str, key: str = "", **body: Any) -> httpx.Response:
        """One chat."""
        wanted = {"model": model, "messages": [{"role": "user", "content": "hello there"}]} | body
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return await self._client.post(
            f"{self.addresses.calls}/v1/chat/completions", json=wanted, headers=headers
        )

    async def get(self, path: str) -> httpx.Response:
        return await self._client.get(f"{self.addresses.calls}{path}")

    async def metrics(self) -> str:
        return (await self._client.get(f"{self.addresses.metrics}/metrics")).text

    async def totals(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.admin("GET", "/stats/total")).json()
        return found

    def rss(self) -> int:
        """Resident bytes."""
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)
