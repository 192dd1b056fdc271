"""The plain log: where messages go when nothing else is configured."""

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.notify.channels import Outcome, Outgoing, Sent, Window
from quarterdeck.notify.markup import plain

log = structlog.get_logger(__name__)


class LogChannel:
    """Writes each message as one log line; always succeeds."""

    name = "log"
    sender_limits: tuple[Window, ...] = ()

    def chat_limits(self, chat: str) -> tuple[Window, ...]:
        return ()

    async def home_chat(self, session: AsyncSession | None = None) -> str | None:
        return "log"

    async def send(self, message: Outgoing) -> Outcome:
        log.info("notification", text=plain(message.text))
        return Sent()

    async def close(self) -> None:
        """Nothing is open."""
