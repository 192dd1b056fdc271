"""What every test may ask for.

`database` is a real PostgreSQL database with all tables, empty, and the test's own. One embedded server
serves the whole run: all workers share it, the last one stops it.
"""

import asyncio
import fcntl
import gc
import inspect
import json
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
from hypothesis import HealthCheck, settings

from deployments import schema
from deployments.cli import run
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.postgres import EmbeddedPostgres
from tests.databases import Connection, Databases, connect
from tests.fakes.company import environment
from tests.fakes.forking import Forks
from tests.scheduling import ByFile, place

TEMPLATE = "template_quarterdeck"
SLOW = ("tests/services/", "tests/chaos/", "tests/browser/")
"""Folders whose tests wait for servers and browsers: `make test-services` runs them, `make test` does not."""


def pytest_configure() -> None:
    """What was compiled is kept, whatever the environment says: hundreds of processes of ours load it."""
    gc.disable()  # until all is collected: what was imported stays, and the collector would walk through it
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"  # nobody starts a Prefect of his own unasked
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")  # how long an example takes says nothing on a machine that is shared


def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: twice as many as there are processors, for much of the time a test waits."""
    return (os.cpu_count() or 1) * 2


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile | None:
    """Of `--dist loadfile`."""
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place(item.nodeid))
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker("services")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(600))  # the first test of a file waits for its servers
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            item.fixturenames.insert(item.fixturenames.index("nothing_left") + 1, "no_task_left")


def pytest_collection_finish() -> None:
    """From here on garbage is collected, and never again looked for in what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After every test: no thread that would hold the process open, no child process, no logs set up."""
    threads, children = set(_threads()), _children()
    yield
    assert isinstance(structlog.get_config()["logger_factory"], structlog.PrintLoggerFactory)
    _until_none(lambda: set(_threads()) - threads)
    _until_none(lambda: _children() - children)


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """After every asynchronous test: no task goes on."""
    yield
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        await asyncio.wait(tasks, timeout=20)
    assert [task for task in tasks if not task.done()] == []


def _threads() -> Iterator[threading.Thread]:
    return (thread for thread in threading.enumerate() if not thread.daemon)


def _children() -> set[int]:
    """Those that run. Children's children need no look: they are left behind only by a child that is."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return {child.pid for child in psutil.Process().children() if _is_left(child.pid)}
    if not _is_child(os.P_ALL, 0):
        return set()
    return {pid for pid in psutil.pids() if _is_child(os.P_PID, pid) and _is_left(pid)}


def _is_child(kind: int, pid: int) -> bool:
    """Asks the kernel; psutil would read every process of the machine, three times in every test."""
    try:
        return os.waitid(kind, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None or kind == os.P_ALL
    except ChildProcessError:
        return False


def _is_left(pid: int) -> bool:
    with suppress(psutil.Error):
        child = psutil.Process(pid)
        if child.status() != psutil.STATUS_ZOMBIE:
            return "multiprocessing.resource_tracker" not in " ".join(child.cmdline())  # lives as long as we
    return False


def _until_none(left: Callable[[], Set[object]]) -> None:
    """Those that are just ending may end."""
    end = time.monotonic() + 20
    while left() and time.monotonic() < end:
        time.sleep(0.01)
    assert left() == set()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[EmbeddedPostgres]:
    """The run's server, with a template that has all tables."""
    folder = tmp_path_factory.getbasetemp()
    home = (folder if worker_id == "master" else folder.parent) / "postgres-of-this-run"
    with EmbeddedPostgres(home, fast=True).running() as server:
        _make_template(server)
        yield server


def _make_template(server: EmbeddedPostgres) -> None:
    """Once in a run: the first worker makes it, the others wait for it."""
    with (server.home / "template.lock").open("ab") as lock, connect(server.url("postgres")) as connection:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if connection.execute("select 1 from pg_database where datname = %s", [TEMPLATE]).fetchone():
            return
        connection.execute("create database in_the_making")
        schema.migrate(server.url("in_the_making"))
        connection.execute(f"alter database in_the_making rename to {TEMPLATE}")


@pytest.fixture(scope="session")
def admin(postgres: EmbeddedPostgres) -> Iterator[Connection]:
    """The worker's connection for making and dropping databases."""
    with connect(postgres.url("postgres")) as connection:
        yield connection


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres, admin: Connection, worker_id: str) -> Iterator[Databases]:
    """The worker's databases."""
    made = Databases(postgres, admin, TEMPLATE, f"test_{worker_id}")
    yield made
    made.close()


@pytest.fixture
def logs_left_as_they_were() -> Iterator[None]:
    """For tests of commands, which send the logs of their process to their own error output."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def item_command(
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    logs_left_as_they_were: None,
) -> Callable[..., Awaitable[tuple[int, Any]]]:
    """`quarterdeck item ... --json` in this process: its exit code, and what it said."""
    for name, value in environment(tmp_path, database_url).items():
        monkeypatch.setenv(name, value)

    async def command(*arguments: str) -> tuple[int, Any]:
        code = await asyncio.to_thread(run, ["item", *arguments, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out or said.err)

    return command


@pytest.fixture(scope="module")
def quiet() -> Iterator[None]:
    """For modules in which so much goes wrong on purpose that its log would take longer than they do."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Starts programs that are to be killed."""
    made = Forks()
    yield made
    made.close()


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """The URL of an empty database with all tables, the test's own; emptied afterwards."""
    with databases.lend() as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The unit of work on that database."""
    made = Database(database_url)
    yield made
    await made.close()
