"""The heartbeats' HTTP routes. `app.state.sweeper` is the service."""

from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import BaseModel, Field

from quarterdeck.heartbeat.cards import Breaker, HeartbeatCard
from quarterdeck.heartbeat.service import Sweeper
from quarterdeck.kernel.outside import Text
from quarterdeck.kernel.paging import Page
from quarterdeck.kernel.web import Known, RequestKey, problems, room

router = room("Heartbeats")


def _sweeper(request: Request) -> Sweeper:
    sweeper: Sweeper = request.app.state.sweeper
    return sweeper


TheSweeper = Annotated[Sweeper, Depends(_sweeper)]
Agent = Annotated[str, Path(max_length=50, examples=["developer"])]
WorkName = Annotated[
    Text,
    Field(
        min_length=1,
        max_length=500,
        examples=["multica:ENG-12"],
        description="As it was shown; or its item's key.",
    ),
]


class WorkIn(BaseModel):
    """Which work is meant."""

    work: WorkName
    comment: Annotated[Text, Field(max_length=2000)] = ""


class LimitIn(BaseModel):
    """How many rounds it may take."""

    work: WorkName
    rounds: int = Field(ge=1, le=100_000)


@router.get("/heartbeats", summary="Show how all heartbeats stand")
async def list_heartbeats(sweeper: TheSweeper) -> Page[HeartbeatCard]:
    """Last sweep and next, state of each source, what stands still, what is held back."""
    return Page(items=await sweeper.overview())


@router.post(
    "/heartbeats/{agent}/unblock", summary="Let held-back work go on", responses=problems(403, 404, 409)
)
async def unblock(
    sweeper: TheSweeper, caller: Known, agent: Agent, wanted: WorkIn, request_key: RequestKey = ""
) -> Breaker:
    """Its breaker, timeouts, repeats and budget begin anew, and it is to do again in every place."""
    return await sweeper.unblock(caller, agent, wanted.work, wanted.comment, request_key)


@router.post("/heartbeats/{agent}/limit", summary="Give work more rounds", responses=problems(403, 404))
async def raise_limit(sweeper: TheSweeper, caller: Known, agent: Agent, wanted: LimitIn) -> Breaker:
    """What was paused for want of rounds goes on."""
    return await sweeper.raise_limit(caller, agent, wanted.work, wanted.rounds)


@router.post(
    "/heartbeats/{agent}/allow", summary="Allow work that waits for a yes", responses=problems(403, 404)
)
async def allow(sweeper: TheSweeper, caller: Known, agent: Agent, wanted: WorkIn) -> Breaker:
    """Work that involves money or outside resources is begun at the next sweep."""
    return await sweeper.allow(caller, agent, wanted.work)
