"""A desk beside a Prefect that answers, and takes no stage run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from deployments.desk import AFTER_A_BREAK, Desk
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.settings import Settings
from tests.fakes.clock import ManualClock
from tests.fakes.homes import ROSTER, furnished
from tests.fakes.stage_work import PIPELINE, filed
from tests.waiting import until

SENT = "/api/deployments/name/stage/stage"


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    settings = Settings(home=tmp_path, stages="deployment", blocks=False)
    roster = ROSTER.replace("slug: analyst,", "slug: analyst, max_concurrent: 9,")
    async with furnished(database, settings, pipeline=PIPELINE, roster=roster) as house:
        yield house


async def test_a_stage_run_that_breaks_is_tried_again_after_a_pause(house: House) -> None:
    house.database.clock = clock = ManualClock()
    asked: list[str] = []

    def prefect(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200 if request.url.path == "/api/health" else 404, json=True)

    transport = httpx.MockTransport(prefect)
    async with httpx.AsyncClient(transport=transport, base_url="http://prefect/api") as api:
        desk = Desk(house, api)
        running = asyncio.create_task(desk.run())
        for count in range(1, 4):
            await filed(house)
            await until(lambda count=count: asked.count(SENT) >= count)
        await asyncio.gather(*(house.engine.block_hopeless() for _ in range(20)))  # there was time enough
        assert asked.count(SENT) == 3, "each was tried once"
        clock.go(AFTER_A_BREAK.total_seconds() + 1)
        await filed(house)
        await until(lambda: asked.count(SENT) == 7)
        desk.stopping.set()
        with suppress(asyncio.CancelledError):
            await running
