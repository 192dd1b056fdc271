"""Deployments over HTTP: what there is, and a way to start any of it."""

from typing import Any

import jsonschema
from fastapi import Request
from jsonschema.exceptions import ValidationError, best_match
from pydantic import BaseModel, Field

from deployments import catalogue
from deployments.prefect_api import prefect_api, schema_of
from quarterdeck.kernel.errors import Invalid, Unavailable
from quarterdeck.kernel.http import json_of
from quarterdeck.kernel.settings import Settings
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


class RunOut(BaseModel):
    """The run that was asked for; it starts within seconds."""

    flow_run_id: str
    name: str
    deployment: str


@router.get("/deployments")
async def list_deployments() -> DeploymentList:
    """Everything that can be started."""
    return DeploymentList(items=[_shown(entry) for entry in catalogue.CATALOGUE])


@router.post("/deployments/{name}/run", status_code=202, responses=problems(403, 404))
async def run_deployment(name: str, wanted: RunRequest, request: Request, caller: Known) -> RunOut:
    """Start a deployment. 422 names the parameter that is wrong; 503 when Prefect's server is down."""
    caller.must_write()
    return await run_by_name(request.app.state.settings, name, wanted.parameters)


def _shown(entry: catalogue.Entry) -> DeploymentOut:
    schedule = entry.schedule
    return DeploymentOut(
        name=entry.name,
        description=entry.description,
        schedule=schedule.cron if schedule else None,
        timezone=schedule.timezone if schedule else None,
        tags=list(entry.tags),
    )


async def run_by_name(settings: Settings, name: str, parameters: dict[str, Any]) -> RunOut:
    """Start a catalogue entry. Raises `NotFound`, `Invalid` (names the parameter) or `Unavailable`."""
    entry = catalogue.find(name)
    async with prefect_api(settings) as api:
        known = await schema_of(api, entry.name)
        if known is None:
            raise Unavailable(f"Prefect does not know {name!r} yet.", "Run `quarterdeck setup` once.")
        deployment_id, schema = known
        check(parameters, schema)
        started = await api.post(
            f"/deployments/{deployment_id}/create_flow_run", json={"parameters": parameters}
        )
        run = json_of(started)
    return RunOut(flow_run_id=run["id"], name=run["name"], deployment=name)


def check(parameters: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raise `Invalid` naming the parameter that does not fit the deployment's schema; unknown names too."""
    closed = schema | {"additionalProperties": False, "type": "object"}
    kind = jsonschema.Draft202012Validator
    wrong = best_match(kind(closed, format_checker=kind.FORMAT_CHECKER).iter_errors(parameters))
    if wrong is not None:
        field, reason = _explained(wrong)
        known = ", ".join(schema.get("properties", {})) or "none"
        raise Invalid(
            f"{field} {reason}.", f"Parameters of this deployment: {known}.", field=f"parameters.{field}"
        )


def _explained(wrong: ValidationError) -> tuple[str, str]:
    """Which parameter, and what about it; never its value."""
    if wrong.validator == "required":
        return next(name for name in wrong.validator_value if name not in wrong.instance), "is missing"
    if wrong.validator == "additionalProperties":
        names = wrong.schema.get("properties", {})
        return next(name for name in wrong.instance if name not in names), "is not known"
    field = ".".join(map(str, wrong.absolute_path)) or "parameters"
    if wrong.validator in ("type", "format"):
        return field, f"must be of {wrong.validator} {wrong.validator_value}"
    return field, f"does not fit: {wrong.validator} {wrong.validator_value}"
