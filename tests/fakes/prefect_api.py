"""The part of Prefect's API that starts deployments, on a port of its own; it can be away for a while."""

from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

SCHEMA = {
    "type": "object",
    "properties": {"item": {"type": "string"}, "round": {"type": "integer"}},
    "required": ["item"],
}


@dataclass
class FakePrefect:
    """Knows the deployment `stage`. `runs` are those it was asked to start, by their idempotency key."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_away: bool = False
    loses_answers: int = 0
    """How many runs it starts without being able to say so."""
    port: int = 0

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._away])
        app.router.add_post("/api/deployments/filter", self._find)
        app.router.add_post("/api/deployments/stage-id/create_flow_run", self._start)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _away(self, request: web.Request, handler: Any) -> web.StreamResponse:
        return web.Response(status=503) if self.is_away else await handler(request)

    async def _find(self, request: web.Request) -> web.Response:
        (name,) = (await request.json())["deployments"]["name"]["any_"]
        known = [{"id": "stage-id", "parameter_openapi_schema": SCHEMA}] if name == "stage" else []
        return web.json_response(known)

    async def _start(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        key = wanted.get("idempotency_key", f"none {len(self.runs)}")
        self.runs.setdefault(key, wanted["parameters"])
        if self.loses_answers:
            self.loses_answers -= 1
            return web.Response(status=503)
        return web.json_response({"id": f"run-{key}", "name": f"eager-otter-{len(self.runs)}"})
