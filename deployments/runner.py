"""Serves the catalogue: polls every second, and runs each run in a fresh process of its own.

    python -m deployments.runner

It ends by itself when Prefect's server stays away for minutes; whoever supervises it starts it again.
Schedules are never paused: what came due meanwhile is run afterwards.
"""

import asyncio

from prefect.runner import Runner

from deployments import leash
from deployments.catalogue import CATALOGUE
from deployments.registration import deployment_of

AT_ONCE = 8
"""Runs that may go on at the same time: each is a process of about 150 MB."""


async def serve() -> None:
    """Serve every entry until told to stop."""
    runner = Runner(name="quarterdeck", pause_on_shutdown=False, limit=AT_ONCE)
    for entry in CATALOGUE:
        await runner.aadd_deployment(deployment_of(entry))
    leash.ready()
    await runner.start()


if __name__ == "__main__":
    asyncio.run(serve())
