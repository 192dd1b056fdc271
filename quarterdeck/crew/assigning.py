"""Runs that belong to no stage: somebody asked for one by hand, or work of another source was found."""

from datetime import timedelta
from uuid import UUID

from quarterdeck.crew.model import ASSIGNED, AgentRun
from quarterdeck.crew.service import Crew
from quarterdeck.kernel.database import Unit

FOLLOWED = "assignments"
"""Bus topic: there is such a run to start and follow; the identity is the run's id."""


async def assign(
    crew: Crew, unit: Unit, item: tuple[UUID, str], agent: str, limit: timedelta, key: str, prompt: str
) -> AgentRun:
    """Open one on an item (id and key); whoever follows them is woken. The same `key` gives the same run.

    Raises `NotFound`, and `Conflict` (`busy`, `agent_disabled`) when the agent takes nothing up now.
    """
    item_id, item_key = item
    run = await crew.open_run(
        unit,
        item_id=item_id,
        item_key=item_key,
        stage=ASSIGNED,
        round=1,
        agent=agent,
        limit_seconds=limit.total_seconds(),
        idempotency_key=key,
        prompt=prompt,
    )
    unit.wake(FOLLOWED, run.id)
    return run


async def assign_anew(crew: Crew, unit: Unit, run: AgentRun) -> AgentRun:
    """The same once more, in a run of its own: one for each. Raises as `assign` does."""
    again = await crew.open_anew(unit, run)
    unit.wake(FOLLOWED, again.id)
    return again
