"""The way from a chat to its agent: strict, so that no conversation ever ends up somewhere else."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from quarterdeck.crew.agent_api import ChatLocks
from quarterdeck.surfaces.platform import (
    MessageChunk,
    MessageResponse,
    PlatformClient,
    PlatformError,
    User,
    UserSettings,
    collected,
)
from quarterdeck.surfaces.protocol import Attachment, ChatContext, SettingsAction
from quarterdeck.surfaces.store import StateStore


class Delegates(Protocol):
    """The clients of agents."""

    async def client(self, agent_id: str) -> PlatformClient | None:
        """The client of one agent; None when there is no such agent."""
        ...

    async def first(self) -> PlatformClient:
        """Where users and settings are kept."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Route:
    """Where a chat's words go."""

    agent_id: str
    platform_chat_id: str


class Chats(Protocol):
    """Where chats are known (`ChatManager`)."""

    async def get(self, chat_id: str, user_id: str) -> ChatContext | None: ...


class Talks(Protocol):
    """Where it is noted whom somebody talks to (`Conversations`)."""

    def held(self, agent: str, conversation: str) -> AbstractAsyncContextManager[None]: ...


class Unnoted:
    """Nobody wants to know."""

    def held(self, agent: str, conversation: str) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class RoutedPlatformClient:
    """One surface's way to all agents. `surface` names it: it stands before its error codes and room keys.

    It invents no conversation, shares none, and takes no other agent than the room's.
    """

    def __init__(
        self, surface: str, store: StateStore, delegates: Delegates, talks: Talks | None = None
    ) -> None:
        self._surface = surface
        self._store = store
        self._delegates = delegates
        self._talks: Talks = talks or Unnoted()
        self._locks = ChatLocks()
        self.chats: Chats | None = None
        """Bound once the chat manager, which needs this client, is there."""

    async def get_or_create_user(
        self, external_id: str, platform: str, display_name: str | None = None
    ) -> User:
        delegate = await self._delegates.first()
        return await delegate.get_or_create_user(external_id, platform, display_name)

    async def get_settings(self, user_id: str) -> UserSettings:
        return await (await self._delegates.first()).get_settings(user_id)

    async def update_settings(self, user_id: str, action: SettingsAction) -> None:
        await (await self._delegates.first()).update_settings(user_id, action)

    async def send_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> MessageResponse:
        """See `PlatformClient`. Raises `PlatformError` where the way is not known."""
        return await collected(self.stream_message(user_id, chat_id, text, attachments), chat_id)

    async def stream_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> AsyncIterator[MessageChunk]:
        """See `PlatformClient`. One turn at a time in a conversation; others go on."""
        route = await self.route(user_id, chat_id)
        client = await self._delegates.client(route.agent_id)
        if client is None:
            raise self._error("AGENT_NOT_FOUND", f"There is no agent {route.agent_id}.")
        conversation = route.platform_chat_id
        async with (
            self._locks.held(f"{route.agent_id}/{conversation}"),
            self._talks.held(route.agent_id, conversation),
        ):
            asked: Any = client.stream_message(user_id, conversation, text, attachments)
            async with aclosing(asked) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def route(self, user_id: str, chat_id: str) -> Route:
        """Where a chat leads. Raises `PlatformError`."""
        chat = await self.chats.get(chat_id, user_id) if self.chats else None
        if chat is None:
            raise self._error("CHAT_NOT_FOUND", f"There is no chat {chat_id} of this user.")
        room = await self._store.get(f"{self._surface}_room:{chat.surface_ref}") or {}
        agent, conversation = room.get("agent_id"), room.get("platform_chat_id")
        if not agent or not conversation:
            raise self._error("ROUTE_INCOMPLETE", f"The room of {chat_id} names no agent or no conversation.")
        return Route(str(agent), str(conversation))

    async def remember_stopped(
        self, user_id: str, route: Route, text: str, attachments: Sequence[Attachment], said: str
    ) -> None:
        """What was asked and said before the user had heard enough stays in the conversation."""
        client = await self._delegates.client(route.agent_id)
        remember = getattr(client, "remember_stopped", None)
        if remember is not None:
            async with self._locks.held(f"{route.agent_id}/{route.platform_chat_id}"):
                await remember(user_id, route.platform_chat_id, text, attachments, said)

    async def disconnect_chat(self, user_id: str, route: Route) -> None:
        """Forget one conversation at its agent, where the agent's client can; others are untouched."""
        client = await self._delegates.client(route.agent_id)
        forget = getattr(client, "disconnect_chat", None)
        if forget is not None:
            await forget(user_id, route.platform_chat_id)

    async def close(self) -> None:
        await self._delegates.close()

    def _error(self, code: str, detail: str) -> PlatformError:
        return PlatformError(detail, f"{self._surface.upper()}_{code}")
