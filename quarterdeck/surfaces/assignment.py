"""Which agent serves a user, and what that means for the rooms that the user has already. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["configured", "default", "none"]


@dataclass(frozen=True)
class AgentAssignment:
    """Who answers, and why: the roster says so, nobody says anything, or there is no agent."""

    agent_id: str | None
    source: Source

    @property
    def is_default(self) -> bool:
        return self.source == "default"


def assigned(configured: str, agents: Sequence[str]) -> AgentAssignment:
    """The user's own agent if there is one, else the first of all."""
    if configured and configured in agents:
        return AgentAssignment(configured, "configured")
    if agents:
        return AgentAssignment(agents[0], "default")
    return AgentAssignment(None, "none")


def refreshed(room: Mapping[str, Any], now: AgentAssignment) -> dict[str, Any]:
    """The room as it is after its user's assignment was looked at; its conversation is always kept.

    Who was taken out of the roster's mapping keeps the agent that the room has.
    """
    changed = dict(room)
    if now.source == "configured":
        if (room.get("agent_id"), room.get("agent_assignment")) != (now.agent_id, now.source):
            changed |= {"agent_id": now.agent_id, "agent_assignment": now.source}
            changed.pop("default_agent_notice_sent", None)
    elif now.source == "default" and room.get("agent_id") in (None, "", now.agent_id):
        changed |= {"agent_id": now.agent_id, "agent_assignment": now.source}
    return changed


def owes_notice(room: Mapping[str, Any]) -> bool:
    """Must the user still be told that the default agent answers?"""
    return room.get("agent_assignment") == "default" and not room.get("default_agent_notice_sent")
