"""Prefect's API for those who do without Prefect's own client: it costs a second and 80 MB to import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from deployments import home, prefect_server
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.kernel.http import client, json_of, trusted
from quarterdeck.kernel.settings import Settings


@asynccontextmanager
async def prefect_api(settings: Settings, seconds: float = 10.0) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server, logged in. Raises `Unavailable` when nobody knows where the server is."""
    port = home.prefect_port(settings)
    if not port:
        raise Unavailable("Prefect's server is not running.", "Start it with `quarterdeck up`.")
    user, _, password = prefect_server.auth_string(settings).partition(":")
    async with client("Prefect", base_url=f"{prefect_server.address(port)}/api", seconds=seconds) as api:
        api.auth = httpx.BasicAuth(user, password)
        yield api


async def is_healthy(port: int) -> bool:
    """Does a server on this port answer?"""
    try:
        async with httpx.AsyncClient(timeout=2, verify=trusted()) as probe:
            answer = await probe.get(f"{prefect_server.address(port)}/api/health")
            return answer.is_success
    except httpx.HTTPError:
        return False


async def schema_of(api: httpx.AsyncClient, deployment: str) -> tuple[str, dict[str, Any]] | None:
    """The id and the parameter schema of a deployment, or None if the server does not know it.

    Raises `Unavailable` when the server is down or not itself.
    """
    wanted = {"deployments": {"name": {"any_": [deployment]}}, "limit": 1}
    found = json_of(await api.post("/deployments/filter", json=wanted))
    if not found:
        return None
    return found[0]["id"], found[0]["parameter_openapi_schema"] or {}
