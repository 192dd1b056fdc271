"""One delivery round by hand; the desk does the same all the time."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from quarterdeck.house import at_hand
from tasks.delivery import deliver_round


@flow(name="deliver", flow_run_name="delivery round", timeout_seconds=600, persist_result=False)
async def deliver() -> "State[None]":
    """Send every message that may go now, in order per chat."""
    async with at_hand() as house:
        told = await deliver_round(house)
    return Completed(message=f"{told.sent} sent, {told.waiting} waiting, {told.dead} dead.")
