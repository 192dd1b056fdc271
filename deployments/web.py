"""The web process: the HTTP doors of every room, put together.

    python -m deployments.web

`/health`, `/metrics` and the landing page need no token, everything under `/api/v1` does.
"""

import asyncio
import signal
from collections.abc import Iterable
from html import escape
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field
from sqlmodel import select

import quarterdeck
import quarterdeck.board.api
import quarterdeck.crew.api
import quarterdeck.heartbeat.api
import quarterdeck.notify.api
import quarterdeck.pipeline.api
import quarterdeck.pipeline.assignments_api
import quarterdeck.pipeline.hosts_api
import quarterdeck.pipeline.webhook_api
import quarterdeck.telegram.api
from deployments import api as deployments_api
from deployments import home, leash, prefect_api, prefect_server, process
from quarterdeck.house import House, open_house
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.kernel.settings import load
from quarterdeck.kernel.web import furnish
from quarterdeck.router import access

PATIENCE = 2.0
"""Seconds that a part has to prove its health."""

ROOMS: tuple[APIRouter, ...] = (
    quarterdeck.board.api.router,
    quarterdeck.pipeline.api.router,
    quarterdeck.crew.api.router,
    quarterdeck.heartbeat.api.router,
    quarterdeck.pipeline.assignments_api.router,
    quarterdeck.pipeline.hosts_api.router,
    quarterdeck.notify.api.router,
    quarterdeck.pipeline.webhook_api.router,
    deployments_api.router,
)

ABOUT = """Work items travel through the stages of a pipeline: agents work, gates check, people approve.

Every request needs a person's token: `Authorization: Bearer <token>`. Errors are
`application/problem+json`: `code` for programs, `detail` and `instruction` for people. Lists come in pages:
pass `next_cursor` as `cursor` until it is null. A POST that creates may carry an `Idempotency-Key`."""

front = APIRouter(redirect_slashes=False)


_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}table{border-collapse:collapse}"
    "td{padding:.15rem 1rem .15rem 0;vertical-align:top;overflow-wrap:anywhere}td:first-child{min-width:5rem}"
    "@media(max-width:40rem){td{display:inline-block;padding:0 .5rem 0 0}td:first-child{min-width:0}"
    "td:last-child{display:block;padding-bottom:.6rem}}"
)
"""Of the landing page: light or dark as the reader has it, in one column on a telephone."""


class Health(BaseModel):
    """Whether the desk can work. Without Prefect it serves and waits; without the database it cannot."""

    status: Literal["ok", "degraded", "down"] = Field(examples=["ok"])
    database: Literal["up", "down"]
    prefect: Literal["up", "down"]
    version: str = Field(examples=[quarterdeck.__version__])


def create_app(house: House) -> FastAPI:
    """The application of an open house."""
    app = make_doors()
    lead_into(app, house)
    return app


def make_doors() -> FastAPI:
    """All routes, leading nowhere yet."""
    app = FastAPI(
        title="Quarterdeck",
        version=quarterdeck.__version__,
        summary="The desk from which a small company runs a crew of AI agents.",
        description=ABOUT,
        docs_url=None,  # both load scripts from elsewhere; the landing page lists what there is
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(front)
    app.include_router(quarterdeck.telegram.api.open_doors)
    for router in ROOMS:
        app.include_router(router, prefix="/api/v1")
    app.include_router(quarterdeck.pipeline.webhook_api.doors)
    app.include_router(quarterdeck.telegram.api.router)
    furnish(app)
    return app


def lead_into(app: FastAPI, house: House) -> None:
    """Let the routes work with what this house has."""
    app.state.house = house
    for name in (
        "settings",
        "database",
        "board",
        "crew",
        "deliveries",
        "engine",
        "forge",
        "notify",
        "assignments",
        "hosts",
        "retests",
        "bots",
        "sends",
        "asked",
        "sweeper",
    ):
        setattr(app.state, name, getattr(house, name))


async def check_health(request: Request) -> Health:
    """Ask every part, all at once."""
    state = request.app.state
    port = home.prefect_port(state.settings)
    has_database, has_prefect = await asyncio.gather(_answers(state.database), prefect_api.is_healthy(port))
    return Health(
        status="down" if not has_database else "ok" if has_prefect else "degraded",
        database="up" if has_database else "down",
        prefect="up" if has_prefect else "down",
        version=quarterdeck.__version__,
    )


async def _answers(database: Database) -> bool:
    try:
        async with asyncio.timeout(PATIENCE), database.read() as session:
            return (await session.exec(select(1))).one() == 1
    except (Unavailable, TimeoutError):
        return False


@front.get(
    "/health",
    tags=["Health"],
    summary="Whether the desk can work",
    responses={503: {"model": Health, "description": "The database is down"}},
)
async def health(found: Annotated[Health, Depends(check_health)], response: Response) -> Health:
    """503 when the database is down; `degraded` when only Prefect is."""
    if found.status == "down":
        response.status_code = 503
    return found


@front.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """What Prometheus is told, as text; the router's own stands on its own port."""
    found = CollectorRegistry(auto_describe=False)
    found.register(_Told(await request.app.state.sweeper.metrics()))
    return Response(generate_latest(found), media_type=CONTENT_TYPE_LATEST)


class _Told(Collector):
    """What was looked up already, as a registry wants it."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


@front.get("/", include_in_schema=False)
async def landing(request: Request, found: Annotated[Health, Depends(check_health)]) -> HTMLResponse:
    """What is where."""
    settings = request.app.state.settings
    prefect = settings.prefect_public_url or prefect_server.address(home.prefect_port(settings))
    return HTMLResponse(page(request.app.openapi(), found, prefect, access.address(settings)))


def page(document: dict[str, Any], found: Health, prefect: str, router: str) -> str:
    """The landing page: state, addresses, and every operation of the API by room."""
    rooms: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            row = f"<tr><td><code>{method.upper()}</code><td><code>{escape(path)}</code>"
            rooms.setdefault(operation["tags"][0], []).append(f"{row}<td>{escape(operation['summary'])}")
    tables = "".join(f"<h2>{escape(tag)}</h2><table>{''.join(rows)}</table>" for tag, rows in rooms.items())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Quarterdeck</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style>"
        f"<h1>Quarterdeck {escape(found.version)}</h1>"
        f"<p>Database {found.database}, Prefect {found.prefect}.</p>"
        f'<ul><li><a href="{escape(prefect)}">Prefect: runs, forms, blocks</a>'
        f'<li><a href="{escape(router)}/dashboard">Model router: providers, client keys, usage</a>'
        '<li><a href="/openapi.json">OpenAPI description of the API</a><li><a href="/health">Health</a>'
        '<li><a href="/metrics">Metrics</a></ul>'
        f"{tables}</html>"
    )


class Server(uvicorn.Server):
    """Tells the supervisor when it listens; leaves the signals to the process that opened the house."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            leash.ready()


async def serve() -> None:
    """Open the house and serve it until SIGTERM or SIGINT."""
    settings = load()
    logs.set_up(settings)
    async with open_house(settings) as house:
        config = uvicorn.Config(
            create_app(house),
            host=settings.http_host,
            port=settings.http_port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has stopped
            signal.signal(number, lambda *_: None)
        await Server(config).serve()


def main() -> None:
    """The process."""
    asyncio.run(serve())


if __name__ == "__main__":
    process.run(main)
