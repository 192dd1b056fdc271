"""The `openclaw` runtime: an agent is one of an OpenClaw gateway, with a session of its own per item.

Route `chat` (usual) answers in words and ends when we hang up. Route `hooks` passes the task on as
something that came from outside; its words are read from the session's history.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.crew.openclaw import Address, Gateway
from quarterdeck.crew.remote import Connected, Order, RemoteRuntime
from quarterdeck.crew.waking import Wake
from quarterdeck.kernel.errors import Misconfigured, NotFound
from quarterdeck.kernel.outside import STORABLE

KIND = "openclaw"


class Parameters(BaseModel):
    """An agent's `parameters` in the roster. `session_prefix` stands before `task:<item>`.

    `resume_seconds`: how long a gateway that was restarted may take to go on by itself.
    `busy_seconds`: how long a session that is at work with something else is waited for.
    """

    model_config = ConfigDict(extra="forbid")

    agent_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")] = "main"
    route: Literal["chat", "hooks"] = "chat"
    connection: Annotated[str, Field(min_length=1, max_length=100), STORABLE] = "default"
    session_prefix: Annotated[str, Field(pattern=r"^([a-z0-9_-]+:)*$", max_length=100)] | None = None
    silence_seconds: float = Field(default=900, gt=0, le=7200)
    resume_seconds: float = Field(default=60, gt=0, le=3600)
    busy_seconds: float = Field(default=600, ge=0, le=7200)


class OpenClawRuntime(RemoteRuntime):
    """Agents of the gateways that the connections of kind `openclaw` name."""

    client = "quarterdeck.crew.openclaw_client"

    def __init__(self, connections: Connected, *, grace: float = 10.0) -> None:
        super().__init__(grace=grace)
        self._connections = connections

    async def order(self, agent: str, model: str, parameters: Mapping[str, Any]) -> Order:
        wanted = Parameters.model_validate(parameters)
        address = Address.of(await self._connections.get(KIND, wanted.connection))
        token = address.hooks_token if wanted.route == "hooks" else address.token
        if not token:
            name = "hooks_token" if wanted.route == "hooks" else "token"
            raise _lacking(wanted.connection, name)
        secrets = {"token": address.token, "hooks_token": address.hooks_token}
        return Order(wanted.model_dump() | {"url": address.url}, secrets)

    async def look(self, agent: str, order: Order) -> str:
        """See `RemoteRuntime.look`: is the gateway live, are its tokens good, has it this agent?"""
        url, wanted, route = (str(order.facts[name]) for name in ("url", "agent_id", "route"))
        gateway = Gateway(Address(url, order.secrets["token"], order.secrets["hooks_token"]))
        try:
            await gateway.health()
            await _must_know(gateway, wanted)
            if route == "hooks":
                await gateway.check_hooks()
        finally:
            await gateway.close()
        return f"agent {wanted} at {url}, by {route}"

    async def wake(self, parameters: Mapping[str, Any], wanted: Wake) -> str:
        """See `Wakes.wake`. Who is woken is looked for first: the gateway's hooks need not say no."""
        agent = Parameters.model_validate(parameters)
        address = Address.of(await self._connections.get(KIND, agent.connection))
        if not address.hooks_token:
            raise _lacking(agent.connection, "hooks_token")
        gateway = Gateway(address)
        try:
            await _must_know(gateway, agent.agent_id)
            return await gateway.wake(wanted.text, wanted.mode, agent.agent_id)
        finally:
            await gateway.close()


async def _must_know(gateway: Gateway, agent_id: str) -> None:
    known = await gateway.agents()
    if agent_id not in known:
        raise NotFound.among("agent of OpenClaw", agent_id, known)


def _lacking(connection: str, token: str) -> Misconfigured:
    return Misconfigured(f"The connection openclaw/{connection} has no {token}.", "Enter it.")
