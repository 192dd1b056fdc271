"""The crew's HTTP routes. `app.state.crew` is the service."""

from typing import Annotated

from fastapi import Depends, Path, Query, Request
from fastapi.responses import StreamingResponse

from quarterdeck.crew.cards import AgentCard, RunCard, run_card
from quarterdeck.crew.roster import AgentEntry
from quarterdeck.crew.service import Crew
from quarterdeck.crew.waking import Wake, Woken
from quarterdeck.kernel.paging import Page
from quarterdeck.kernel.web import Known, RequestKey, problems, room

router = room("Crew")


def _crew(request: Request) -> Crew:
    crew: Crew = request.app.state.crew
    return crew


TheCrew = Annotated[Crew, Depends(_crew)]
AgentId = Annotated[str, Path(max_length=50, description="Its slug or its id.", examples=["developer"])]
RunId = Annotated[int, Path(ge=1, le=2**63 - 1, description="The `run_id` of the messages.", examples=[26])]
Follow = Annotated[bool, Query(description="Keep the answer open until the run has ended.")]


@router.get("/agents", summary="List the agents")
async def list_agents(crew: TheCrew) -> Page[AgentCard]:
    """The whole crew, and how busy each agent is."""
    return Page(items=await crew.agents())


@router.get("/agents/{agent_id}", summary="Show an agent", responses=problems(404))
async def show_agent(crew: TheCrew, agent_id: AgentId) -> AgentCard:
    """One agent."""
    return await crew.agent_card(agent_id)


@router.post("/agents", status_code=201, summary="Create an agent", responses=problems(403, 409))
async def create_agent(crew: TheCrew, caller: Known, wanted: AgentEntry) -> AgentCard:
    """The owner's right: an agent may be any program. 409: an agent or a person has this slug."""
    return await crew.create_agent(caller, wanted)


@router.put("/agents/{agent_id}", summary="Change an agent", responses=problems(403, 404, 409))
async def change_agent(crew: TheCrew, caller: Known, agent_id: AgentId, wanted: AgentEntry) -> AgentCard:
    """Make it as the body says; what is left out has its default. Runs under way go on as they were."""
    return await crew.change_agent(caller, agent_id, wanted)


@router.post("/agents/{agent_id}/wake", summary="Wake an agent", responses=problems(403, 404, 409))
async def wake_agent(
    crew: TheCrew, caller: Known, agent_id: AgentId, wanted: Wake, request_key: RequestKey = ""
) -> Woken:
    """Put a few words into the main session of an agent of OpenClaw.

    409: the agent is disabled or of another runtime, or its gateway refused. 503: its gateway is down.
    """
    return await crew.wake(caller, agent_id, wanted, request_key)


@router.get("/runs/{run_id}", summary="Show an agent run", responses=problems(404))
async def show_run(crew: TheCrew, run_id: RunId) -> RunCard:
    """How it stands, or how it ended."""
    return run_card(await crew.run(run_id))


@router.get(
    "/runs/{run_id}/log",
    summary="Read or follow the log of an agent run",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {}}, "description": "What the agent said"}, **problems(404)},
)
async def read_log(crew: TheCrew, run_id: RunId, follow: Follow = False) -> StreamingResponse:
    """Plain text; what is not UTF-8 becomes `�`. Long logs keep their beginning and their end."""
    said = await crew.log(run_id, live=follow)
    return StreamingResponse(said, media_type="text/plain")
