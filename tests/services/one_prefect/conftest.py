"""One real Prefect server for this folder, on the embedded PostgreSQL, set up as `up` sets it up.

One worker runs them all (see `tests/scheduling.py`), and what serves them ends when they are over: a runner
that nobody needs would still start whatever is due by its schedule.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
from sqlmodel import delete

from deployments import parts, prefect_server
from deployments.supervisor import ROOT
from quarterdeck.house import House, open_house
from quarterdeck.kernel.connections import Connection
from quarterdeck.kernel.http import trusted
from quarterdeck.kernel.postgres import Server, server_for
from quarterdeck.kernel.settings import Settings
from tests.fakes.ports import free_port
from tests.processes import is_alive
from tests.waiting import wait_until

STARTED_WITHIN = 300
ENDS_WITHIN = 60
IMPATIENT = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "10"}
"""What the server does once a minute, and a test waits for."""


@dataclass(frozen=True)
class RunningPrefect:
    """The server, and the home it serves."""

    settings: Settings
    server: Server
    _done: set[str] = field(default_factory=set)

    @property
    def environment(self) -> dict[str, str]:
        """What `up` would tell a process of this home."""
        return parts.environment(self.settings, os.environ)

    def setup(self, half: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one half of `quarterdeck setup` in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "deployments.setup", half, *arguments],
            env=self.environment | environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=STARTED_WITHIN,
        )
        if done.returncode == 0:
            self._done.add(half)
        return done

    def must_be_set_up(self, *halves: str) -> None:
        """Each half at least once."""
        for half in halves:
            if half not in self._done:
                done = self.setup(half)
                assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("services") / "home"


@pytest.fixture(scope="package")
def prefect(home: Path) -> Iterator[RunningPrefect]:
    """Prefect's server, healthy, on a database of its own."""
    port = free_port()
    settings = Settings(home=home, prefect_port=port, token=None)
    with server_for(settings).running() as server:
        program = parts.prefect(settings, server)
        with (home / "prefect.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *program.arguments],
                env=dict(program.environment) | IMPATIENT,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            _wait_for(port, process, home / "prefect.log")
            yield RunningPrefect(settings, server)
        finally:
            process.terminate()
            process.wait(ENDS_WITHIN)


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + STARTED_WITHIN
    while time.monotonic() < give_up:
        assert process.poll() is None, log.read_text()
        try:
            address = f"{prefect_server.address(port)}/api/health"
            if httpx.get(address, timeout=10, verify=trusted()).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    pytest.fail(log.read_text())


@pytest.fixture
def client_of_prefect(prefect: RunningPrefect) -> Iterator[RunningPrefect]:
    """This process talks to the server, as our own processes do."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    told = prefect.environment
    with temporary_settings(
        {PREFECT_API_URL: told["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: told["PREFECT_API_AUTH_STRING"]}
    ):
        yield prefect


@pytest.fixture
async def house(prefect: RunningPrefect) -> AsyncIterator[House]:
    """The house of that home, set up; afterwards it is connected to nothing."""
    prefect.must_be_set_up("core")
    async with open_house(prefect.settings) as opened:
        yield opened
        async with opened.database.command("disconnect") as unit:
            await unit.session.exec(delete(Connection))


@contextmanager
def a_runner(prefect: RunningPrefect) -> Iterator[None]:
    """The runner, in a process of its own; afterwards neither it nor any of its runs goes on."""
    prefect.must_be_set_up("core", "prefect")
    with (prefect.settings.folder / "runner.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.runner"],
            env=prefect.environment,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        runs = psutil.Process(process.pid).children()
        os.killpg(process.pid, signal.SIGTERM)  # as its supervisor does: the runs are told as well
        process.wait(ENDS_WITHIN)
        wait_until(lambda: not any(is_alive(run.pid) for run in runs), ENDS_WITHIN)


@pytest.fixture(scope="module")
def runner(prefect: RunningPrefect) -> Iterator[None]:
    """A runner for a whole file; it does what is due by schedules, so others' files have none."""
    with a_runner(prefect):
        yield


@asynccontextmanager
async def desk(prefect: RunningPrefect, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A desk in a process of its own; stopped in order at the end, if it lives."""
    with (prefect.settings.folder / "desks.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deployments.desk"),
            env=prefect.environment | more,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.fixture
async def api(prefect: RunningPrefect) -> AsyncIterator[httpx.AsyncClient]:
    """Prefect's API, logged in."""
    user, _, password = prefect_server.auth_string(prefect.settings).partition(":")
    address = f"{prefect_server.address(prefect.settings.prefect_port)}/api"
    async with httpx.AsyncClient(base_url=address, auth=(user, password), timeout=30) as client:
        yield client
