"""An agent behind a WebSocket: one connection per question, the conversation's number in its address."""

from collections.abc import AsyncIterator, Sequence

from quarterdeck.crew import agent_api
from quarterdeck.crew.agent_api_runtime import Parameters
from quarterdeck.surfaces.accounts import Accounts
from quarterdeck.surfaces.agents.base import AgentClient, as_platform_errors, paths
from quarterdeck.surfaces.platform import MessageChunk
from quarterdeck.surfaces.protocol import Attachment


class SocketAgent(AgentClient):
    """The runtime `agent_api`, at `base_url`. It keeps its own memory, by the number of the conversation."""

    def __init__(self, accounts: Accounts, parameters: Parameters, base_url: str) -> None:
        super().__init__(accounts)
        self._parameters = parameters
        self._base_url = base_url

    async def stream_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> AsyncIterator[MessageChunk]:
        files = list[Attachment]()
        with as_platform_errors():
            wanted = self._parameters
            url = agent_api.ws_url(self._base_url, chat_id)
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
