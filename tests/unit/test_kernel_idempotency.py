"""A request that is repeated has one effect and one answer, also while the first is under way."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Invalid
from quarterdeck.kernel.idempotency import KEPT, Request, earlier_answer, remember
from tests.fakes.clock import ManualClock


def request(body: str = "x", *, caller: str = "anna", operation: str = "file") -> Request:
    return Request(caller, "key", operation, {"body": body})


async def do(database: Database, wanted: Request, answer: str, gate: asyncio.Event | None = None) -> str:
    """The answer that is given: the earlier one, else this."""
    async with database.command("work") as unit:
        if earlier := await earlier_answer(unit, wanted):
            return str(earlier["answer"])
        if gate:
            await gate.wait()
        await remember(unit, wanted, {"answer": answer})
    return answer


async def test_a_repetition_is_answered_as_the_first(database: Database):
    assert [await do(database, request(), text) for text in ("one", "two")] == ["one", "one"]


async def test_a_repetition_waits_for_the_first_that_is_under_way(database: Database):
    gate = asyncio.Event()
    first = asyncio.create_task(do(database, request(), "one", gate))
    await happens(database, "idle in transaction", "Client")
    second = asyncio.create_task(do(database, request(), "two"))
    await happens(database, "active", "Lock")
    gate.set()
    assert await asyncio.gather(first, second) == ["one", "one"]


async def happens(database: Database, state: str, waits_for: str) -> None:
    """Return when another connection to this database is in that state."""
    others = text(
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and pid <> pg_backend_pid() and state = :state and wait_event_type = :waits_for"
    )
    while True:
        async with database.engine.connect() as connection:
            found = await connection.execute(others, {"state": state, "waits_for": waits_for})
            if found.scalar_one():
                return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("other", [request("y"), request(operation="create")])
async def test_a_key_stands_for_one_request(database: Database, other: Request):
    await do(database, request(), "one")
    with pytest.raises(Invalid) as refused:
        await do(database, other, "two")
    assert refused.value.data == {"field": "Idempotency-Key"}


async def test_a_key_belongs_to_its_caller(database: Database):
    await do(database, request(), "one")
    assert await do(database, request(caller="viktor"), "two") == "two"


async def test_a_key_is_forgotten_after_a_week(database_url: str):
    calendar = ManualClock()
    database = Database(database_url, clock=calendar)
    await do(database, request(), "one")
    calendar.time += KEPT
    assert await do(database, request(), "two") == "one"
    calendar.time += timedelta(seconds=1)
    assert await do(database, request("y"), "three") == "three"
    await database.close()
