"""Sweep an agent: look for its work in every source, start it, bring on what stands still.

At most one sweep of an agent goes on at a time, wherever it was started; a tick that comes meanwhile is
counted and ends at once. Runs that are started here go on without the flow.
"""

import asyncio
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from quarterdeck.heartbeat.cards import SweepCard
from quarterdeck.heartbeat.model import Result
from quarterdeck.heartbeat.service import Steps
from quarterdeck.house import at_hand
from quarterdeck.kernel.errors import Conflict
from tasks.heartbeat import look_into, recover, start

STEPS = Steps(look=look_into, recover=recover, start=start)

QUIET = "NothingFound"
"""The state of a run that found nothing: it is purged early, its row stays."""


@flow(name="sweep", flow_run_name="sweep · {agent}", timeout_seconds=540, persist_result=False)
async def sweep(
    agent: str, delay: Annotated[float, Field(ge=0, le=60)] = 0, cause: str = "schedule"
) -> "State[None]":
    """Find, start and bring on the work of one agent.

    Args:
        agent: Slug of the agent, for example developer.
        delay: Seconds to wait first, so that agents do not ask their sources in the same second.
        cause: Why it is swept now; stands in its record.
    """
    await asyncio.sleep(delay)
    async with at_hand() as house:
        try:
            swept = await house.sweeper.sweep(agent, cause, STEPS)
        except Conflict as refusal:
            return Completed(name="Skipped", message=str(refusal))
    return _state(swept)


def _state(swept: SweepCard) -> "State[None]":
    match swept.result:
        case Result.QUIET:
            return Completed(name=QUIET, message="Every source was looked into; there was nothing to do.")
        case Result.FAILED:
            return Failed(message=swept.detail)
        case Result.DEFERRED:
            return Completed(name="Deferred", message=swept.detail)
    facts = [f"{swept.found} found, {swept.started} started"]
    facts += [f"{len(swept.suspected)} suspected"] if swept.suspected else []
    facts += [f"{len(swept.confirmed)} stuck"] if swept.confirmed else []
    down = [
        f"{name} {s.state}" for name, s in swept.sources.items() if s.state not in ("ok", "not configured")
    ]
    name = "Degraded" if swept.result is Result.DEGRADED else None
    return Completed(name=name, message="; ".join([*facts, *down]))
