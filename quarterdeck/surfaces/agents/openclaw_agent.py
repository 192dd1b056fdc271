"""An agent of an OpenClaw gateway: the gateway keeps the memory, a session per conversation."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from quarterdeck.crew.chat_stream import Said
from quarterdeck.crew.openclaw import Address, Gateway
from quarterdeck.crew.openclaw_runtime import KIND, Parameters
from quarterdeck.crew.remote import Connected
from quarterdeck.surfaces.accounts import Accounts
from quarterdeck.surfaces.agents.base import AgentClient, as_platform_errors, paths
from quarterdeck.surfaces.platform import MessageChunk
from quarterdeck.surfaces.protocol import Attachment


class OpenClawAgent(AgentClient):
    """The runtime `openclaw`."""

    def __init__(self, accounts: Accounts, connections: Connected, parameters: Mapping[str, Any]) -> None:
        super().__init__(accounts)
        self._connections = connections
        self._parameters = parameters

    async def stream_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> AsyncIterator[MessageChunk]:
        said, files = Said(), paths(attachments)
        message = "\n\n".join([text, *(f"[file: {path}]" for path in files)])
        with as_platform_errors():
            wanted = Parameters.model_validate(self._parameters)
            address = Address.of(await self._connections.get(KIND, wanted.connection))
            gateway = Gateway(address, wanted.silence_seconds)
            session = f"{wanted.session_prefix or ''}surface:{chat_id}"
            try:
                asked = gateway.stream(message, agent_id=wanted.agent_id, session_key=session, said=said)
                async with aclosing(asked) as pieces:
                    async for piece in pieces:
                        yield MessageChunk(piece)
            finally:
                await gateway.close()
        yield MessageChunk(finished=True, tokens_used=said.tokens or 0)
