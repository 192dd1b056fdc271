"""The queue of all that agents say in Telegram: rows, sent in order within each chat by the listener."""

import asyncio
from collections.abc import Sequence

from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Invalid, NotFound
from quarterdeck.telegram import moves, rules, store
from quarterdeck.telegram.bots import Bots
from quarterdeck.telegram.model import SENDS_TOPIC, StoredSend
from quarterdeck.telegram.wire import Receipt, Send, SendState, document_of

LONGEST_TEXT = 100_000
"""Characters; that is some 25 messages."""

LONGEST_DATA = 64
"""Bytes that come back from a button (Bot API, `callback_data`)."""

FIRST_LOOK, LAST_LOOK = 0.02, 0.25
"""Seconds between two looks at a row that somebody waits for."""


class Queue:
    """Takes messages in, and tells what became of them."""

    def __init__(self, database: Database, bots: Bots) -> None:
        self._database = database
        self._bots = bots

    async def put(self, send: Send, unit: Unit | None = None) -> Receipt:
        """Queue a message, as part of a command if one is given.

        The same `idempotency_key` of the same agent gives the receipt of the first. Raises `UnknownAgent`
        for an agent without a bot, `Conflict` when that was stopped, `Invalid` for what Telegram would
        never take.
        """
        _check(send)
        if unit is not None:
            return await self._put(unit, send)
        async with self._database.command("queue a telegram message") as own:
            return await self._put(own, send)

    async def _put(self, unit: Unit, send: Send) -> Receipt:
        await self._bots.must_know(unit, send.agent_id)
        if (new := await moves.chat_now(unit.session, str(send.chat_id))) is not None:
            send = rules.redirected(send, new)
        row = StoredSend(
            agent_id=send.agent_id,
            chat=str(send.chat_id),
            content=rules.storable(document_of(send)),
            idempotency_key=send.idempotency_key or None,
            created_at=unit.now,
        )
        kept = await store.add_send(unit, row)
        unit.wake(SENDS_TOPIC, send.agent_id)
        return receipt_of(kept)

    async def earlier(self, agent_id: str, idempotency_key: str) -> Receipt | None:
        """What became of the message that was queued under this key; None if none was."""
        async with self._database.read() as session:
            row = await store.send_of_key(session, agent_id, idempotency_key)
        return receipt_of(row) if row else None

    async def find(self, id: str) -> Receipt:
        """What became of a message. Raises `NotFound`."""
        async with self._database.read() as session:
            row = await store.send(session, int(id)) if _is_number(id) else None
        if row is None:
            raise NotFound(
                f"There is no message {id!r}.", "Ids come from POST /send.", code="unknown_message"
            )
        return receipt_of(row)

    async def receipts(self, ids: Sequence[str]) -> list[Receipt]:
        """What became of several messages; unknown ones are left out."""
        numbers = [int(id) for id in ids if _is_number(id)]
        async with self._database.read() as session:
            return [receipt_of(row) for row in await store.sends(session, numbers)]

    async def wait(self, id: str, seconds: float) -> Receipt:
        """What became of a message, as soon as that is known; after `seconds` as it stands then."""
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + seconds, FIRST_LOOK
        while True:
            receipt = await self.find(id)
            left = end - loop.time()
            if receipt.state is not SendState.QUEUED or left <= 0:
                return receipt
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, LAST_LOOK)


def receipt_of(row: StoredSend) -> Receipt:
    """A row as its sender sees it."""
    assert row.id is not None
    return Receipt(str(row.id), row.state, tuple(row.message_ids), row.reason)


def _is_number(id: str) -> bool:
    return id.isascii() and id.isdigit() and int(id) < 2**63


def _check(send: Send) -> None:
    if not send.text.strip() and not send.attachments:
        raise Invalid("There is nothing to send.", "Give a text or a file.", field="text")
    if len(send.text) > LONGEST_TEXT:
        raise Invalid(
            f"The text has more than {LONGEST_TEXT} characters.", "Send it as a file.", field="text"
        )
    if not str(send.chat_id) or len(str(send.chat_id)) > 200:
        raise Invalid("The chat is no chat.", "Give its number, or @name of a channel.", field="chat_id")
    for button in (button for row in send.buttons for button in row):
        if not button.text or not (button.url or 1 <= len(button.data.encode()) <= LONGEST_DATA):
            raise Invalid(
                "A button has no text, or data that is not 1 to 64 bytes long.",
                "Shorten its data, or give it an address.",
                field="buttons",
            )
