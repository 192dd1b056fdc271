"""The router's upkeep on a schedule; what nobody asks for in time, the router does by itself."""

from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from quarterdeck.house import at_hand
from tasks.router import ask_router

Job = Literal["probe", "aggregate", "retention", "backup", "rotate"]


@flow(name="router upkeep", flow_run_name="router {job}", timeout_seconds=900, persist_result=False)
async def router_upkeep(job: Job) -> "State[None]":
    """Probe the backends, bring sums up to date, drop what is old, back up, or seal keys anew."""
    async with at_hand() as house:
        return Completed(message=await ask_router(house, job))
