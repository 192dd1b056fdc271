"""The `model` runtime: an agent is a model behind the router, asked once for each run.

What it answers becomes files of the item (docs/reference/text-agents.md); its tokens and their cost are
the run's.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.crew.errand import JOB
from quarterdeck.crew.folder import RunFolder
from quarterdeck.crew.remote import Order, RemoteRuntime
from quarterdeck.crew.runtime import Outcome
from quarterdeck.kernel import http
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.kernel.outside import STORABLE

LOOKS = 3
PAUSE = 1.0
"""Seconds between looks: a key that was made just now is not known to the router yet."""


class Models(Protocol):
    """The way to models: the house binds it to the router."""

    def address(self) -> str:
        """Where the router is."""
        ...

    async def key_of(self, agent: str) -> str:
        """The key with which an agent's calls are made."""
        ...

    async def spent(self, agent: str, item: str, since: datetime, tokens: int) -> tuple[int, int] | None:
        """Tokens and micro-dollars of an agent's calls for an item, as soon as so many tokens are booked.

        None = the router did not say in time.
        """
        ...


class Parameters(BaseModel):
    """An agent's `parameters` in the roster; `model` may stand beside them instead."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=200), STORABLE] = ""
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    silence_seconds: float = Field(default=300, gt=0, le=3600)


class ModelRuntime(RemoteRuntime):
    """Agents that are a model. `models` says where they are and with which key."""

    client = "quarterdeck.crew.model_client"

    def __init__(self, models: Models, *, grace: float = 10.0) -> None:
        super().__init__(grace=grace)
        self._models = models

    async def order(self, agent: str, model: str, parameters: Mapping[str, Any]) -> Order:
        wanted = Parameters.model_validate(parameters)
        named = wanted.model or model
        if not named:
            raise ValueError("model: the roster names none")
        facts = wanted.model_dump(exclude_none=True) | {"model": named, "url": self._models.address()}
        return Order(facts, {"key": await self._models.key_of(agent)})

    async def look(self, agent: str, order: Order) -> str:
        """See `RemoteRuntime.look`: does the router know the agent's key, and the model?"""
        url, model = str(order.facts["url"]), str(order.facts["model"])
        listed = await _models(url, order.secrets["key"])
        if model not in listed:
            raise NotFound.among("model", model, listed)
        return f"{model} at {url}"

    async def wait(self, folder: Path) -> Outcome:
        """See `Runtime.wait`. What the calls cost is asked of the router, which knows the prices."""
        outcome = await super().wait(folder)
        if outcome.started_at is None or not outcome.tokens:
            return outcome
        job = RunFolder(folder).facts(JOB)
        spent = await self._models.spent(
            job["agent"]["slug"], job["item"]["key"], outcome.started_at, outcome.tokens
        )
        return replace(outcome, tokens=spent[0], cost_micro_usd=spent[1]) if spent else outcome


async def _models(url: str, key: str) -> list[str]:
    """The models that the router offers to this key."""
    async with http.client("The router", base_url=url, seconds=10) as router:
        for tries in range(1, LOOKS + 1):
            answer = await router.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            try:
                told = http.json_of(answer)
            except Conflict:
                if tries == LOOKS or answer.status_code != 401:
                    raise
                await asyncio.sleep(PAUSE)
                continue
            rows = told.get("data") if isinstance(told, Mapping) else None
            return [str(row.get("id")) for row in rows or () if isinstance(row, Mapping)]
    return []
