"""What the clients of all agents have in common: users and settings are ours, and failures are one kind."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.surfaces.accounts import Accounts
from quarterdeck.surfaces.platform import (
    MessageChunk,
    MessageResponse,
    PlatformError,
    User,
    UserSettings,
    collected,
)
from quarterdeck.surfaces.protocol import Attachment, SettingsAction


class AgentClient:
    """One agent. What it says is up to those who inherit from this."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

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
        return await collected(self.stream_message(user_id, chat_id, text, attachments), chat_id)

    def stream_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> AsyncIterator[MessageChunk]:
        raise NotImplementedError

    async def remember_stopped(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None, said: str
    ) -> None:
        """The user stopped the answer to this. Who has a memory of its own was there itself."""

    async def disconnect_chat(self, user_id: str, chat_id: str) -> None:
        """Nothing is kept of a conversation."""


@contextmanager
def as_platform_errors() -> Iterator[None]:
    """What our rooms raise, in the words of the port."""
    try:
        yield
    except QuarterdeckError as error:
        raise PlatformError(error.detail, error.code.upper()) from error
    except (ValueError, OSError) as error:
        raise PlatformError(f"The agent's parameters or files are wrong: {error}", "MISCONFIGURED") from error


def paths(attachments: Sequence[Attachment] | None) -> list[str]:
    """Where the files are in the agent's workspace; the only form in which an agent is told of them."""
    return [file.workspace_path for file in attachments or () if file.workspace_path]
