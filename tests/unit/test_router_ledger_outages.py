"""The ledger when PostgreSQL goes away, the disk refuses, or we are killed: what waits is not lost."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from deployments import schema
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.kernel.postgres import EmbeddedPostgres
from quarterdeck.kernel.postgres.processes import find_postmaster
from quarterdeck.router import steady
from quarterdeck.router.ledger import booking
from quarterdeck.router.ledger.writer import Ledger
from tests.fakes.frozen import frozen
from tests.fakes.ledger_rows import EVENTS, HOURLY, rows
from tests.fakes.router_parts import NOON, STARTED, call, of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def ledger(database_url: str, folder: Path) -> Ledger:
    return Ledger(database_url, folder, steady.now)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, to be killed."""
    with EmbeddedPostgres(tmp_path / "own", fast=True).running() as own:
        schema.migrate(own.url())
        yield own


def kill(server: EmbeddedPostgres) -> None:
    """As the machine would: no goodbye."""
    found = find_postmaster(server.data)
    assert found is not None
    os.kill(found.pid, signal.SIGQUIT)


async def test_calls_go_on_while_postgresql_is_killed_and_are_all_booked_afterwards(
    server: EmbeddedPostgres, folder: Path
) -> None:
    booked = 0
    async with Ledger(server.url(), folder, steady.now) as ledger:

        async def load(until: Any) -> None:
            nonlocal booked
            while not until():
                ledger.record(call())
                booked += 1
                await asyncio.sleep(0.001)

        await load(lambda: booked >= 700)
        kill(server)
        await load(lambda: ledger.fault and ledger.waiting_bytes)
        assert ledger.behind_since is not None
        with pytest.raises(Unavailable):
            await ledger.flush()
        await asyncio.to_thread(server.ensure_running)
        await load(lambda: not ledger.fault)
        assert ledger.totals.requests == booked
    assert await rows(server.url(), "select count(*)::int from model_calls") == [(booked,)]
    assert [row[2] for row in await rows(server.url(), HOURLY)] == [booked]


async def test_a_stop_while_postgresql_is_dead_loses_nothing(server: EmbeddedPostgres, folder: Path) -> None:
    ledger = Ledger(server.url(), folder, steady.now)
    await ledger.open()
    kill(server)
    for _ in range(50):
        ledger.record(call())
    ledger.changes(of("bkd_1", STARTED))
    await ledger.close()
    with pytest.raises(Unavailable):
        await Ledger(server.url(), folder, steady.now).flush()
    await asyncio.to_thread(server.ensure_running)
    async with Ledger(server.url(), folder, steady.now) as again:
        assert again.totals.requests == 50
    assert len(await rows(server.url(), EVENTS)) == 1
    assert [path.name for path in folder.iterdir()] == []


async def test_a_postgresql_that_says_nothing_is_a_fault_that_is_told(
    server: EmbeddedPostgres, folder: Path
) -> None:
    moment = NOON
    async with Ledger(server.url(), folder, lambda: moment) as ledger:
        holder = await psycopg.AsyncConnection.connect(server.url().replace("+psycopg", "", 1))
        async with holder:
            await holder.execute("lock table model_calls")
            ledger.record(call())
            flushing = asyncio.create_task(ledger.flush())
            while not ledger.waiting_bytes or ledger._since is None:
                await asyncio.sleep(0.01)
            assert ledger.fault == ""
            moment += 60
            assert "60 seconds" in ledger.fault
        await flushing
        assert ledger.fault == ""


async def test_a_stop_waits_only_so_long_for_a_postgresql_that_hangs(
    server: EmbeddedPostgres, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.router.ledger.writer.CLOSE_SECONDS", 0.5)
    ledger = Ledger(server.url(), folder, steady.now)
    await ledger.open()
    holder = await psycopg.AsyncConnection.connect(server.url().replace("+psycopg", "", 1))
    async with holder:
        await holder.execute("lock table model_calls")
        ledger.record(call())
        async with asyncio.timeout(20):
            await ledger.close()
        assert ledger.waiting_bytes
    async with Ledger(server.url(), folder, steady.now) as again:
        assert again.totals.requests == 1


async def test_a_stop_does_not_wait_for_a_postgresql_that_is_frozen(
    server: EmbeddedPostgres, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.router.ledger.writer.CLOSE_SECONDS", 0.3)
    ledger = Ledger(server.url(), folder, steady.now)
    await ledger.open()
    with frozen(server):
        ledger.record(call())
        async with asyncio.timeout(9):  # psycopg would wait for ten
            await ledger.close()
    async with Ledger(server.url(), folder, steady.now) as again:
        assert again.totals.requests == 1


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.fakes.router_parts import call
from quarterdeck.router import steady
from quarterdeck.router.ledger.writer import Ledger

async def main():
    ledger = Ledger(sys.argv[1], Path(sys.argv[2]), steady.now)
    await ledger.open()
    number = 0
    while True:
        number += 1
        ledger.record(call(id=f"child-{number}"))
        print(number, steady.now(), flush=True)
        await asyncio.sleep(0.002)

asyncio.run(main())
"""


async def test_a_kill_loses_at_most_the_last_second(database_url: str, folder: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), database_url, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    said = [line.split() for line, _ in zip(child.stdout, range(600), strict=False)]
    child.kill()
    said += [line.split() for line in child.communicate()[0].splitlines() if len(line.split()) == 2]
    last = float(said[-1][1])
    async with Ledger(database_url, folder, steady.now):
        pass
    booked = {row[0] for row in await rows(database_url, "select id from model_calls")}
    missing = [float(at) for number, at in said if f"child-{number}" not in booked]
    assert all(last - at <= 1.0 for at in missing) and len(booked) > 100


async def test_a_line_that_was_cut_by_a_kill_is_left_out(database_url: str, folder: Path) -> None:
    folder.mkdir()
    whole = "".join(booking.line(call()) for _ in range(3)).encode()
    cut = booking.line(call(ttft_ms=330)).encode()[:-2]  # 33, if one believed it
    (folder / "calls.v1.000000000004").write_bytes(whole + cut)
    with capture_logs() as lines:
        async with Ledger(database_url, folder, steady.now) as ledger:
            assert ledger.totals.requests == 3
    assert "spool_line_cut" in [line["event"] for line in lines]


async def test_a_disk_that_refuses_keeps_calls_in_memory(
    ledger: Ledger, database_url: str, folder: Path
) -> None:
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")
    async with ledger:
        for _ in range(5):
            ledger.record(call())
        await ledger.flush()
    assert [row[2] for row in await rows(database_url, HOURLY)] == [5]


async def test_what_waits_has_a_limit_and_what_is_lost_is_counted(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.router.ledger.spool.MOST_BYTES", 1000)
    for _ in range(20):
        ledger.record(call())
        ledger._file()
    assert 0 < ledger.waiting_bytes <= 1000
    assert 0 < ledger.lost < 20
    await ledger.close()


async def test_a_long_outage_fills_many_files_and_none_is_read_whole_into_memory(
    ledger: Ledger, database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.router.ledger.spool.PIECE_BYTES", 2000)
    for _ in range(60):
        ledger.record(call())
        ledger._file()
    assert len(list(folder.iterdir())) > 3
    async with ledger:
        assert ledger.totals.requests == 60
    assert list(folder.iterdir()) == []
