"""The programs of an open desk: how each is started, and what it is told."""

import os
import socket
from collections.abc import Collection, Mapping

from deployments import home, prefect_server
from deployments.prefect_api import is_healthy
from deployments.supervisor import Program
from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.kernel.postgres import PREFECT, Server, explain_os
from quarterdeck.kernel.settings import Settings

PORTS = ("QUARTERDECK_HTTP_PORT", "QUARTERDECK_PREFECT_PORT", "SIDECAR_PORT", "SIDECAR_METRICS_PORT")
"""The variables of every port that an open desk listens on; 0 = any free one."""


def prefect(settings: Settings, server: Server) -> Program:
    """Prefect's server, on our PostgreSQL."""
    port, url = settings.prefect_port, server.url(PREFECT, driver="asyncpg")
    home.make(settings, prefect_server.folder(settings))
    with explain_os(settings.folder):
        environment = prefect_server.server_environment(settings, port, url, os.environ)
    return Program("prefect", prefect_server.command(port), environment, health=lambda: is_healthy(port))


def worker(name: str, settings: Settings) -> Program:
    """Web, desk or runner: `deployments/<name>.py`; it says itself when it is ready."""
    told = environment(settings, os.environ)
    told.pop("QUARTERDECK_TOKEN", None)  # its hash is all that is ever needed, and `setup` stored that
    return Program(name, (f"deployments.{name}",), told)


def router(settings: Settings, *, drain: float | None = None) -> Program:
    """The router: it needs neither Prefect nor its login. `drain`: seconds that calls may go on at a stop."""
    told = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    told |= _ours(settings)
    if drain is not None:
        told["SIDECAR_DRAIN_SECONDS"] = str(drain)
    told.pop("QUARTERDECK_TOKEN", None)
    told.setdefault("MALLOC_ARENA_MAX", "1")  # one thread does all; others' arenas would be 2 MB of holes
    taken = {settings.http_port, settings.prefect_port}
    for name in ("SIDECAR_PORT", "SIDECAR_METRICS_PORT"):
        if told.get(name) == "0":  # chosen here, so that it is the same after a restart
            told[name] = str(port := free_port(name, prefect_server.HOST, 0, taken))
            taken.add(port)
    return Program("router", ("deployments.router",), told)


def environment(settings: Settings, base: Mapping[str, str]) -> dict[str, str]:
    """What our own processes are told: absolute paths, the ports as chosen, the way to Prefect."""
    return prefect_server.client_environment(settings, settings.prefect_port, base) | _ours(settings)


def _ours(settings: Settings) -> dict[str, str]:
    told = {
        "QUARTERDECK_HOME": str(settings.folder),
        "QUARTERDECK_HTTP_PORT": str(settings.http_port),
        "QUARTERDECK_PREFECT_PORT": str(settings.prefect_port),
        "PYTHONUNBUFFERED": "1",
    }
    if settings.crew:
        told["QUARTERDECK_CREW"] = str(settings.crew_file)
    return told


def with_ports(settings: Settings) -> Settings:
    """The settings with free ports chosen where 0 was asked for. Raises `Misconfigured` for taken ones."""
    http = free_port("QUARTERDECK_HTTP_PORT", settings.http_host, settings.http_port)
    prefect = free_port("QUARTERDECK_PREFECT_PORT", prefect_server.HOST, settings.prefect_port, {http})
    return settings.model_copy(update={"http_port": http, "prefect_port": prefect})


def free_port(variable: str, host: str, port: int, taken: Collection[int] = ()) -> int:
    """The port if it is free, or any free one for 0. Raises `Misconfigured` naming what to change.

    `taken`: ports that were chosen already and are not listened on yet; they look free.
    """
    while (found := _bound(variable, host, port)) in taken and port == 0:
        pass
    return found


def _bound(variable: str, host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Misconfigured(
                f"Port {port} on {host} cannot be used: {error.strerror}.",
                f"Stop the program that uses it, or set {variable} to another port (0 = any free one).",
                code="port_taken",
            ) from error
        return int(probe.getsockname()[1])
