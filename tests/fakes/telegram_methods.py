"""The methods of the Bot API, as far as our programs use them; any other is answered with 404."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.fakes import telegram_shapes as shapes
from tests.fakes.telegram_state import Ask, Bot, Kept, Refusal, State, Upload
from tests.fakes.telegram_text import LONGEST_CAPTION, LONGEST_TEXT, Text, Unparsable, read, units

TERMINATED = (
    "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running"
)
HOOKED = (
    "Conflict: can't use getUpdates method while webhook is active; "
    "use deleteWebhook to delete the webhook first"
)
SAME = (
    "Bad Request: message is not modified: specified new message content and reply markup "
    "are exactly the same as a current content and reply markup of the message"
)
STALE_QUERY = "Bad Request: query is too old and response timeout expired or query ID is invalid"
MEDIA = ("photo", "document", "audio", "video", "voice", "animation")

Method = Callable[[Ask], Awaitable[Any]]


class Methods:
    """Answers requests of bots that are known. `answer` raises `Refusal`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known: dict[str, Method] = {
            name: getattr(self, f"_{name}")
            for name in (
                *("getMe", "getUpdates", "setWebhook", "deleteWebhook", "getWebhookInfo"),
                *("sendMessage", "sendMessageDraft", "sendMediaGroup", "deleteMessage", "deleteMessages"),
                *("editMessageText", "editMessageCaption", "editMessageReplyMarkup", "answerCallbackQuery"),
                *("getFile", "createForumTopic", "editForumTopic", "getChat", "getChatMember"),
                *("setMyCommands", "getMyCommands", "deleteMyCommands"),
            )
        }
        done = ("sendChatAction", "setMessageReaction", "logOut", "close", "pinChatMessage")
        self._known |= dict.fromkeys(done, self._done)
        self._known |= {f"send{kind.capitalize()}": self._send_media for kind in MEDIA}

    async def answer(self, ask: Ask) -> Any:
        """The `result` of a request."""
        method = self._known.get(ask.method)
        if method is None:
            raise Refusal(404, "Not Found: method not found")
        if self._state.limits is not None:
            self._state.limits.admit(ask)
        return await method(ask)

    def _bot(self, ask: Ask) -> Bot:
        return self._state.bots[ask.token]

    # Updates

    async def _getMe(self, ask: Ask) -> dict[str, Any]:  # noqa: N802
        bot = self._bot(ask)
        return shapes.me(bot.number, topics=bot.topics)

    async def _getUpdates(self, ask: Ask) -> list[dict[str, Any]]:  # noqa: N802
        """Long polling: `offset` forgets everything before it, `timeout` waits for the first."""
        bot = self._bot(ask)
        if bot.webhook:
            raise Refusal(409, HOOKED)
        if bot.poll is not None:
            bot.poll.cancel("terminated")
        if (allowed := shapes.structured(ask.body.get("allowed_updates"))) is not None:
            bot.allowed = set(allowed)
        _forget(bot, ask.number("offset"))
        if not bot.updates and bot.mode != "flood":
            await self._wait(bot, float(ask.body.get("timeout") or 0))
        if bot.mode == "flood":
            self._flood(bot)
        return list(bot.updates)[: ask.number("limit", 100)]

    async def _wait(self, bot: Bot, seconds: float) -> None:
        """Until an update is there. Raises `Refusal` when another poll begins meanwhile."""
        bot.arrived.clear()
        waiting = asyncio.ensure_future(bot.arrived.wait())
        bot.poll = waiting
        try:
            await asyncio.wait([waiting], timeout=seconds)
            if waiting.cancelled():
                raise Refusal(409, TERMINATED)
        finally:
            if bot.poll is waiting:
                bot.poll = None
            waiting.cancel()

    def _flood(self, bot: Bot) -> None:
        while len(bot.updates) < 100:
            number = next(self._state.ids)
            said = shapes.message(number, shapes.chat(1), shapes.person(1), text=f"flood {number}")
            bot.updates.append({"update_id": next(self._state.update_ids), "message": said})

    async def _setWebhook(self, ask: Ask) -> bool:  # noqa: N802
        self._bot(ask).webhook = ask.text("url")
        return True

    async def _deleteWebhook(self, ask: Ask) -> bool:  # noqa: N802
        bot = self._bot(ask)
        bot.webhook = ""
        if shapes.truth(ask.body.get("drop_pending_updates")):
            bot.updates.clear()
        return True

    async def _getWebhookInfo(self, ask: Ask) -> dict[str, Any]:  # noqa: N802
        bot = self._bot(ask)
        waiting = len(bot.updates)
        return {"url": bot.webhook, "has_custom_certificate": False, "pending_update_count": waiting}

    # Messages

    async def _sendMessage(self, ask: Ask) -> dict[str, Any]:  # noqa: N802
        where = self._addressed(ask)
        text = _text(ask, "text")
        if not text.shown.strip():
            raise Refusal(400, "Bad Request: message text is empty")
        if units(text.shown) > LONGEST_TEXT:
            raise Refusal(400, "Bad Request: message is too long")
        return self._store(ask, **where, text=text.shown, entities=text.entities)

    async def _sendMessageDraft(self, ask: Ask) -> bool:  # noqa: N802
        self._state.must_reach(ask.chat)
        if shapes.chat(ask.chat)["type"] != "private":
            raise Refusal(400, "Bad Request: TEXTDRAFT_PEER_INVALID")
        if not ask.number("draft_id"):
            raise Refusal(400, "Bad Request: TEXTDRAFT_ID_INVALID")
        self._state.thread(ask.chat, ask.number("message_thread_id"))
        text = _text(ask, "text")
        if units(text.shown) > LONGEST_TEXT:
            raise Refusal(400, "Bad Request: message is too long")
        self._state.drafts[ask.token, ask.chat, ask.number("message_thread_id")] = text.shown
        return True

    async def _send_media(self, ask: Ask) -> dict[str, Any]:
        kind = ask.method.removeprefix("send").lower()
        return self._send_file(ask, kind, ask.body, self._addressed(ask))

    async def _sendMediaGroup(self, ask: Ask) -> list[dict[str, Any]]:  # noqa: N802
        parts = shapes.structured(ask.body.get("media")) or []
        if not 2 <= len(parts) <= 10:
            raise Refusal(400, "Bad Request: wrong number of messages in the album")
        where = self._addressed(ask) | {"media_group_id": str(next(self._state.ids))}
        return [
            self._send_file(ask, part["type"], {**part, part["type"]: part["media"]}, where) for part in parts
        ]

    def _send_file(
        self, ask: Ask, kind: str, fields: dict[str, Any], where: dict[str, Any]
    ) -> dict[str, Any]:
        caption = parse(str(fields.get("caption") or ""), str(fields.get("parse_mode") or ""))
        if units(caption.shown) > LONGEST_CAPTION:
            raise Refusal(400, "Bad Request: message caption is too long")
        kept, name, mime = self._file(ask, kind, fields.get(kind))
        content = {kind: shapes.media(kind, kept.shape(), name, mime)}
        return self._store(ask, **where, **content, caption=caption.shown, caption_entities=caption.entities)

    def _file(self, ask: Ask, kind: str, given: object) -> tuple[Kept, str, str]:
        """The file that a parameter means: sent along, known already, or lying on the server's disk."""
        reference = str(given or "")
        upload = ask.files.get(reference.removeprefix("attach://")) or ask.files.get(kind)
        if upload is None and reference.startswith("file://") and self._state.local is not None:
            path = Path(unquote(urlsplit(reference).path))
            if not path.is_file():
                raise Refusal(400, "Bad Request: file must be non-empty")
            upload = Upload(path.name, "application/octet-stream", path.read_bytes())
        if upload is not None:
            return self._taken(ask.token, kind, upload), upload.name, upload.mime_type
        if reference in self._state.files:
            return self._state.files[reference], "", ""
        if not reference:
            raise Refusal(400, f"Bad Request: there is no {kind} in the request")
        raise Refusal(400, "Bad Request: wrong file identifier/HTTP URL specified")

    def _taken(self, token: str, kind: str, upload: Upload) -> Kept:
        if not upload.content:
            raise Refusal(400, "Bad Request: file must be non-empty")
        if len(upload.content) > self._state.upload_limit:
            raise Refusal(413, "Request Entity Too Large")
        return self._state.keep(token, kind, upload.name, upload.content)

    def _addressed(self, ask: Ask) -> dict[str, Any]:
        """The fields that say where a new message stands. Raises `Refusal` where it cannot."""
        self._state.must_reach(ask.chat)
        where = self._state.thread(ask.chat, ask.number("message_thread_id"))
        reply = shapes.structured(ask.body.get("reply_parameters")) or {}
        target = int(reply.get("message_id") or ask.number("reply_to_message_id"))
        if not target:
            return where
        if (replied := self._state.messages.get((ask.token, target))) is not None:
            bare = {key: value for key, value in replied.items() if key != "reply_to_message"}
            return where | {"reply_to_message": bare}
        if reply.get("allow_sending_without_reply"):
            return where
        raise Refusal(400, "Bad Request: message to be replied not found")

    def _store(self, ask: Ask, **content: Any) -> dict[str, Any]:
        sender, chat = shapes.bot_user(self._bot(ask).number), self._state.chat(ask.chat)
        markup = _keyboard(ask)
        message = shapes.message(next(self._state.ids), chat, sender, **content, reply_markup=markup)
        self._state.messages[ask.token, message["message_id"]] = message
        self._state.drafts.pop((ask.token, ask.chat, ask.number("message_thread_id")), None)
        return message

    async def _editMessageText(self, ask: Ask) -> dict[str, Any]:  # noqa: N802
        message = self._editable(ask)
        if "text" not in message:
            raise Refusal(400, "Bad Request: there is no text in the message to edit")
        text = _text(ask, "text")
        if not text.shown.strip():
            raise Refusal(400, "Bad Request: message text is empty")
        if units(text.shown) > LONGEST_TEXT:
            raise Refusal(400, "Bad Request: MESSAGE_TOO_LONG")
        return _change(message, {"text": text.shown, "entities": text.entities}, _keyboard(ask))

    async def _editMessageCaption(self, ask: Ask) -> dict[str, Any]:  # noqa: N802
        message = self._editable(ask)
        if "text" in message:
            raise Refusal(400, "Bad Request: there is no caption in the message to edit")
        caption = _text(ask, "caption")
        if units(caption.shown) > LONGEST_CAPTION:
            raise Refusal(400, "Bad Request: message caption is too long")
        fields = {"caption": caption.shown, "caption_entities": caption.entities}
        return _change(message, fields, _keyboard(ask))

    async def _editMessageReplyMarkup(self, ask: Ask) -> dict[str, Any]:  # noqa: N802
        return _change(self._editable(ask), {}, _keyboard(ask))

    def _editable(self, ask: Ask) -> dict[str, Any]:
        self._state.must_reach(ask.chat)
        message = self._state.messages.get((ask.token, ask.number("message_id")))
        if message is None or str(message["chat"]["id"]) != ask.chat:
            raise Refusal(400, "Bad Request: message to edit not found")
        if not message["from"]["is_bot"]:
            raise Refusal(400, "Bad Request: message can't be edited")
        return message

    async def _deleteMessage(self, ask: Ask) -> bool:  # noqa: N802
        if self._state.messages.pop((ask.token, ask.number("message_id")), None) is None:
            raise Refusal(400, "Bad Request: message to delete not found")
        return True

    async def _deleteMessages(self, ask: Ask) -> bool:  # noqa: N802
        for number in shapes.structured(ask.body.get("message_ids")) or []:
            self._state.messages.pop((ask.token, int(number)), None)
        return True

    async def _answerCallbackQuery(self, ask: Ask) -> bool:  # noqa: N802
        if (ask.token, ask.text("callback_query_id")) not in self._state.queries:
            raise Refusal(400, STALE_QUERY)
        if len(ask.text("text")) > 200:
            raise Refusal(400, "Bad Request: MESSAGE_TOO_LONG")
        return True

    # Files, topics, chats, commands

    async def _getFile(self, ask: Ask) -> dict[str, Any]:  # noqa: N802
        kept = self._state.files.get(ask.text("file_id"))
        if kept is None:
            raise Refusal(400, "Bad Request: invalid file_id")
        if self._state.local is None and len(kept.content) > self._state.download_limit:
            raise Refusal(400, "Bad Request: file is too big")
        return {**kept.shape(), "file_path": kept.path}

    async def _createForumTopic(self, ask: Ask) -> dict[str, Any]:  # noqa: N802
        self._state.must_reach(ask.chat)
        private = not ask.chat.startswith(("-", "@"))
        if not (self._bot(ask).topics if private else ask.chat in self._state.forum_chats):
            raise Refusal(400, "Bad Request: the chat is not a forum")
        if not 1 <= len(ask.text("name")) <= 128:
            raise Refusal(400, "Bad Request: TOPIC_TITLE_EMPTY")
        thread = next(self._state.ids)
        self._state.topics[ask.chat][thread] = ask.text("name")
        return {"message_thread_id": thread, "name": ask.text("name"), "icon_color": 7322096}

    async def _editForumTopic(self, ask: Ask) -> bool:  # noqa: N802
        topics, thread = self._state.topics[ask.chat], ask.number("message_thread_id")
        if thread not in topics:
            raise Refusal(400, "Bad Request: message thread not found")
        if ask.text("name") == topics[thread]:
            raise Refusal(400, "Bad Request: TOPIC_NOT_MODIFIED")
        topics[thread] = ask.text("name") or topics[thread]
        return True

    async def _getChat(self, ask: Ask) -> dict[str, Any]:  # noqa: N802
        self._state.must_reach(ask.chat)
        return shapes.full_chat(ask.chat, forum=ask.chat in self._state.forum_chats)

    async def _getChatMember(self, ask: Ask) -> dict[str, Any]:  # noqa: N802
        self._state.must_reach(ask.chat)
        return {"status": "member", "user": shapes.person(ask.number("user_id"))}

    async def _setMyCommands(self, ask: Ask) -> bool:  # noqa: N802
        commands = shapes.structured(ask.body.get("commands")) or []
        if any(not 1 <= len(one["command"]) <= 32 or not one["command"].islower() for one in commands):
            raise Refusal(400, "Bad Request: BOT_COMMAND_INVALID")
        self._bot(ask).commands[_scope(ask)] = commands
        return True

    async def _getMyCommands(self, ask: Ask) -> list[dict[str, Any]]:  # noqa: N802
        return list(self._bot(ask).commands.get(_scope(ask), []))

    async def _deleteMyCommands(self, ask: Ask) -> bool:  # noqa: N802
        self._bot(ask).commands.pop(_scope(ask), None)
        return True

    async def _done(self, ask: Ask) -> bool:
        if ask.method in ("sendChatAction", "pinChatMessage", "setMessageReaction"):
            self._state.must_reach(ask.chat)
        return True


def _scope(ask: Ask) -> str:
    return f"{shapes.structured(ask.body.get('scope'))}:{ask.text('language_code')}"


def _forget(bot: Bot, offset: int) -> None:
    """What an offset acknowledges; a negative one keeps only so many from the end."""
    while bot.updates and (bot.updates[0]["update_id"] < offset or len(bot.updates) > -offset > 0):
        bot.updates.popleft()


def _text(ask: Ask, name: str) -> Text:
    return parse(ask.text(name), ask.text("parse_mode"))


def parse(text: str, mode: str) -> Text:
    """A text and its entities. Raises `Refusal` for what Telegram cannot parse."""
    try:
        return read(text, mode)
    except Unparsable as why:
        raise Refusal(400, f"Bad Request: can't parse entities: {why}") from None


def _keyboard(ask: Ask) -> Any:
    """The keyboard of a request. Raises `Refusal` for buttons that Telegram does not show."""
    markup = shapes.structured(ask.body.get("reply_markup")) or None
    for row in (markup or {}).get("inline_keyboard", []):
        for button in row:
            if len(button) < 2:
                why = "Text buttons are unallowed in the inline keyboard"
                raise Refusal(400, f"Bad Request: can't parse inline keyboard button: {why}")
            if not 1 <= len(str(button.get("callback_data", "-")).encode()) <= 64:
                raise Refusal(400, "Bad Request: BUTTON_DATA_INVALID")
    return markup


def _change(message: dict[str, Any], fields: dict[str, Any], markup: Any) -> dict[str, Any]:
    """Edit a message where it stands; without a keyboard in the request, it loses its own."""
    wanted = {key: value for key, value in (fields | {"reply_markup": markup}).items() if value}
    current = {key: message[key] for key in (*fields, "reply_markup") if key in message}
    if wanted == current:
        raise Refusal(400, SAME)
    for key in current:
        del message[key]
    message |= wanted | {"edit_date": int(time.time())}
    return message
