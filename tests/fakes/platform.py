"""A platform in memory: it answers every message by repeating it, and can be made to fail."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from quarterdeck.surfaces.accounts import Accounts
from quarterdeck.surfaces.platform import (
    AgentEvent,
    AgentEventType,
    MessageChunk,
    MessageResponse,
    PlatformError,
    User,
    UserSettings,
    WebhookReceiver,
    collected,
)
from quarterdeck.surfaces.protocol import Attachment, SettingsAction
from quarterdeck.surfaces.store import MemoryStore


class Noon:
    """A clock that stands still."""

    def now(self) -> datetime:
        return datetime(2026, 11, 27, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Asked:
    user_id: str
    chat_id: str
    text: str
    attachments: list[Attachment] = field(default_factory=list)


class FakePlatform:
    """Implements the whole port. `broken` makes every question fail; `files` come with the answer."""

    def __init__(self) -> None:
        self._accounts = Accounts(MemoryStore(), Noon())
        self._receivers: list[WebhookReceiver] = []
        self.asked: list[Asked] = []
        self.broken = ""
        self.files: list[Attachment] = []
        self.forgotten: list[str] = []
        self.is_closed = False

    async def get_or_create_user(
        self, external_id: str, platform: str, display_name: str | None = None
    ) -> User:
        return await self._accounts.get_or_create_user(external_id, platform, display_name)

    async def get_settings(self, user_id: str) -> UserSettings:
        return await self._accounts.get_settings(user_id)

    async def update_settings(self, user_id: str, action: SettingsAction) -> None:
        await self._accounts.update_settings(user_id, action)

    async def send_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> MessageResponse:
        return await collected(self.stream_message(user_id, chat_id, text, attachments), "msg_1")

    async def stream_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> AsyncIterator[MessageChunk]:
        self.asked.append(Asked(user_id, chat_id, text, list(attachments or ())))
        if self.broken:
            raise PlatformError("The agent is away.", self.broken)
        for word in f"You said: {text}".split(" "):
            yield MessageChunk(f"{word} ")
        yield MessageChunk(finished=True, tokens_used=7, attachments=self.files)

    async def disconnect_chat(self, user_id: str, chat_id: str) -> None:
        self.forgotten.append(chat_id)

    def register_webhook_receiver(self, receiver: WebhookReceiver) -> None:
        self._receivers.append(receiver)

    async def simulate_agent_event(self, user_id: str, chat_id: str, text: str) -> None:
        for receiver in self._receivers:
            await receiver.on_agent_event(AgentEvent(AgentEventType.TASK_DONE, user_id, chat_id, text))

    async def close(self) -> None:
        self.is_closed = True


class FakeDelegates:
    """Agents by name, each a fake platform."""

    def __init__(self, *agents: str) -> None:
        self.clients = {agent: FakePlatform() for agent in agents}
        self._accounts = FakePlatform()

    async def client(self, agent_id: str) -> FakePlatform | None:
        return self.clients.get(agent_id)

    async def first(self) -> FakePlatform:
        return next(iter(self.clients.values()), self._accounts)

    async def close(self) -> None:
        for client in self.clients.values():
            await client.close()
