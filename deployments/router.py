"""The router process: model calls, admin API and dashboard on one port, metrics on another.

It needs the database to begin with, and goes on without it; it never needs Prefect or the web process.
Run by `quarterdeck up`, or alone by `quarterdeck router`.
"""

from deployments import lean  # noqa: F401 - before all that imports structlog or uvicorn

# isort: split

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import uvicorn

from deployments import leash, litter, process
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError
from quarterdeck.kernel.postgres import Server as Postgres
from quarterdeck.kernel.postgres import server_for
from quarterdeck.kernel.settings import Settings, load
from quarterdeck.router import access, config
from quarterdeck.router.service import Router, opened
from quarterdeck.router.storage.lease import Lease

log = structlog.get_logger(__name__)

BACKLOG = 2048
LOOK = 1.0
"""Seconds between two looks at the database."""


class Server(uvicorn.Server):
    """One listener; the signals belong to the process, which stops both."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve() -> None:
    """Open the router and serve it until SIGTERM or SIGINT."""
    settings, environment = load(), config.load()
    logs.set_up(settings)
    async with (
        server_for(settings).using() as server,
        opened(settings, environment, server.url()) as (router, lease),
    ):
        beside = [asyncio.create_task(_look_after(server)), asyncio.create_task(litter.tidy())]
        try:
            await _listen(settings, router, lease)
        finally:
            for task in beside:
                task.cancel()


async def _look_after(server: Postgres) -> None:
    """Bring the embedded database back when it dies: alone, nobody else would."""
    while True:
        await asyncio.sleep(LOOK)
        try:
            if await asyncio.to_thread(server.ensure_running):
                log.warning("postgres_started_again")
        except QuarterdeckError as error:
            log.warning("postgres_away", reason=str(error))


async def _listen(settings: Settings, router: Router, lease: Lease) -> None:
    place = router.place
    calls = _bound(place.host, place.port, "SIDECAR_PORT")
    metrics = _bound(place.host, place.metrics_port, "SIDECAR_METRICS_PORT")
    servers = [
        Server(_config(router.application, router.drain_seconds + 1)),
        Server(_config(router.metrics, 1)),
    ]
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    serving = [
        asyncio.create_task(listener.serve([bound]))
        for listener, bound in zip(servers, (calls, metrics), strict=True)
    ]
    for listener in servers:
        await listener.listening.wait()
    access.announce(settings, access.Addresses(_url(place.host, calls), _url(place.host, metrics)))
    litter.settle()
    leash.ready()
    lease.lost.add_done_callback(lambda _: stopping.set())
    await stopping.wait()
    for listener in servers:
        listener.should_exit = True
    await router.drain()
    await asyncio.gather(*serving)
    if lease.lost.done():
        lease.lost.result()


def _config(app: Any, drain: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(drain)),
    )


def _bound(host: str, port: int, variable: str) -> socket.socket:
    """A socket that listens. Raises `Misconfigured` naming what to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise Misconfigured(
            f"Port {port} on {host} cannot be used: {error.strerror}.",
            f"Stop the program that uses it, or set {variable} to another port (0 = any free one).",
            code="port_taken",
        ) from error
    bound.setblocking(False)
    return bound


def _url(host: str, bound: socket.socket) -> str:
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    shown = f"[{near}]" if ":" in near else near
    return f"http://{shown}:{bound.getsockname()[1]}"


def main() -> None:
    """The process."""
    import uvloop

    uvloop.run(serve())


if __name__ == "__main__":
    process.run(main)
