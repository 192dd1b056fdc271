"""What the schedule does for the tracker: look for what no webhook told."""

from quarterdeck.house import House
from quarterdeck.pipeline.mirror_sweep import Swept, sweep
from tasks.step import step


@step("look for lost deliveries", seconds=110, retries=1)
async def look_into_plane(house: House) -> Swept:
    """Changes and decisions in Plane that did not arrive. Raises `Unavailable` while Plane is down."""
    return await sweep(house.mirror)
