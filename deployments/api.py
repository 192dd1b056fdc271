"""Deployments over HTTP: what there is, and a way to start any of it."""

from typing import Annotated, Any

from fastapi import Header, Request
from pydantic import BaseModel, Field

from deployments import catalogue
from deployments.starting import RunOut, run_by_name
from quarterdeck.kernel.web import Known, problems, room

router = room("Deployments")


class DeploymentOut(BaseModel):
    """One entry of the catalogue."""

    name: str = Field(examples=["stage"])
    description: str
    schedule: str | None = Field(description="Cron expression; null = never by itself.")
    timezone: str | None
    tags: list[str]


class DeploymentList(BaseModel):
    """The whole catalogue, on one page."""

    items: list[DeploymentOut]
    next_cursor: str | None = None


class RunRequest(BaseModel):
    """What to start it with; what is left out has the deployment's own value."""

    parameters: dict[str, Any] = Field(default_factory=dict, examples=[{"item": "ET-007"}])


@router.get("/deployments", summary="List what can be started")
async def list_deployments() -> DeploymentList:
    """Everything that can be started."""
    return DeploymentList(items=[_shown(entry) for entry in catalogue.CATALOGUE])


@router.post(
    "/deployments/{name}/run", status_code=202, summary="Start a deployment", responses=problems(403, 404)
)
async def run_deployment(
    name: str,
    wanted: RunRequest,
    request: Request,
    caller: Known,
    request_key: Annotated[
        str,
        Header(
            alias="Idempotency-Key",
            max_length=200,
            description="Repeating a request with the same key starts nothing: the answer is the first run.",
        ),
    ] = "",
) -> RunOut:
    """Start a deployment. 422 names the parameter that is wrong; 503 when Prefect's server is down."""
    caller.must_write()
    key = f"{caller.name} {name} {request_key}" if request_key else ""
    return await run_by_name(request.app.state.settings, name, wanted.parameters, key)


def _shown(entry: catalogue.Entry) -> DeploymentOut:
    schedule = entry.schedule
    return DeploymentOut(
        name=entry.name,
        description=entry.description,
        schedule=schedule.cron if schedule else None,
        timezone=schedule.timezone if schedule else None,
        tags=list(entry.tags),
    )
