"""From a delivery at the door to the stage's agent at work, on a real desk with a fake Plane behind it."""

import asyncio
import os
import statistics
from contextlib import suppress
from datetime import UTC, datetime

import httpx
from sqlmodel import col, select

from quarterdeck.crew.model import AgentRun
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.identity import owner
from tests.fakes.plane import FakePlane

Row = tuple[str, str, str]
OWNER = owner("bench")
PATIENCE = 60.0
FORGOTTEN_WITHIN = 4.0
"""Seconds until the web process has forgotten that there was no connection."""


async def measure_started(house: House, address: str, project: str, count: int) -> Row:
    """File `count` issues one after the other, each when the former's agent has ended."""
    load = os.getloadavg()[0]
    with FakePlane(limit=1_000_000) as plane:
        theirs, anna = plane.books.project("BNCH"), plane.books.person("anna")
        async with house.database.command("connect") as unit:
            await house.connections.put(unit, "plane", "default", plane.connection, Source.API)
        await asyncio.sleep(FORGOTTEN_WITHIN)
        await house.mirror.link(OWNER, project, "BNCH")
        async with httpx.AsyncClient(base_url=address, timeout=PATIENCE) as client:
            times = []
            for number in range(count + 1):
                plane.books.file(theirs, anna, f"Greet {number}")
                times.append(await _started(house, client, plane))
    waits = times[1:]  # the first flow of a process is slower
    said = (
        f"median {statistics.median(waits):.2f} s ({min(waits):.2f} to {max(waits):.2f}, n={len(waits)},"
        f" load {load:.1f} before and {os.getloadavg()[0]:.1f} after)"
    )
    return ("delivery -> stage started", "median <= 0.7 s", said)


async def _started(house: House, client: httpx.AsyncClient, plane: FakePlane) -> float:
    """Seconds from the moment at which Plane rings to the start of the agent's process."""
    hook = next(h for h in reversed(plane.hooks) if h.about == "issue created")
    last, rang = await _newest(house), datetime.now(UTC)
    answer = await client.post("/webhooks/plane", content=hook.body, headers=dict(hook.headers))
    assert answer.status_code == 202, answer.text
    async with asyncio.timeout(PATIENCE):
        while (run := await _begun(house, last)) is None:
            await asyncio.sleep(0.05)
        assert run.started_at is not None
        with suppress(Conflict):  # it was quicker
            await house.engine.cancel(run.item_key, OWNER)
        while await house.crew.open_runs():
            await asyncio.sleep(0.05)
    return (run.started_at - rang).total_seconds()


async def _newest(house: House) -> int:
    async with house.database.read() as session:
        return (
            await session.exec(select(AgentRun.id).order_by(col(AgentRun.id).desc()).limit(1))
        ).first() or 0


async def _begun(house: House, after: int) -> AgentRun | None:
    query = select(AgentRun).where(col(AgentRun.id) > after, col(AgentRun.started_at).is_not(None))
    async with house.database.read() as session:
        return (await session.exec(query.order_by(col(AgentRun.id)).limit(1))).first()
