"""Our own router as a subject: a home of its own, every feature on, no limit that bites.

A backend takes at most 1,000 calls a minute, so there are many of them, some for each model.
"""

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from deployments.supervisor import ROOT
from tests.bench.router_load import MODELS, model
from tests.bench.router_mock import NATIVE_MODEL
from tests.bench.router_subjects import (
    NotMeasured,
    Places,
    Running,
    await_answer,
    await_health,
    free_port,
    spawn,
)

PLAIN = "router"
LITELLM_WAY = "router, LiteLLM way"
_BACKENDS = {PLAIN: 5, LITELLM_WAY: 1}
"""Per model."""

_LIMIT = 1000
"""The most calls a minute that a backend may be given."""

_PRICES = {"input": 1e-6, "output": 2e-6, "cacheRead": 1e-7, "cacheWrite": 1e-6}


def start(name: str, places: Places, folder: Path) -> Running:
    """Start a router, give it its backends and a client with a budget, and wait until it answers."""
    home = folder / name.replace(", ", "-").replace(" ", "-")
    home.mkdir()
    port, token, log = free_port(), secrets.token_urlsafe(32), home.with_suffix(".log")
    environment = {
        "QUARTERDECK_HOME": str(home),
        "SIDECAR_HOST": "127.0.0.1",
        "SIDECAR_PORT": str(port),
        "SIDECAR_METRICS_PORT": str(free_port()),
        "SIDECAR_ADMIN_TOKEN": token,
        "SIDECAR_PROXY_TOKEN": secrets.token_urlsafe(32),
        "SIDECAR_ENCRYPTION_KEY": secrets.token_hex(32),
        "SIDECAR_QUEUE_MAX": "1000",
    }
    command = (str(ROOT / ".venv/bin/quarterdeck"), "router")
    process = spawn(command, places.gateway, log, **environment)
    running = Running(name, port, {}, process)
    try:
        await_health(running, log)
        key = asyncio.run(_furnish(name, port, token, places.upstream))
        running = replace(running, headers={"authorization": f"Bearer {key}"}, database=(_postmaster(home),))
        return await_answer(running, log)
    except (httpx.HTTPError, NotMeasured) as error:
        running.stop()
        raise NotMeasured(f"{error}; see {log}") from error


async def _furnish(name: str, port: int, token: str, upstream: str) -> str:
    """Backends and a client key; the key."""
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}/api/admin", headers=headers, timeout=60
    ) as admin:
        gate = asyncio.Semaphore(8)

        async def create(number: int) -> None:
            async with gate:
                await _post(admin, "/backends", _backend(name, number, upstream))

        await asyncio.gather(*map(create, range(MODELS * _BACKENDS[name])))
        client = {"name": "bench", "tokens_per_day": 10**12, "cost_per_day": 10**6}
        return str((await _post(admin, "/clients", client))["key"])


async def _post(admin: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await admin.post(path, json=body)
    if answer.is_error:
        raise NotMeasured(f"POST {path} gave {answer.status_code}: {answer.text[:300]}")
    given: dict[str, Any] = answer.json()
    return given


def _backend(name: str, number: int, upstream: str) -> dict[str, Any]:
    mapping = {"native_id": NATIVE_MODEL, "cost": _PRICES}
    dialects = {
        PLAIN: {"api": "openai-completions", "api_base_url": upstream + "/v1"},
        LITELLM_WAY: {"api": "anthropic-messages", "api_base_url": upstream},
    }
    return dialects[name] | {
        "name": f"bench-{number}",
        "api_key": f"bench-upstream-key-{number}",
        "rpm_limit": _LIMIT,
        "model_mappings": {model(number % MODELS): mapping},
    }


def _postmaster(home: Path) -> int:
    return int((home / "postgres" / "postmaster.pid").read_text("utf-8").split("\n")[0])


def family(running: Running) -> list[psutil.Process]:
    """The router and what it started, without the database."""
    assert running.process is not None
    database = {p.pid for root in running.database for p in _tree(root)}
    return [one for one in _tree(running.process.pid) if one.pid not in database]


def _tree(root: int) -> list[psutil.Process]:
    return [psutil.Process(root), *psutil.Process(root).children(recursive=True)]


def resident(running: Running) -> tuple[float, float]:
    """MB that the router holds now, and its helpers beside it; without the database."""
    sizes = [process.memory_info().rss / 1e6 for process in family(running)]
    return sizes[0], sum(sizes[1:])
