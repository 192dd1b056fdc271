"""What OpenClaw's cron jobs report: the end of a run that was begun there as a job of its own.

A job counts as a run of ours by its session, or by its name when that is the session key it was given.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from quarterdeck.crew.callbacks import Callback, Callbacks
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound
from quarterdeck.kernel.inbox import Delivery, Ignored

MOST_ERROR = 2000


class OpenClawDoor:
    """The handler of deliveries from OpenClaw."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks

    async def __call__(self, delivery: Delivery) -> str:
        """What was done, if anything was. Raises `Unavailable` for a run of another host."""
        payload = delivery.payload()
        if payload.get("action") != "finished":
            return Ignored("only finished jobs are of interest")
        for key in _keys(payload):
            try:
                run = await self._callbacks.take(report(payload, key))
                return f"run {run.id} of {run.item} was reported as finished"
            except NotFound:
                continue
            except Conflict as error:
                return Ignored(error.detail)
        return Ignored("the job belongs to no run of ours")


def _keys(payload: Mapping[str, Any]) -> list[str]:
    job = payload.get("job")
    found = [payload.get("sessionKey")]
    if isinstance(job, Mapping):
        found += [job.get("sessionKey"), job.get("name"), job.get("declarationKey")]
    return [key for key in found if isinstance(key, str) and key]


def report(payload: Mapping[str, Any], session_key: str) -> Callback:
    """The report in our words. Raises `Invalid` for one that cannot be used."""
    usage = payload.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    failed = payload.get("status") == "error"
    error = str(payload.get("error") or "it gives no reason")[:MOST_ERROR] if failed else ""
    try:
        return Callback(
            session_key=session_key, text=str(payload.get("summary") or ""), error=error, tokens=tokens
        )
    except ValidationError as wrong:
        why = wrong.errors(include_input=False)[0]["msg"]
        raise Invalid(f"The report cannot be used: {why}.") from None
