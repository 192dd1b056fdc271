"""Telegram: messages of the desk's own bot, in the one queue that everything said in Telegram goes through.

Order, limits, retries and what Telegram refuses are that queue's business (`quarterdeck.telegram`); here
they are only handed over, and asked after.
"""

from collections.abc import Mapping, Sequence

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.errors import Conflict, Invalid, Misconfigured, QuarterdeckError
from quarterdeck.notify.channels import Connections, Outgoing, Refused, Sent, Taken, Waits
from quarterdeck.telegram.bots import CONNECTION, DEFAULT, Bots
from quarterdeck.telegram.model import DESK, UnknownAgent
from quarterdeck.telegram.queue import Queue
from quarterdeck.telegram.wire import Button, Receipt, Send, SendState

log = structlog.get_logger(__name__)

LONGEST_CHAT = 200
"""Characters of a chat's name that our tables hold; real ones are far shorter."""

PATIENCE = 10.0
"""Seconds that a test message has to arrive."""

NOT_ADOPTED = "It waits: the desk has not taken its bot over yet."
NO_LISTENER = "It waits: no listener serves the desk's bot. Start one with `quarterdeck up`."

LOST = "The queue knows nothing of it any more; look into the chat before you send it again."

_ADVICE = {
    "Unauthorized": "the bot token is wrong or was revoked; correct the connection, then send it again.",
    "Forbidden": "let the bot into the chat again, then send it again.",
    "Not Found": "the bot token or the address of the Bot API is wrong; correct the connection.",
}


class TelegramChannel:
    """The bot of the connection `telegram/default`."""

    name = "telegram"
    has_buttons = True

    def __init__(self, connections: Connections, bots: Bots, queue: Queue) -> None:
        self._connections = connections
        self._bots = bots
        self._queue = queue

    async def home_chat(self, session: AsyncSession | None = None) -> str | None:
        try:
            values = await self._connections.get(CONNECTION, session=session) or {}
        except Misconfigured as error:  # whoever records an event must not fail because of it
            log.warning("channel_unusable", channel=self.name, reason=error.detail)
            return None
        token, chat = str(values.get("bot_token") or ""), str(values.get("chat_id") or "")
        return chat[:LONGEST_CHAT] if token and chat else None

    async def take(self, unit: Unit, message: Outgoing) -> Taken | Refused | Waits:
        try:
            return Taken((await self._queue.put(_send(message), unit)).id)
        except UnknownAgent:
            return self._until_adopted()
        except (Conflict, Invalid) as error:
            return Refused(str(error))

    def _until_adopted(self) -> Refused | Waits:
        """The desk makes the connection its bot; a token that Telegram does not know never will be."""
        error = self._bots.why_not_adopted()
        if isinstance(error, Invalid):
            return Refused(str(error))
        return Waits(f"It waits: {error.detail}" if error else NOT_ADOPTED)

    async def outcomes(self, receipts: Sequence[str]) -> Mapping[str, Sent | Refused | Waits]:
        known = {receipt.id: _outcome(receipt) for receipt in await self._queue.receipts(receipts)}
        lost = {number: Refused(LOST) for number in receipts if number not in known}
        return lost | {number: outcome for number, outcome in known.items() if outcome is not None}

    async def try_out(self, message: Outgoing) -> Sent | Refused | Waits:
        try:
            await self._must_have_bot()
            receipt = await self._queue.put(_send(message))
        except QuarterdeckError as error:
            return Refused(str(error))
        outcome = _outcome(await self._queue.wait(receipt.id, PATIENCE))
        return outcome if isinstance(outcome, Sent | Refused) else await self._why_it_waits(receipt)

    async def _must_have_bot(self) -> None:
        """Make the connection the desk's bot where no desk has done it yet. Raises like `Bots.register`."""
        if all(bot.agent_id != DESK for bot in await self._bots.list()):
            values = await self._connections.get(CONNECTION) or {}
            await self._bots.register(
                DESK, str(values.get("bot_token")), connection=f"{CONNECTION}/{DEFAULT}"
            )

    async def _why_it_waits(self, receipt: Receipt) -> Waits:
        desk = await self._bots.show(DESK)
        last = await self._queue.find(receipt.id)
        if reason := last.reason or desk.trouble:
            return Waits(f"It still waits: {reason}")
        return Waits("It waits its turn behind others." if await self._is_served() else NO_LISTENER)

    async def _is_served(self) -> bool:
        return await self._bots.is_served(DESK)


def _send(message: Outgoing) -> Send:
    buttons = tuple(Button(choice.text, choice.data) for choice in message.choices)
    return Send(
        agent_id=DESK,
        chat_id=message.chat,
        text=message.text,
        parse_mode="HTML",
        disable_notification=message.silent,
        link_preview=False,
        buttons=(buttons,) if buttons else (),
        edits=int(message.replaces) if message.replaces else None,
        is_followed=True,
        idempotency_key=message.key,
    )


def _outcome(receipt: Receipt) -> Sent | Refused | Waits | None:
    match receipt.state:
        case SendState.SENT | SendState.MAYBE_SENT:
            external = str(receipt.message_ids[-1]) if receipt.message_ids else ""
            return Sent(external, twice=receipt.state is SendState.MAYBE_SENT)
        case SendState.REFUSED:
            return Refused(_advised(receipt.reason))
        case SendState.QUEUED:
            return Waits(receipt.reason) if receipt.reason else None


def _advised(reason: str) -> str:
    """What a person does about it, besides."""
    advice = next((advice for begin, advice in _ADVICE.items() if reason.startswith(begin)), "")
    return f"{reason}: {advice}" if advice else reason
