"""An answer while it is being said: as a draft in private chats, by editing one message in groups.

A draft is a preview that lives for half a minute; the message that stays is queued at the end. Both are
throttled, and neither ever holds up or harms the answer itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from zlib import crc32

from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.surfaces.platform import MessageChunk, PlatformError
from quarterdeck.surfaces.protocol import Attachment, UIButton
from quarterdeck.surfaces.telegram.bots import SendQueue
from quarterdeck.surfaces.telegram.buttons import keyboard
from quarterdeck.surfaces.telegram.markdown import to_html
from quarterdeck.surfaces.telegram.speaker import Speaker
from quarterdeck.surfaces.texts import say
from quarterdeck.telegram.splitting import split
from quarterdeck.telegram.wire import Receipt, Send, SendState


@dataclass(frozen=True)
class Pace:
    """Seconds between two shows: of a draft, of an edit in a group (20 a minute are allowed), of typing."""

    draft: float = 1.0
    edit: float = 4.0
    typing: float = 4.5
    patience: float = 10.0


@dataclass
class Answer:
    """What has been said so far; `failed` if it broke off, `stopped` if the user had heard enough."""

    text: str = ""
    attachments: list[Attachment] = field(default_factory=list)
    failed: PlatformError | None = None
    stopped: bool = False


class Show:
    """Shows an answer as it grows. Enter it, fill the answer, and finish it."""

    def __init__(self, speaker: Speaker, queue: SendQueue, pace: Pace, answer: Answer) -> None:
        self._speaker = speaker
        self._queue = queue
        self._pace = pace
        self._answer = answer
        self._shown = ""
        self._can_draft = speaker.place.is_private
        self._message_id: int | None = None
        self._key = f"surface/{speaker.native.event_id}/grows"
        self._stop = [[UIButton(say(speaker.language, "stop"), "stop")]]

    async def run(self) -> None:
        """Until cancelled: typing first, then what there is, as often as the pace allows."""
        while True:
            text, is_private = self._answer.text, self._speaker.place.is_private
            if not text.strip() or (is_private and not self._can_draft):
                await self._speaker.typing()
                await self._grown(text, self._pace.typing)
            else:
                if text != self._shown:
                    await self._show(text)
                    self._shown = text
                await asyncio.sleep(self._pace.draft if is_private else self._pace.edit)

    async def _grown(self, before: str, seconds: float) -> None:
        """Wait so long, or until there are the first words."""
        step = min(self._pace.draft, seconds)
        for _ in range(max(1, round(seconds / step))):
            await asyncio.sleep(step)
            if self._can_draft and self._answer.text != before:
                return

    async def _show(self, text: str) -> None:
        parts = split(to_html(text), "HTML")
        if not parts:
            return
        if self._speaker.place.is_private:
            number = crc32(self._speaker.native.event_id.encode()) & 0x7FFFFFFF
            self._can_draft = await self._speaker.draft(number or 1, parts[-1])
        else:
            await self._edit(parts[0])

    async def _edit(self, html: str) -> None:
        if self._message_id is None:
            with suppress(QuarterdeckError):
                self._message_id = await self._begin(html)
        else:
            await self._speaker.rewrite(self._message_id, html, self._stop)

    async def _begin(self, html: str) -> int | None:
        """The message that grows; after a crash the same one again."""
        place = self._speaker.place
        receipt = await self._queue.put(
            Send(
                place.agent_id,
                place.chat,
                html,
                message_thread_id=place.thread or None,
                parse_mode="HTML",
                buttons=keyboard(self._stop),
                idempotency_key=self._key,
            )
        )
        return await self._arrived(receipt)

    async def _begun_before(self) -> int | None:
        """The message that grows, if it was begun: by us who were cut off, or by a process that died."""
        receipt = await self._queue.earlier(self._speaker.place.agent_id, self._key)
        return await self._arrived(receipt) if receipt else None

    async def _arrived(self, receipt: Receipt) -> int | None:
        receipt = await self._queue.wait(receipt.id, self._pace.patience)
        is_there = receipt.state in (SendState.SENT, SendState.MAYBE_SENT) and receipt.message_ids
        return receipt.message_ids[0] if is_there else None

    async def finish(self) -> None:
        """The whole answer, for good: the message that grew gets its first part, the rest is queued."""
        parts = split(to_html(self._answer.text), "HTML") if self._answer.text.strip() else []
        if parts and self._message_id is None and not self._speaker.place.is_private:
            self._message_id = await self._begun_before()
        if parts and self._message_id is not None and await self._speaker.rewrite(self._message_id, parts[0]):
            parts = parts[1:]
        for part in parts:
            self._speaker.say(part)


async def _until(stopping: asyncio.Event, chunks: AsyncIterator[MessageChunk]) -> AsyncIterator[MessageChunk]:
    """What comes until there is nothing more, or the user stops it: then the agent is given up at once."""
    stopped = asyncio.create_task(stopping.wait())
    coming: asyncio.Task[MessageChunk | None] | None = None
    try:
        while not stopping.is_set():
            coming = asyncio.create_task(_next(chunks))
            await asyncio.wait({coming, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() or (chunk := coming.result()) is None:
                return
            yield chunk
    finally:
        tasks = [task for task in (coming, stopped) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next(chunks: AsyncIterator[MessageChunk]) -> MessageChunk | None:
    return await anext(chunks, None)


async def streamed(
    chunks: AsyncIterator[MessageChunk], speaker: Speaker, queue: SendQueue, pace: Pace
) -> Answer:
    """Take an answer in while showing it; what was said before it broke off is still said."""
    answer = Answer()
    show = Show(speaker, queue, pace, answer)
    showing = asyncio.create_task(show.run())
    try:
        async for chunk in _until(speaker.stopping, chunks):
            answer.text += chunk.delta
            answer.attachments += chunk.attachments
        answer.stopped = speaker.stopping.is_set()
    except PlatformError as error:
        answer.failed = error
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
    await show.finish()
    return answer
