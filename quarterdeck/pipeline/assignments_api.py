"""Giving an agent something to do by hand, and hearing that it is done. `app.state.assignments`, `.crew`."""

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.crew.api import AgentId, RunId, TheCrew
from quarterdeck.crew.callbacks import Callback
from quarterdeck.crew.cards import RunCard, run_card
from quarterdeck.kernel.outside import STORABLE
from quarterdeck.kernel.web import Known, RequestKey, problems, room
from quarterdeck.pipeline.api import Reason
from quarterdeck.pipeline.assignments import Assignments, Wish

router = room("Crew")


class Assignment(BaseModel):
    """What an agent shall do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task_id: Annotated[str, Field(min_length=1, max_length=100, examples=["ET-007"]), STORABLE] = Field(
        description="The work item: its key."
    )
    prompt: Annotated[str, Field(min_length=1, max_length=100_000), STORABLE] = Field(
        description="What is asked, in words."
    )
    limit_seconds: float = Field(default=1800, gt=0, le=86_400, description="When the run is ended by force.")


def _assignments(request: Request) -> Assignments:
    assignments: Assignments = request.app.state.assignments
    return assignments


TheAssignments = Annotated[Assignments, Depends(_assignments)]


@router.post(
    "/agents/{agent_id}/assign",
    status_code=201,
    summary="Give an agent something to do",
    responses=problems(400, 403, 404, 409),
)
async def assign(
    crew: TheCrew,
    assignments: TheAssignments,
    caller: Known,
    agent_id: AgentId,
    wanted: Assignment,
    request_key: Annotated[str, Header(alias="Idempotency-Key", max_length=100)] = "",
) -> RunCard:
    """Start a run through the agent's runtime, in the session `task:<task_id>`.

    400: the agent is disabled, or has no free slot. The item's stage goes on as it was.
    """
    agent = await crew.agent_named(agent_id)
    wish = Wish(agent.slug, wanted.task_id, wanted.prompt, timedelta(seconds=wanted.limit_seconds))
    return run_card(await assignments.assign(caller, wish, request_key))


@router.post(
    "/runs/{run_id}/cancel", summary="Stop a run that was given by hand", responses=problems(403, 404, 409)
)
async def cancel_run(
    assignments: TheAssignments,
    caller: Known,
    run_id: RunId,
    why: Reason | None = None,
    request_key: RequestKey = "",
) -> RunCard:
    """Answers when the agent has ended. The item goes on as it was.

    409: the run belongs to a stage (cancel the item instead), or has ended. 503: it is another host's.
    """
    return await assignments.cancel(caller, run_id, why.comment if why else "", request_key)


@router.post("/agents/callback", summary="Report a run as finished", responses=problems(403, 404, 409))
async def callback(crew: TheCrew, caller: Known, told: Callback) -> RunCard:
    """For agents that report their end themselves. The first report counts; later ones change nothing."""
    caller.must_write()
    return await crew.callbacks.take(told)
