"""An agent behind a WebSocket: one connection per question, the conversation's number in its address."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from quarterdeck.crew import agent_api
from quarterdeck.crew.agent_api_runtime import Parameters, fallback_url
from quarterdeck.surfaces.accounts import Accounts
from quarterdeck.surfaces.agents.base import AgentClient, as_platform_errors, paths
from quarterdeck.surfaces.platform import MessageChunk
from quarterdeck.surfaces.protocol import Attachment


class SocketAgent(AgentClient):
    """The runtime `agent_api`. It keeps its own memory, by the number of the conversation."""

    def __init__(self, accounts: Accounts, parameters: Mapping[str, Any]) -> None:
        super().__init__(accounts)
        self._parameters = parameters

    async def stream_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> AsyncIterator[MessageChunk]:
        files = list[Attachment]()
        with as_platform_errors():
            wanted = Parameters.model_validate(self._parameters)
            url = agent_api.ws_url(wanted.base_url or fallback_url(os.environ), chat_id)
            limits = agent_api.Limits(wanted.handshake_seconds, wanted.silence_seconds)
            names = agent_api.Names(text=wanted.text_event, file=wanted.file_event)
            async with agent_api.connected(url, limits, names) as agent:
                async for event in agent.ask(text, paths(attachments)):
                    match event:
                        case agent_api.Text(piece):
                            yield MessageChunk(piece)
                        case agent_api.File(path):
                            files.append(Attachment(workspace_path=path))
        yield MessageChunk(finished=True, attachments=files)
