"""A desk that sweeps, for tests that kill it.

    forks.begin("tests.fakes.sweep_process", home, database url)

It sweeps the agent `counted`, sees its runs through and writes their results back, until nothing is to do.
"""

import asyncio
import sys
from pathlib import Path

from quarterdeck.house import House, open_house
from tests.fakes.company import settings_of


async def work(home: str, url: str) -> None:
    async with open_house(settings_of(Path(home), url)) as house:
        while await found(house):
            await asyncio.sleep(0.05)


async def found(house: House) -> bool:
    """Whether there was anything to do."""
    swept = await house.sweeper.sweep("counted")
    is_busy = False
    while await house.crew.open_runs(house.crew.host):
        is_busy = True
        await house.assignments.see_through()
        await asyncio.sleep(0.05)
    return await house.sweeper.settle() > 0 or is_busy or swept.found > 0


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
