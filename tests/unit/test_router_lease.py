"""One router on one database."""

import asyncio

import psutil
import psycopg
import pytest
from psycopg.pq import TransactionStatus

from quarterdeck.kernel.errors import Conflict, Unavailable
from quarterdeck.router.storage import lease
from quarterdeck.router.storage.lease import Lease


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOOK", 0.05)
    monkeypatch.setattr(lease, "PATIENCE", 0.3)


def end_connections(database_url: str) -> None:
    """What a restart of PostgreSQL does to whoever is connected."""
    with psycopg.connect(database_url.replace("+psycopg", "", 1), autocommit=True) as admin:
        admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'quarterdeck-router'"
        )


async def until_taken_again(held: Lease, before: object) -> None:
    async with asyncio.timeout(10):
        while held._connection is before or held._connection is None or held._connection.closed:
            await asyncio.sleep(0.01)


async def test_a_second_router_is_refused_and_told_what_to_do(database_url: str) -> None:
    async with Lease(database_url):
        with pytest.raises(Conflict, match="Another router runs") as refusal:
            async with Lease(database_url):
                pass
        assert "QUARTERDECK_DATABASE_URL" in refusal.value.instruction


async def test_the_next_router_starts_as_soon_as_the_former_has_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PATIENCE", 30.0)

    async def next_router() -> bool:
        async with Lease(database_url):
            return True

    async with Lease(database_url):
        waiting = asyncio.create_task(next_router())
        await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting


async def test_a_router_whose_database_was_away_takes_its_lease_again(database_url: str) -> None:
    async with Lease(database_url) as held:
        before = held._connection
        end_connections(database_url)
        await until_taken_again(held, before)
        with pytest.raises(Conflict):
            async with Lease(database_url):
                pass
        assert not held.lost.done()


async def test_a_router_gives_way_to_one_that_came_while_its_database_was_away(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Lease(database_url) as first:
        monkeypatch.setattr(lease, "LOOK", 0.5)
        end_connections(database_url)
        async with Lease(database_url):
            with pytest.raises(Conflict, match="Another router"):
                await asyncio.wait_for(asyncio.shield(first.lost), 10)


@pytest.mark.services  # it freezes a process of the server
async def test_a_stop_does_not_wait_for_a_postgresql_that_is_frozen(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "CLOSE_SECONDS", 0.3, raising=False)
    held = await Lease(database_url).__aenter__()
    assert held._connection is not None
    server = psutil.Process(held._connection.info.backend_pid)
    server.suspend()
    try:
        async with asyncio.timeout(9):  # psycopg would wait for ten
            while held._connection.info.transaction_status is not TransactionStatus.ACTIVE:
                await asyncio.sleep(0.01)
            await held.__aexit__(None, None, None)
    finally:
        server.resume()
    async with asyncio.timeout(10), Lease(database_url):
        pass


async def test_without_a_database_it_is_the_database_that_is_named() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        async with Lease("postgresql+psycopg://nobody@127.0.0.1:1/none"):
            pass
