"""The port to agents: what every surface may ask, whatever runs behind it. It suits no one surface."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from quarterdeck.surfaces.protocol import Attachment, SettingsAction

UNAVAILABLE = "PLATFORM_ERROR"


class PlatformError(Exception):
    """The agent, or the way to it, failed. `code` is for programs; the text holds no secret."""

    def __init__(self, detail: str, code: str = UNAVAILABLE) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True)
class User:
    """A user as the platform knows them; `is_new` the first time only."""

    user_id: str
    external_id: str
    platform: str
    created_at: datetime
    display_name: str | None = None
    is_new: bool = False


@dataclass(frozen=True)
class MessageResponse:
    """A whole answer; `tokens_used` is 0 where nobody counted."""

    message_id: str
    response: str
    tokens_used: int = 0
    finished: bool = True
    attachments: list[Attachment] = field(default_factory=list)


@dataclass(frozen=True)
class MessageChunk:
    """The next piece of an answer; the last one is `finished`, and may bring files and tokens."""

    delta: str = ""
    finished: bool = False
    tokens_used: int = 0
    attachments: list[Attachment] = field(default_factory=list)


@dataclass(frozen=True)
class UserSettings:
    """What a user has set: skills and asking first are switches, the rest is as the platform tells it."""

    skills: dict[str, bool] = field(default_factory=dict)
    connectors: dict[str, dict[str, Any]] = field(default_factory=dict)
    soul: dict[str, str] = field(default_factory=dict)
    safety: dict[str, bool] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)


class AgentEventType(StrEnum):
    """What a platform can push."""

    TASK_DONE = "task_done"
    TASK_ERROR = "task_error"
    TASK_PROGRESS = "task_progress"


@dataclass(frozen=True)
class AgentEvent:
    """Something that an agent has to say unasked."""

    type: AgentEventType
    user_id: str
    chat_id: str
    text: str = ""


class WebhookReceiver(Protocol):
    """Who is told of what a platform pushes."""

    async def on_agent_event(self, event: AgentEvent) -> None: ...


class PlatformClient(Protocol):
    """The way to agents. Every method raises `PlatformError`, and nothing else, when something failed."""

    async def get_or_create_user(
        self, external_id: str, platform: str, display_name: str | None = None
    ) -> User: ...

    async def send_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> MessageResponse:
        """Ask, and wait for the whole answer."""
        ...

    def stream_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> AsyncIterator[MessageChunk]:
        """Ask; the answer as it comes. Closing the iterator gives the question up."""
        ...

    async def get_settings(self, user_id: str) -> UserSettings: ...

    async def update_settings(self, user_id: str, action: SettingsAction) -> None: ...


async def collected(chunks: AsyncIterator[MessageChunk], message_id: str) -> MessageResponse:
    """A streamed answer as a whole one."""
    parts, files, tokens = list[str](), list[Attachment](), 0
    async for chunk in chunks:
        parts.append(chunk.delta)
        files += chunk.attachments
        tokens = chunk.tokens_used or tokens
    return MessageResponse(message_id, "".join(parts), tokens, True, files)
