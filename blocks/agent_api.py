"""The address of agents behind WebSockets."""

from typing import ClassVar

from pydantic import Field

from blocks.connection import ConnectionBlock


class AgentApi(ConnectionBlock):
    """Save it as `default`, or as an agent's `connection` says: where agents behind WebSockets are.

    It is for those (runtime `agent_api`) that have no `base_url` of their own in the roster. Their protocol
    knows no token. See docs/how-to/websocket-agents.md, and try it with `quarterdeck check-agents`.

    Example:
        ```python
        from blocks.agent_api import AgentApi

        await AgentApi(url="http://agents.example.org:7000/agent_0/").asave("default")
        ```
    """

    _block_type_name = "Quarterdeck WebSocket agent"
    _block_type_slug = "quarterdeck-agent-api"
    kind: ClassVar[str] = "agent_api"

    url: str = Field(title="Address", description="Such as http://agents.example.org:7000/agent_0/.")
