"""Serves the catalogue: polls every second, and runs each run in a fresh process of its own.

    python -m deployments.runner

It ends by itself when Prefect's server stays away for minutes; whoever supervises it starts it again.
Schedules are never paused: what came due meanwhile is run afterwards.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import psutil
import structlog
from prefect.runner import Runner

from deployments import leash, process
from deployments.catalogue import CATALOGUE, Entry, sweeps
from deployments.registration import deployment_of, forget_sweeps
from quarterdeck.heartbeat.service import Sweeper
from quarterdeck.house import open_house
from quarterdeck.kernel.errors import Unavailable

log = structlog.get_logger(__name__)

AT_ONCE = 8
"""Runs that may go on at the same time: each is a process of about 150 MB."""

ROSTER_PAUSE = 5.0
"""Seconds between two looks at the roster."""

CANCEL_PAUSE = 5.0
"""Seconds between two looks for runs that people cancelled."""

FAREWELL = 3.0
"""Seconds that runs have to say that they were cut off."""


class HandingOver(Runner):
    """Stops without cancelling its runs: a cancelled stage run would stop its agent and ask a person.

    The signal reaches the whole process group, so each run says by itself that it was cut off. What it
    worked on is found again by whoever comes next.
    """

    def handle_sigterm(self, *_: Any, **__: Any) -> None:
        psutil.wait_procs(psutil.Process().children(recursive=True), timeout=FAREWELL)
        os._exit(0)


async def serve() -> None:
    """Serve every entry until told to stop."""
    runner = HandingOver(name="quarterdeck", pause_on_shutdown=False, limit=AT_ONCE)
    for entry in CATALOGUE:
        await runner.aadd_deployment(deployment_of(entry))
    async with open_house() as house:
        beside = [
            asyncio.create_task(follow_roster(runner, house.sweeper)),
            asyncio.create_task(hear_cancellations(runner)),
        ]
        leash.ready()
        try:
            await runner.start()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)


async def hear_cancellations(runner: Runner, pause: float = CANCEL_PAUSE) -> None:
    """See that runs end which people cancel; done twice it is done once.

    Prefect's own runner is told by a connection, and deaf for good when that closes in order, or the server
    stays away for longer than its ten tries: each happens when the server is restarted.
    """
    while True:
        await asyncio.sleep(pause)
        if (observer := runner._cancelling_observer) is None:
            continue  # it has not begun
        try:
            await observer._check_for_cancelled_flow_runs()  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever it was, the next look may succeed; without one there is none
            log.warning("cancellations_not_looked_for", reason=str(error))


async def follow_roster(runner: Runner, sweeper: Sweeper, pause: float = ROSTER_PAUSE) -> None:
    """Serve the sweep of every agent, also of those that come, change or go while the runner goes on."""
    served: Mapping[str, Entry] = {}
    while True:
        try:
            served = await _serve(runner, served, sweeps(await sweeper.heartbeats()))
        except Exception as error:  # a roster to be mended, a server that is down: the next look may succeed
            log.warning("heartbeats_not_served", reason=str(error))
        await asyncio.sleep(pause)


async def _serve(
    runner: Runner, served: Mapping[str, Entry], entries: Sequence[Entry]
) -> Mapping[str, Entry]:
    """Serve what is new or has changed, and take away what is gone; an interrupted one may be repeated."""
    wanted = {entry.name: entry for entry in entries}
    for name, entry in wanted.items():
        if served.get(name) != entry:
            await runner.aadd_deployment(deployment_of(entry))
    if served.keys() - wanted.keys():
        await forget_sweeps(wanted)
    return wanted


def main() -> None:
    """The process. Raises `Unavailable` when Prefect's server is not there."""
    try:
        asyncio.run(serve())
    except httpx.TransportError as error:
        raise Unavailable(
            f"Prefect's server does not answer: {type(error).__name__}.",
            "Start it with `quarterdeck up`; QUARTERDECK_PREFECT_PORT says where it is.",
            code="prefect_unavailable",
        ) from error


if __name__ == "__main__":
    process.run(main)
