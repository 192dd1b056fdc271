"""The clients of the roster's agents, made as the roster says at this moment."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from quarterdeck.crew import agent_api_runtime, model_runtime
from quarterdeck.crew.model import Agent
from quarterdeck.crew.model_runtime import Models
from quarterdeck.crew.remote import Connected
from quarterdeck.surfaces.accounts import Accounts
from quarterdeck.surfaces.agents.base import AgentClient, as_platform_errors
from quarterdeck.surfaces.agents.model_agent import ModelAgent, Voice
from quarterdeck.surfaces.agents.openclaw_agent import OpenClawAgent
from quarterdeck.surfaces.agents.socket_agent import SocketAgent
from quarterdeck.surfaces.store import StateStore

WORKSPACE = "SURFACES_WORKSPACE_DIR"


class Roster(Protocol):
    """Where agents are found (`Crew`)."""

    async def roster(self) -> list[Agent]: ...


class CrewAgents:
    """`agent_api` and `openclaw` agents talk in their own way; every other one through a model.

    `default_model` is for those that name none, `default_agent` for who was given no agent. `folder` holds
    the workspaces of agents that have none of their own.
    """

    def __init__(
        self,
        roster: Roster,
        store: StateStore,
        accounts: Accounts,
        models: Models,
        connections: Connected,
        *,
        folder: Path,
        default_model: str = "",
        default_agent: str = "",
    ) -> None:
        self._roster = roster
        self._store = store
        self._accounts = accounts
        self._models = models
        self._connections = connections
        self._folder = folder
        self._default_model = default_model
        self._default_agent = default_agent

    async def client(self, agent_id: str) -> AgentClient | None:
        """The client of one agent; None when there is no such agent, or it is disabled."""
        agent = await self._agent(agent_id)
        with as_platform_errors():
            return await self._client(agent) if agent else None

    async def first(self) -> AgentClient:
        """Where users and settings are kept: it is the same for all agents."""
        return AgentClient(self._accounts)

    async def close(self) -> None:
        """Every question has a connection of its own; none is left."""

    async def names(self) -> dict[str, str]:
        """The agents that can be talked to, the default one first: slug and name."""
        agents = [agent for agent in await self._roster.roster() if agent.is_enabled]
        return {agent.slug: agent.name for agent in sorted(agents, key=self._rank)}

    async def workspace(self, agent_id: str) -> Path:
        """Where an agent's files are on this host."""
        agent = await self._agent(agent_id)
        return self._workspace(agent_id, agent.parameters if agent else {})

    def _rank(self, agent: Agent) -> bool:
        return agent.slug != self._default_agent

    async def _agent(self, agent_id: str) -> Agent | None:
        agents: Sequence[Agent] = await self._roster.roster()
        return next((agent for agent in agents if agent.slug == agent_id and agent.is_enabled), None)

    def _workspace(self, agent_id: str, parameters: Mapping[str, Any]) -> Path:
        if own := parameters.get("workspace_path"):
            return Path(str(own))
        if shared := os.environ.get(WORKSPACE, "").strip():
            return Path(shared)
        return self._folder / agent_id

    async def _client(self, agent: Agent) -> AgentClient:
        if agent.runtime == "openclaw":
            return OpenClawAgent(self._accounts, self._connections, agent.parameters)
        if agent.runtime == "agent_api":
            wanted = agent_api_runtime.Parameters.model_validate(agent.parameters)
            if base := await agent_api_runtime.base_url(wanted, self._connections, os.environ):
                return SocketAgent(self._accounts, wanted, base)
        return ModelAgent(self._accounts, self._store, self._models, self._voice(agent))

    def _voice(self, agent: Agent) -> Voice:
        """How a roster entry talks through the router."""
        told = agent.parameters if agent.runtime == "model" else {}
        wanted = model_runtime.Parameters.model_validate(told)
        options = wanted.model_dump(include={"temperature", "max_tokens"}, exclude_none=True)
        return Voice(
            agent.slug,
            wanted.model or agent.model or self._default_model,
            agent.system_prompt,
            self._workspace(agent.slug, agent.parameters),
            wanted.silence_seconds,
            options,
        )
