"""Where each chat is, which chat is meant in a place, and which agent answers there.

A place is a bot, a chat, a topic and a user. In a topic there is one chat; outside there may be several, and
one of them is the present one. Every chat has a conversation of its own at its agent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from quarterdeck.surfaces.assignment import AgentAssignment, assigned, refreshed
from quarterdeck.surfaces.chat import ChatManager
from quarterdeck.surfaces.protocol import ChatContext
from quarterdeck.surfaces.store import StateStore, next_platform_chat_id
from quarterdeck.surfaces.telegram.converter import PLATFORM, Place
from quarterdeck.surfaces.texts import say

ROOM, PLACE, STAGED, PENDING = "telegram_room", "telegram_place", "telegram_staged", "telegram_confirm"
"""Prefixes of our keys: a chat's room, a place's present chat, files that wait, an open question."""


class Agents(Protocol):
    """What there is to talk to."""

    async def names(self) -> Mapping[str, str]:
        """Slug and name of every agent; the default one first."""
        ...


@dataclass(frozen=True)
class Room:
    """One chat in its place, with its facts: agent, conversation, how the agent was chosen."""

    place: Place
    chat: ChatContext
    facts: Mapping[str, Any]
    is_new: bool = False

    @property
    def agent_id(self) -> str:
        return str(self.facts.get("agent_id") or "")


class Rooms:
    """Finds and makes rooms."""

    def __init__(self, store: StateStore, chats: ChatManager, agents: Agents) -> None:
        self._store = store
        self._chats = chats
        self._agents = agents

    async def at(self, place: Place, language: str, configured: str = "", name: str = "") -> Room:
        """The present room of a place, made when there is none; its agent as it is assigned now.

        `configured` is the agent that the roster gives this user.
        """
        assignment = await self._assignment(place, configured)
        present = await self._store.get(f"{PLACE}:{place.key}") or {}
        chat = await self._chats.get(str(present.get("chat_id", "")), str(place.user))
        if chat is None or chat.is_archived:
            return await self._made(place, language, assignment, name)
        return await self._refreshed(place, chat, assignment)

    async def make(self, place: Place, language: str, configured: str = "", name: str = "") -> Room:
        """Another room in a place, from now on its present one."""
        return await self._made(place, language, await self._assignment(place, configured), name)

    async def next_number(self, place: Place) -> int:
        """The number that the user's next chat will probably have."""
        kept = await self._store.get(f"{PLATFORM}_user:{place.user}") or {}
        return int(kept.get("next_chat_index", 1))

    async def switch(self, place: Place, chat_id: str) -> ChatContext | None:
        """Make a chat the present one of its place; None when it is not of this place, or archived."""
        chat = await self._chats.get(chat_id, str(place.user))
        if chat is None or chat.is_archived or place_of(chat) != place:
            return None
        await self._store.set(f"{PLACE}:{place.key}", {"chat_id": chat_id})
        return chat

    async def clear(self, room: Room) -> None:
        """A fresh conversation for this room, and for no other."""
        fresh = {"platform_chat_id": await next_platform_chat_id(self._store)}
        await self.keep(room, dict(room.facts) | fresh)

    async def keep(self, room: Room, facts: Mapping[str, Any]) -> None:
        await self._store.set(f"{ROOM}:{room.chat.surface_ref}", facts)

    async def _assignment(self, place: Place, configured: str) -> AgentAssignment:
        """The bot of an agent answers as that agent; the desk's own as the roster says."""
        agents = await self._agents.names()
        if place.agent_id in agents:
            return AgentAssignment(place.agent_id, "configured")
        return assigned(configured, list(agents))

    async def _made(self, place: Place, language: str, assignment: AgentAssignment, name: str) -> Room:
        user = str(place.user)
        number, chat_id = await self._chats.next_id(user, PLATFORM)
        shown = name or say(language, "chat_name", n=number)
        facts = {
            "room_type": "chat",
            "chat_id": chat_id,
            "display_name": shown,
            "telegram_user_id": user,
            "platform_chat_id": await next_platform_chat_id(self._store),
            "agent_id": assignment.agent_id,
            "agent_assignment": assignment.source,
        }
        ref = f"{place.key}/{chat_id}"
        await self._store.set(f"{ROOM}:{ref}", facts)
        chat = await self._chats.get_or_create(user, chat_id, PLATFORM, ref, shown)
        await self._store.set(f"{PLACE}:{place.key}", {"chat_id": chat_id})
        return Room(place, chat, facts, is_new=True)

    async def _refreshed(self, place: Place, chat: ChatContext, assignment: AgentAssignment) -> Room:
        facts = await self._store.get(f"{ROOM}:{chat.surface_ref}") or {}
        now = refreshed(facts, assignment)
        if not now.get("platform_chat_id"):
            now["platform_chat_id"] = await next_platform_chat_id(self._store)
        if now != facts:
            await self._store.set(f"{ROOM}:{chat.surface_ref}", now)
        return Room(place, chat, now)


def place_of(chat: ChatContext) -> Place | None:
    """Where a chat is; None when its ref is no place of ours."""
    agent_id, *numbers = chat.surface_ref.rpartition("/")[0].rsplit(":", 3)
    try:
        chat_number, thread, user = map(int, numbers)
    except ValueError:
        return None
    return Place(agent_id, chat_number, thread, user)
