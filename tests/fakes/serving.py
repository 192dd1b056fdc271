"""A listener of a whole house, with its surface, in a process of its own that a test can kill.

    python -m tests.fakes.serving <database url> <home> [<address of the router>]

It serves until it is killed. What a listener imports only when it is opened is imported at once: a test
forks this process from one that has its imports done, and they take seconds.
"""

import asyncio
import sys
from pathlib import Path

import quarterdeck.surfaces.desk.commands
import quarterdeck.surfaces.telegram.surface
import quarterdeck.telegram.forwarding
import quarterdeck.telegram.gateway  # noqa: F401
from quarterdeck.house import open_house
from quarterdeck.listener import listen
from tests.fakes.company import settings_of


async def main(url: str, home: str, router: str = "") -> None:
    settings = settings_of(Path(home), url)
    if router:
        settings = settings.model_copy(update={"router_url": router})
    async with open_house(settings) as house:
        await listen(house, asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
