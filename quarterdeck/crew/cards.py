"""The crew as the API shows it. An agent's parameters stay inside: they may hold secrets."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from quarterdeck.crew.model import Agent, AgentRun, RunState


class AgentCard(BaseModel):
    """One agent, and how busy it is."""

    id: UUID
    slug: str = Field(examples=["developer"])
    name: str = Field(examples=["Developer"])
    model: str
    system_prompt: str
    runtime: str = Field(examples=["command"])
    max_concurrent: int = Field(examples=[1])
    status: Literal["idle", "working", "offline"] = Field(description="`offline`: disabled in the roster.")
    current_tasks: int = Field(description="Runs that have not ended.")
    is_enabled: bool
    created_at: datetime
    updated_at: datetime


class RunCard(BaseModel):
    """One execution of one agent on one work item."""

    id: int = Field(examples=[26])
    item: str = Field(examples=["ET-007"])
    stage: str = Field(examples=["development"])
    round: int
    agent: str = Field(examples=["developer"])
    runtime: str = Field(examples=["command"])
    state: RunState
    limit_seconds: float
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    seconds: float | None = Field(description="How long it ran; null while it runs, or if it never did.")
    exit_code: int | None = Field(description="0 = finished, -9 = killed at the time limit, other = failed.")
    timed_out: bool
    cancelled: bool
    error: str
    session_key: str = Field(examples=["task:ET-007"], description="What its conversation is called.")
    result: dict[str, Any] | None = Field(description="What the agent reported.")
    tokens: int | None
    cost_usd: Decimal | None
    log: str = Field(description="Where its log can be read.", examples=["/api/v1/runs/26/log"])


def agent_card(agent: Agent, open_runs: int) -> AgentCard:
    status = "offline" if not agent.is_enabled else "working" if open_runs else "idle"
    return AgentCard.model_validate(agent.model_dump() | {"status": status, "current_tasks": open_runs})


def run_card(run: AgentRun) -> RunCard:
    began, ended = run.started_at, run.ended_at
    cost = run.cost_micro_usd
    return RunCard.model_validate(
        run.model_dump()
        | {
            "item": run.item_key,
            "session_key": f"task:{run.item_key}",
            "seconds": (ended - began).total_seconds() if began and ended else None,
            "cost_usd": None if cost is None else Decimal(cost) / 1_000_000,
            "log": f"/api/v1/runs/{run.id}/log",
        }
    )
