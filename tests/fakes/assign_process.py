"""A desk that sees assigned runs through, for tests that kill it.

    forks.begin("tests.fakes.assign_process", home, database url)

It hands the agent `counted` something to do under one request key, and stays until every run has ended.
"""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from quarterdeck.crew.model import ASSIGNED
from quarterdeck.house import open_house
from quarterdeck.kernel.identity import owner
from quarterdeck.pipeline.assignments import Wish
from tests.fakes.company import settings_of


async def work(home: str, url: str) -> None:
    async with open_house(settings_of(Path(home), url)) as house:
        wish = Wish("counted", "ET-001", "Count yourself.", timedelta(minutes=2))
        await house.assignments.assign(owner("test"), wish, "once")
        while [run for run in await house.crew.open_runs(house.crew.host) if run.stage == ASSIGNED]:
            await house.assignments.see_through()
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
