"""Answering one event: what is said for good is collected and queued at the end, the rest happens at once."""

import asyncio
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from quarterdeck.kernel.errors import QuarterdeckError, Unavailable
from quarterdeck.surfaces.protocol import (
    Attachment,
    OutgoingEvent,
    OutgoingMessage,
    OutgoingNotification,
    OutgoingTyping,
    OutgoingUI,
    UIButton,
)
from quarterdeck.surfaces.telegram import buttons, files
from quarterdeck.surfaces.telegram.bots import BotDoor
from quarterdeck.surfaces.telegram.converter import Native, Place
from quarterdeck.surfaces.telegram.markdown import escape, to_html
from quarterdeck.surfaces.telegram.rooms import Room
from quarterdeck.surfaces.texts import say
from quarterdeck.telegram.splitting import split
from quarterdeck.telegram.wire import File, Send

log = structlog.get_logger(__name__)

NOT_MODIFIED = "message is not modified"
MOST_TRIES = 3
LONGEST_PEACE = 30.0

current: "ContextVar[Speaker]" = ContextVar("speaker")
"""Who answers the event that is being handled."""


class Speaker:
    """The answer to one event, in the place where the event happened."""

    room: Room
    """The chat that is meant; there once it was found."""

    def __init__(self, native: Native, language: str, bots: BotDoor) -> None:
        self.native = native
        self.language = language
        self.place: Place = native.place
        self.workspace = Path()
        self.folder = Path()
        """Where files that are sent are copied to."""
        self.largest = 0
        self.sends: list[Send] = []
        self.pending = ""
        """The id of the question that was asked, if one was."""
        self.is_accepted = False
        """Has the agent taken up what was said to it?"""
        self.stopping = asyncio.Event()
        """Set when the user has heard enough."""
        self._bots = bots

    async def tell(self, event: OutgoingEvent) -> None:
        """Render one event of the core."""
        match event:
            case OutgoingTyping(is_typing=is_typing):
                if is_typing:
                    await self.typing()
            case OutgoingUI():
                self.pending = _asked(event) or self.pending
                await self._say(event.text, event.form, event.buttons, replaces=event.replaces)
            case OutgoingMessage():
                await self._say(event.text, event.form, [], replaces=event.replaces)
                for attachment in event.attachments:
                    await self.send_file(attachment)
            case OutgoingNotification():
                await self._say(event.text, "plain", [])

    async def typing(self) -> None:
        """Show that somebody is at work; Telegram takes it away after five seconds."""
        await self.attempt("sendChatAction", action="typing")

    async def attempt_in_chat(self, method: str, **fields: Any) -> Any:
        """The same for the chat itself, outside of its topics."""
        try:
            return await self._bots.call(self.place.agent_id, method, chat_id=self.place.chat, **fields)
        except QuarterdeckError as error:
            log.info("telegram_call_failed", method=method, agent=self.place.agent_id, reason=error.detail)
            return None

    async def attempt(self, method: str, **fields: Any) -> Any:
        """Call a method whose failure changes nothing; its result, or None."""
        try:
            return await self._call(method, **fields)
        except QuarterdeckError as error:
            log.info("telegram_call_failed", method=method, agent=self.place.agent_id, reason=error.detail)
            return None

    def say(self, html: str, rows: list[list[UIButton]] | None = None) -> None:
        """Say something for good."""
        if html.strip():
            self._queue(
                Send(self.place.agent_id, self.place.chat, html, buttons=buttons.keyboard(rows or []))
            )

    def say_at(self, place: Place, text: str) -> None:
        """Say something for good in another place of the same bot."""
        self._queue(Send(place.agent_id, place.chat, escape(text)), place)

    async def notice_press(self) -> None:
        """Tell Telegram that a button was noticed, so that it stops turning."""
        try:
            await self._bots.call(
                self.place.agent_id, "answerCallbackQuery", callback_query_id=self.native.callback_id
            )
        except QuarterdeckError as error:  # too old, or answered before
            log.info("press_not_noticed", agent=self.place.agent_id, reason=error.detail)

    async def draft(self, draft_id: int, html: str) -> bool:
        """Show a preview with a button to stop it; False when this chat or this server has none."""
        try:
            shown = {"draft_id": draft_id, "text": html, "parse_mode": "HTML"}
            await self._call("sendMessageDraft", **shown, can_stop=True, keep_on_stop=True)
        except Unavailable as error:
            await _peace(error)
        except QuarterdeckError as error:
            log.info("no_drafts", agent=self.place.agent_id, reason=error.detail)
            return False
        return True

    async def _call(self, method: str, **fields: Any) -> Any:
        thread = {"message_thread_id": self.place.thread} if self.place.thread else {}
        return await self._bots.call(self.place.agent_id, method, chat_id=self.place.chat, **thread, **fields)

    async def rewrite(self, message_id: int, html: str, rows: list[list[UIButton]] | None = None) -> bool:
        """Change a message of ours; False when that is not possible."""
        for _ in range(MOST_TRIES):
            try:
                await self._bots.call(
                    self.place.agent_id,
                    "editMessageText",
                    chat_id=self.place.chat,
                    message_id=message_id,
                    text=html,
                    parse_mode="HTML",
                    reply_markup=buttons.markup(rows or []),
                    link_preview_options={"is_disabled": True},
                )
                return True
            except Unavailable as error:
                await _peace(error)
            except QuarterdeckError as error:
                return NOT_MODIFIED in str(error.data.get("description", ""))
        return False

    async def send_file(self, attachment: Attachment) -> None:
        """Queue an agent's file; the user is told of one that cannot be sent."""
        path = attachment.workspace_path or ""
        name = files.sanitised(attachment.filename or path)
        target = self.folder / str(len(self.sends)) / name
        try:
            size = await asyncio.to_thread(files.fetch, self.workspace, path, target, self.largest)
        except files.FileRefused as refused:
            log.info("file_not_sent", agent=self.place.agent_id, why=refused.why)
            self.say(escape(self.why("file_not_sent", name, refused.why)))
            return
        kind, mime = files.kind_of(attachment, size)
        file = File(str(target), kind, name, mime)
        self._queue(Send(self.place.agent_id, self.place.chat, attachments=(file,)))

    def why(self, entry: str, name: str, why: str) -> str:
        """What became of a file, in words."""
        reason = say(self.language, why, limit=self.largest // 1_000_000)
        return say(self.language, entry, name=name, why=reason)

    async def _say(self, text: str, form: str, rows: list[list[UIButton]], *, replaces: bool = False) -> None:
        html = text if form == "html" else to_html(text) if form == "markdown" else escape(text)
        pressed = self.native.message_id if self.native.is_callback else None
        if replaces and pressed and len(split(html, "HTML")) == 1 and await self.rewrite(pressed, html, rows):
            return
        self.say(html, rows)

    def _queue(self, send: Send, place: Place | None = None) -> None:
        key = f"surface/{self.native.event_id}/{len(self.sends)}"
        self.sends.append(
            replace(
                send,
                message_thread_id=(place or self.place).thread or None,
                parse_mode="HTML" if send.text else None,
                idempotency_key=key,
            )
        )


def _asked(event: OutgoingUI) -> str:
    """The question that buttons answer with confirm or cancel."""
    found = (b for row in event.buttons for b in row if b.action == "confirm")
    return next((str(button.payload.get("action_id", "")) for button in found), "")


async def _peace(error: Unavailable) -> None:
    """Wait as long as Telegram wants."""
    await asyncio.sleep(min(float(error.data.get("retry_after") or 1), LONGEST_PEACE))
