"""Starting an entry of the catalogue: by hand, over the API, or because a webhook asks for it."""

from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError, best_match
from pydantic import BaseModel

from deployments import catalogue
from deployments.prefect_api import prefect_api, schema_of
from quarterdeck.kernel.errors import Invalid, Unavailable
from quarterdeck.kernel.http import json_of
from quarterdeck.kernel.inbox import Delivery, Handler, Ignored
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.doors import TRIAL


class RunOut(BaseModel):
    """The run that was asked for; it starts within seconds."""

    flow_run_id: str
    name: str
    deployment: str


async def run_by_name(settings: Settings, name: str, parameters: dict[str, Any], key: str = "") -> RunOut:
    """Start a catalogue entry. The same `key` starts it once.

    Raises `NotFound`, `Invalid` (names the parameter) or `Unavailable`.
    """
    entry = catalogue.find(name)
    async with prefect_api(settings) as api:
        known = await schema_of(api, entry.name)
        if known is None:
            raise Unavailable(f"Prefect does not know {name!r} yet.", "Run `quarterdeck setup` once.")
        deployment_id, schema = known
        check(parameters, schema)
        wanted = {"parameters": parameters} | ({"idempotency_key": key} if key else {})
        started = await api.post(f"/deployments/{deployment_id}/create_flow_run", json=wanted)
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


# Because a webhook asks for it


def by_webhook(settings: Settings) -> Handler:
    """The handler of generic webhooks: each names an entry and its parameters."""

    async def start(delivery: Delivery) -> str:
        if delivery.event == TRIAL:
            return Ignored("A test: nothing is started.")
        name, parameters = asked_for(delivery.payload())
        key = f"webhook {delivery.id}.{delivery.replays}"
        run = await run_by_name(settings, name, parameters, key)
        return f"Started {run.deployment}: run {run.name!r}."

    return start


def asked_for(payload: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The entry and the parameters that a payload names. Raises `Invalid` when it does not.

    Standard Webhooks calls them `type` and `data`; `event` and `payload` are understood as well.
    """
    name = payload.get("type", payload.get("event"))
    parameters = payload.get("data", payload.get("payload", {}))
    if not isinstance(name, str) or not name:
        raise Invalid(
            "The delivery does not say what to start.",
            'Send {"type": "<an entry of GET /api/v1/deployments>", "data": {<its parameters>}}.',
            field="type",
        )
    if not isinstance(parameters, dict):
        raise Invalid("`data` must be an object.", "Name each parameter in it.", field="data")
    return name, parameters
