"""The `agent_api` runtime: an agent behind a WebSocket (see `agent_api`), one chat per item."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from quarterdeck.crew import agent_api
from quarterdeck.crew.remote import Order, RemoteRuntime
from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.kernel.outside import STORABLE

Word = Annotated[str, Field(max_length=500), STORABLE]
WireName = Annotated[str, Field(min_length=1, max_length=100), STORABLE]

FALLBACKS = ("AGENT_BASE_URL", "AGENT_WS_URL")
"""Variables with an address for agents that have none of their own; the first that is set counts."""


class Parameters(BaseModel):
    """An agent's `parameters` in the roster.

    `workspace_path`: where the agent's workspace is on this host, so that files it sends reach the item.
    `text_event`, `file_event`: the names of those events on the wire.
    """

    model_config = ConfigDict(extra="forbid")

    base_url: Word = ""
    chat_id: int | None = Field(default=None, ge=0, lt=2**53)
    workspace_path: Word = ""
    attachments: list[Word] = []
    handshake_seconds: float = Field(default=10, gt=0, le=600)
    silence_seconds: float = Field(default=900, gt=0, le=7200)
    text_event: WireName = agent_api.Names().text
    file_event: WireName = agent_api.Names().file

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, base_url: str) -> str:
        if base_url:
            try:
                agent_api.normalised(base_url)
            except QuarterdeckError as error:
                raise ValueError(str(error)) from None
        return base_url

    @field_validator("workspace_path")
    @classmethod
    def _is_absolute(cls, path: str) -> str:
        if path and not Path(path).is_absolute():
            raise ValueError("must be an absolute path")
        return path


def fallback_url(environ: Mapping[str, str]) -> str:
    """The address of agents that have none of their own; empty if there is none."""
    return next((environ[name].strip() for name in FALLBACKS if environ.get(name, "").strip()), "")


class AgentApiRuntime(RemoteRuntime):
    """Agents behind WebSockets."""

    client = "quarterdeck.crew.agent_api_client"

    async def order(self, agent: str, model: str, parameters: Mapping[str, Any]) -> Order:
        wanted = Parameters.model_validate(parameters)
        base = wanted.base_url or fallback_url(os.environ)
        return Order(wanted.model_dump() | {"base_url": agent_api.normalised(base)})

    async def look(self, agent: str, order: Order) -> str:
        """See `RemoteRuntime.look`: does it say that it is ready?"""
        chat = order.facts["chat_id"]
        url = agent_api.ws_url(
            order.facts["base_url"], agent_api.chat_of(f"trial-{agent}") if chat is None else chat
        )
        async with agent_api.connected(url, agent_api.Limits(order.facts["handshake_seconds"])):
            return url
