"""Starts the listener where bots are and nobody serves them."""

from datetime import datetime

from prefect import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType

from quarterdeck.house import House
from tasks.step import step

DEPLOYMENT = "listen"

START_SECONDS = 40.0
"""So long a run may take until it serves a bot; an older one that nobody hears of is dead."""

_ON_ITS_WAY = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING)


@step("start the listener", seconds=60, retries=3)
async def restart_listener(house: House) -> int:
    """1 if one was started."""
    return int(await start_listener(house))


async def start_listener(house: House) -> bool:
    """Start a run of the listener if bots are there, nobody serves them, and none is on its way.

    Cheap where there is no bot: two small queries, and nothing is asked of Prefect.
    """
    await house.bots.adopt_connections()
    if not await house.bots.is_needed():
        return False
    async with get_client() as client:
        begun = await client.read_flow_runs(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[DEPLOYMENT])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_ON_ITS_WAY)))
            ),
            limit=20,
        )
        if any(_may_still_come(run, house.database.clock.now()) for run in begun):
            return False
        deployment = await client.read_deployment_by_name(f"{DEPLOYMENT}/{DEPLOYMENT}")
        await client.create_flow_run_from_deployment(deployment.id)
    return True


def _may_still_come(run: FlowRun, now: datetime) -> bool:
    return run.start_time is None or (now - run.start_time).total_seconds() < START_SECONDS
