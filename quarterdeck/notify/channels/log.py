"""The plain log: where messages go when nothing else is configured."""

from collections.abc import Mapping, Sequence

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel.database import Unit
from quarterdeck.notify.channels import Outgoing, Refused, Sent, Waits
from quarterdeck.notify.markup import plain

log = structlog.get_logger(__name__)


class LogChannel:
    """Writes each message as one log line; always succeeds."""

    name = "log"
    has_buttons = False

    async def home_chat(self, session: AsyncSession | None = None) -> str | None:
        return "log"

    async def take(self, unit: Unit, message: Outgoing) -> Sent:
        return await self.try_out(message)

    async def outcomes(self, receipts: Sequence[str]) -> Mapping[str, Sent | Refused | Waits]:
        return {}

    async def try_out(self, message: Outgoing) -> Sent:
        log.info("notification", text=plain(message.text))
        return Sent()
