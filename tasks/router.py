"""What the schedules ask of the router; it does the work in its own process."""

from quarterdeck.house import House
from quarterdeck.router.access import UPKEEP_SECONDS, run_job
from tasks.step import step


@step("ask the router", seconds=UPKEEP_SECONDS + 10, retries=3, run_name="router {job}")
async def ask_router(house: House, job: str) -> str:
    """Have an upkeep job done; what it did. Raises `Unavailable` while the router is down."""
    return await run_job(house.settings, job, by="prefect")
