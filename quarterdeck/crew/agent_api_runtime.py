"""The `agent_api` runtime: an agent behind a WebSocket (see `agent_api`), one chat per item."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from quarterdeck.crew import agent_api
from quarterdeck.crew.remote import Connected, Order, RemoteRuntime
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError
from quarterdeck.kernel.outside import STORABLE

Word = Annotated[str, Field(max_length=500), STORABLE]
WireName = Annotated[str, Field(min_length=1, max_length=100), STORABLE]

KIND, DEFAULT = "agent_api", "default"
"""The kind of connection that an address stands in, and the name of the one that an agent usually has."""

FALLBACKS = ("AGENT_BASE_URL", "AGENT_WS_URL")
"""Variables with an address for agents that have none of their own; the first that is set counts."""


class Parameters(BaseModel):
    """An agent's `parameters` in the roster. `connection` tells its address when `base_url` does not.

    `workspace_path`: where the agent's workspace is on this host, so that files it sends reach the item.
    `text_event`, `file_event`: the names of those events on the wire.
    """

    model_config = ConfigDict(extra="forbid")

    base_url: Word = ""
    connection: Annotated[str, Field(min_length=1, max_length=100), STORABLE] = DEFAULT
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
    """The address of agents that have none anywhere else; empty if there is none."""
    return next((environ[name].strip() for name in FALLBACKS if environ.get(name, "").strip()), "")


async def base_url(wanted: Parameters, connections: Connected, environ: Mapping[str, str]) -> str:
    """An agent's address: its own, else its connection's, else the environment's; empty if there is none.

    Raises `Misconfigured` for a connection that the roster names and nobody filled.
    """
    if wanted.base_url:
        return wanted.base_url
    entered = await connections.get(KIND, wanted.connection) or {}
    if found := str(entered.get("url") or "").strip():
        return found
    if wanted.connection != DEFAULT:
        raise Misconfigured(
            f"There is no connection {KIND}/{wanted.connection}.",
            "Fill a WebSocket agent's block of that name in Prefect, or correct the agent's `connection`.",
            code="not_connected",
        )
    return fallback_url(environ)


class AgentApiRuntime(RemoteRuntime):
    """Agents behind WebSockets."""

    client = "quarterdeck.crew.agent_api_client"

    def __init__(self, connections: Connected, *, grace: float = 10.0) -> None:
        super().__init__(grace=grace)
        self._connections = connections

    async def order(self, agent: str, model: str, parameters: Mapping[str, Any]) -> Order:
        wanted = Parameters.model_validate(parameters)
        base = await base_url(wanted, self._connections, os.environ)
        if not base:
            raise Misconfigured(
                "The agent has no address.",
                "Give it a `base_url`, or fill the block `Quarterdeck WebSocket agent` in Prefect,"
                f" or set {FALLBACKS[0]}.",
                code="not_connected",
            )
        return Order(wanted.model_dump() | {"base_url": agent_api.normalised(base)})

    async def look(self, agent: str, order: Order) -> str:
        """See `RemoteRuntime.look`: does it say that it is ready?"""
        chat = order.facts["chat_id"]
        url = agent_api.ws_url(
            order.facts["base_url"], agent_api.chat_of(f"trial-{agent}") if chat is None else chat
        )
        async with agent_api.connected(url, agent_api.Limits(order.facts["handshake_seconds"])):
            return url
