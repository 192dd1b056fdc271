"""The embedded server: shared by processes, brought back after a kill, clear when it cannot start."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlmodel import select

from deployments import schema
from quarterdeck.board.model import WorkItem
from quarterdeck.kernel.bus import PostgresBus, Wake
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError, Unavailable
from quarterdeck.kernel.postgres import (
    PREFECT,
    EmbeddedPostgres,
    ExternalPostgres,
    core_url,
    programs,
    server_for,
)
from quarterdeck.kernel.postgres.programs import find_programs
from quarterdeck.kernel.settings import Settings
from quarterdeck.router.ledger.writer import Ledger
from quarterdeck.router.storage.lease import Lease
from tests.waiting import wait_until

USER = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.kernel.postgres import EmbeddedPostgres
try:
    with EmbeddedPostgres(Path(sys.argv[1]), fast=True).running():
        print("> in use", flush=True)
        sys.stdin.readline()
except QuarterdeckError as error:
    print(">", error.code, error, flush=True)
"""
"""A process that uses the server of a home until its input ends."""


class User:
    """That process, in a process group of its own, as behind a terminal."""

    def __init__(self, home: Path, *entrance: str) -> None:
        self.process = subprocess.Popen(
            [*entrance, sys.executable, "-c", USER, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def says(self) -> str:
        """Its next line that is not a line of its log."""
        assert self.process.stdout is not None
        return next((line for line in self.process.stdout if line.startswith("> ")), "")[2:].strip()

    def signal_group(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)
        self.process.wait(timeout=30)

    def leaves(self) -> None:
        self.process.communicate("\n", timeout=30)


@pytest.fixture
def use(home: Path) -> Iterator[Callable[[], User]]:
    """Starts users of `home`, and ends them all."""
    users: list[User] = []

    def start() -> User:
        users.append(User(home))
        return users[-1]

    yield start
    for user in users:
        user.process.kill()
        user.process.communicate()


@pytest.fixture(scope="session")
def created(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that was used once; copying it is quicker than creating another."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("created"), fast=True)
    with server.running():
        return server.data


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    """A home that has no data yet; its server is stopped even when the test fails."""
    yield tmp_path / "home"
    if EmbeddedPostgres(tmp_path / "home").is_running():
        with EmbeddedPostgres(tmp_path / "home", fast=True).running():
            pass
    assert not EmbeddedPostgres(tmp_path / "home").is_running()


@pytest.fixture
def home(new_home: Path, created: Path) -> Path:
    """A home with data, whose server does not run."""
    shutil.copytree(created, new_home / "postgres")
    return new_home


@pytest.fixture
def server(home: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(home, fast=True)


def connect(
    server: EmbeddedPostgres, database: str = "quarterdeck"
) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(server.url(database).replace("+psycopg", "", 1), autocommit=True)


def postmaster(server: EmbeddedPostgres) -> psutil.Process:
    return psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))


def kill(process: psutil.Process) -> None:
    process.kill()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_the_first_use_makes_both_databases_and_unicode_counts(new_home: Path) -> None:
    server = EmbeddedPostgres(new_home, fast=True)
    with server.running():
        for database in ("quarterdeck", PREFECT):
            with connect(server, database) as connection:
                row = connection.execute(
                    "select current_database(), "
                    "lower('ПРИВЕТ'), 'ю' ~ '[[:alpha:]]', current_setting('timezone')"
                ).fetchone()
                assert row == (database, "привет", True, "UTC")


def test_it_listens_on_its_private_socket_only(server: EmbeddedPostgres) -> None:
    with server.running(), connect(server) as connection:
        assert connection.execute("show listen_addresses").fetchone() == ("",)
        assert server.socket_folder.stat().st_mode & 0o777 == 0o700
        assert server.data.stat().st_mode & 0o777 == 0o700


def test_two_processes_share_it_and_the_last_one_stops_it(
    server: EmbeddedPostgres, use: Callable[[], User]
) -> None:
    users = [use(), use()]
    assert [user.says() for user in users] == ["in use", "in use"]
    first = postmaster(server)
    users[0].leaves()
    assert server.is_running()
    assert postmaster(server) == first
    users[1].leaves()
    assert not server.is_running()
    assert not (server.data / "postmaster.pid").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_survives_what_ends_the_terminal_of_its_starter(
    server: EmbeddedPostgres, use: Callable[[], User], number: signal.Signals
) -> None:
    starter = use()
    assert starter.says() == "in use"
    other = use()
    assert other.says() == "in use"
    starter.signal_group(number)
    with connect(server) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    other.leaves()
    assert not server.is_running()


def test_a_server_left_by_a_killed_user_is_reused_and_then_stopped(
    server: EmbeddedPostgres, use: Callable[[], User]
) -> None:
    killed = use()
    assert killed.says() == "in use"
    before = postmaster(server)
    killed.signal_group(signal.SIGKILL)
    assert server.is_running()
    with server.running():
        assert postmaster(server) == before
    assert not server.is_running()


@pytest.fixture
def stranger() -> Iterator[int]:
    """The pid of a living process that has nothing to do with us."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize("pid", ["999999999", "stranger", "rubbish"])
def test_a_stale_pid_file_does_not_prevent_the_start(
    server: EmbeddedPostgres, stranger: int, pid: str
) -> None:
    with server.running():
        old = (server.data / "postmaster.pid").read_text().split("\n", 1)[1]
    stale = str(stranger) if pid == "stranger" else pid
    (server.data / "postmaster.pid").write_text(f"{stale}\n{old}")
    server.socket_folder.mkdir(mode=0o700, exist_ok=True)
    (server.socket_folder / ".s.PGSQL.5432.lock").write_text(f"{stale}\n{old}")
    assert not server.is_running()
    with server.running(), connect(server) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_killed_server_is_brought_back_with_its_data(server: EmbeddedPostgres) -> None:
    with server.running():
        with connect(server) as connection:
            connection.execute("create table kept as select 42 as answer")
        assert server.ensure_running() is False
        kill(postmaster(server))
        assert not server.is_running()
        assert server.ensure_running() is True
        with connect(server) as connection:
            assert connection.execute("select answer from kept").fetchone() == (42,)


def test_a_home_that_is_moved_under_its_users_is_missed_and_no_empty_one_takes_its_place(
    server: EmbeddedPostgres,
) -> None:
    elsewhere = server.home.with_name("elsewhere")
    with server.running():
        server.home.rename(elsewhere)
        with pytest.raises(Misconfigured, match="moved or removed"):
            server.ensure_running()
        assert not server.home.exists()
        elsewhere.rename(server.home)
        assert server.ensure_running() is False


def test_a_running_server_that_cannot_be_looked_at_is_explained(server: EmbeddedPostgres) -> None:
    pid_file = server.data / "postmaster.pid"
    kept = pid_file.with_suffix(".kept")
    with server.running():
        pid_file.rename(kept)
        pid_file.mkdir()  # reading it fails as on a disk that went away
        with pytest.raises(Misconfigured, match="cannot be used"):
            server.ensure_running()
        pid_file.rmdir()
        kept.rename(pid_file)


def test_backends_that_outlive_their_server_are_ended_before_it_comes_back(server: EmbeddedPostgres) -> None:
    with server.running():
        busy = connect(server)
        backend = psutil.Process(busy.info.backend_pid)

        def work() -> None:
            with pytest.raises(psycopg.OperationalError):
                busy.execute("select count(*) from generate_series(1, 1e15)")

        worker = threading.Thread(target=work)
        worker.start()
        wait_until(lambda: backend.cpu_times().user > 0.1)
        kill(postmaster(server))
        assert backend.is_running()
        assert server.ensure_running()
        worker.join(timeout=20)
        busy.close()
        assert not worker.is_alive()


def test_two_that_notice_its_death_bring_back_one_server(home: Path) -> None:
    users = [EmbeddedPostgres(home, fast=True) for _ in range(4)]
    for user in users:
        user.acquire()
    kill(postmaster(users[0]))
    brought: list[bool] = []
    threads = [threading.Thread(target=lambda u=u: brought.append(u.ensure_running())) for u in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(brought) == [False, False, False, True]
    for user in users:
        user.release()
    assert not users[0].is_running()


async def test_a_task_that_is_cancelled_while_it_starts_leaves_no_server(new_home: Path) -> None:
    server = EmbeddedPostgres(new_home, fast=True)

    async def work() -> None:
        async with server.using():
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    while not server.home.exists():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (server.data / "PG_VERSION").exists()
    assert not server.is_running()


def test_a_home_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / ("long" * 30) / "home with 'quotes' and spaces", fast=True)
    with server.running(), connect(server) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert len(str(server.socket_folder)) < 60
    assert not server.socket_folder.exists()


async def test_every_connection_finds_a_home_whose_path_has_spaces(created: Path) -> None:
    with tempfile.TemporaryDirectory() as short:
        server = EmbeddedPostgres(Path(short) / "My Desk + 100%", fast=True)
        shutil.copytree(created, server.data)
        async with server.using(), Lease(server.url()):
            assert server.socket_folder.parent == server.home
            heard = PostgresBus(server.url()).listen("items")
            assert await asyncio.wait_for(anext(heard), 30) == Wake("items")
            await heard.aclose()  # type: ignore[attr-defined]


def test_a_socket_folder_that_somebody_else_made_is_refused(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / ("long" * 30), fast=True)
    server.socket_folder.symlink_to(tmp_path)
    with pytest.raises(Misconfigured) as caught:
        server.acquire()
    server.socket_folder.unlink()
    assert caught.value.code == "postgres_socket"


def test_a_half_made_data_folder_is_made_anew(new_home: Path) -> None:
    server = EmbeddedPostgres(new_home, fast=True)
    (server.home / "postgres.new" / "base").mkdir(parents=True)
    with server.running():
        assert not (server.home / "postgres.new").exists()


def test_a_home_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    user = User(home, *find_programs().entrance)  # root may write anywhere; in a namespace it may not
    said = user.says()
    user.leaves()
    assert said.startswith("home_not_writable")
    assert "set QUARTERDECK_HOME" in said


def test_a_home_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="cannot be used"):
        EmbeddedPostgres(tmp_path / "file" / "home").acquire()


SMALL_DISK = 'mount -t tmpfs -o size=20m none "$1" && shift && exec "$@"'


def test_a_full_disk_is_explained_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    entrance = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        SMALL_DISK,
        "sh",
        str(tmp_path),
    ]
    if subprocess.run([*entrance, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us mount a small disk")
    user = User(tmp_path / "home", *entrance)
    said = user.says()
    user.leaves()
    assert said.startswith("disk_full"), said
    assert "Free some space" in said


def test_data_of_another_version_are_refused(home: Path, tmp_path: Path) -> None:
    server = EmbeddedPostgres(home, fast=True)
    version = (server.data / "PG_VERSION").read_text()
    (server.data / "PG_VERSION").write_text("13\n")
    with pytest.raises(Misconfigured, match="PostgreSQL 13") as caught:
        server.acquire()
    (server.data / "PG_VERSION").write_text(version)
    assert "QUARTERDECK_POSTGRES_BIN" in caught.value.instruction


def test_a_server_that_cannot_start_shows_what_it_logged(home: Path) -> None:
    server = EmbeddedPostgres(home, fast=True)
    configuration = server.data / "postgresql.conf"
    good = configuration.read_text()
    configuration.write_text(good + "\nmax_connections = many\n")
    with pytest.raises(Unavailable, match="max_connections") as caught:
        server.acquire()
    configuration.write_text(good)
    assert str(server.log_file) in caught.value.instruction


def test_missing_programs_are_explained(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"no PostgreSQL 14 or newer") as caught:
        EmbeddedPostgres(tmp_path / "home", binaries=str(tmp_path)).acquire()
    assert "QUARTERDECK_DATABASE_URL" in caught.value.instruction


def test_the_machines_own_programs_are_used_when_asked(new_home: Path) -> None:
    try:
        found = find_programs("system")
    except QuarterdeckError:
        pytest.skip("no PostgreSQL is installed here")
    server = EmbeddedPostgres(new_home, fast=True, binaries="system")
    with server.running(), connect(server) as connection:
        row = connection.execute("select current_setting('server_version_num')::int / 10000").fetchone()
        assert row == (found.major,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_without_namespaces_runs_it_as_a_system_user_that_lets_only_root_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(programs, "_disguise", programs._disguise.__wrapped__)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder, "home"), fast=True)
        try:
            server.acquire()
        except Misconfigured as error:
            pytest.skip(str(error))
        try:
            assert server.data.owner() in ("postgres", "nobody")
            with connect(server) as connection:
                assert connection.execute("select 1").fetchone() == (1,)
            rules = (server.data / "pg_hba.conf").read_text()
            assert rules == "local all all peer map=quarterdeck\n"
        finally:
            server.release()


def test_an_external_server_is_neither_started_nor_stopped() -> None:
    settings = Settings(database_url="postgres://anna:p%40ss@db.example:6543/desk?sslmode=require")
    with server_for(settings).running() as server:
        assert server.url() == "postgresql+psycopg://anna:p%40ss@db.example:6543/desk?sslmode=require"
        assert server.url(PREFECT, driver="asyncpg") == (
            "postgresql+asyncpg://anna:p%40ss@db.example:6543/desk_prefect?ssl=require"
        )
        assert server.ensure_running() is False


async def test_an_own_url_may_name_the_schema_of_everything(server: EmbeddedPostgres, tmp_path: Path) -> None:
    with server.running(), connect(server) as admin:
        admin.execute("create schema desk")
        url = ExternalPostgres(f"{server.url()}&options=-csearch_path%3Ddesk").url()
        schema.migrate(url)
        database = Database(url)
        async with database.read() as session:
            assert (await session.exec(select(WorkItem))).all() == []
            shown = (await session.connection()).exec_driver_sql("show timezone")
            assert (await shown).scalar_one() == "UTC"
        await database.close()
        async with Ledger(url, tmp_path / "ledger", time.monotonic) as ledger:
            assert ledger.totals.requests == 0
        row = admin.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone()
        assert row == (0,)


def test_prefects_database_may_be_named() -> None:
    server = ExternalPostgres("postgresql://db/desk", "postgresql://other/prefect")
    assert server.url(PREFECT, driver="asyncpg") == "postgresql+asyncpg://other/prefect"


@pytest.mark.parametrize(
    "text", ["sqlite:///x.db", "postgresql://host", "secret-without-scheme", "postgresql://u:p/w@host:port/d"]
)
def test_a_url_that_is_not_postgresql_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        core_url(text)
    assert text not in str(caught.value)
