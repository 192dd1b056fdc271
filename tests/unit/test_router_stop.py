"""How the router ends what runs beside its calls."""

import asyncio
from pathlib import Path

from sqlalchemy import text

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.postgres import EmbeddedPostgres
from quarterdeck.router.ending import ended
from tests.fakes.frozen import frozen

UNDER_WAY = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'"


async def test_what_runs_beside_the_calls_ends_together_however_long_each_takes() -> None:
    at_its_end = asyncio.Barrier(3)

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await at_its_end.wait()  # passes only when all three are here

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(10):
            await ended(*tasks)
    finally:
        await at_its_end.abort()  # lets go those that would wait in vain
    assert all(task.cancelled() for task in tasks)


async def test_a_query_at_a_frozen_postgresql_is_given_up(tmp_path: Path) -> None:
    """psycopg asks the server to cancel it, and waits for that: ten seconds, unless interrupted."""

    async def ask(database: Database, query: str) -> object:
        async with database.read() as session:
            return await (await session.connection()).scalar(text(query))

    with EmbeddedPostgres(tmp_path / "own", fast=True).running() as server:
        database = Database(server.url("postgres"))
        task = asyncio.create_task(ask(database, "select pg_sleep(60)"))
        while await ask(database, UNDER_WAY) != 1:
            await asyncio.sleep(0)
        with frozen(server):
            async with asyncio.timeout(9):
                await ended(task)
        assert task.cancelled()
        await database.close()
