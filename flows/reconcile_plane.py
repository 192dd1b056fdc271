"""Plane never repeats a delivery that was refused: every two minutes somebody looks there."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from quarterdeck.house import at_hand
from tasks.tracker import look_into_plane


@flow(name="reconcile Plane", flow_run_name="Plane", timeout_seconds=240, persist_result=False)
async def reconcile_plane() -> "State[None]":
    """Read what changed in linked projects, and the comments of items that wait for approval."""
    async with at_hand() as house:
        if not await house.plane.is_connected():
            return Completed(message="Plane is not connected.")
        if not await house.mirror.links():
            return Completed(message="No project follows one of Plane's.")
        return Completed(message=f"{await look_into_plane(house)}.")
