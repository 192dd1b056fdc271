"""One round of sending what the outbox holds."""

from quarterdeck.house import House
from quarterdeck.notify.model import Round
from tasks.step import step


@step("delivery round", seconds=300, retries=3)
async def deliver_round(house: House) -> Round:
    """Send everything that may go now."""
    return await house.notify.deliver_round()
