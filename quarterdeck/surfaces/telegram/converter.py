"""Updates as the core's events. Pure: whatever comes in, nothing is raised, and only values come out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from quarterdeck.surfaces.commands import parsed, prefix
from quarterdeck.surfaces.protocol import (
    Attachment,
    IncomingCallback,
    IncomingCommand,
    IncomingEvent,
    IncomingMessage,
)
from quarterdeck.surfaces.telegram import buttons
from quarterdeck.telegram.wire import Update

PLATFORM = "telegram"
STOP = "stop"
CONSENT = {"yes": "confirm", "no": "cancel"}

_MEDIA = {
    "document": ("document", ""),
    "animation": ("video", "video/mp4"),
    "video": ("video", "video/mp4"),
    "video_note": ("video", "video/mp4"),
    "voice": ("audio", "audio/ogg"),
    "audio": ("audio", "audio/mpeg"),
    "sticker": ("image", "image/webp"),
    "photo": ("image", "image/jpeg"),
}
"""Telegram's field: our type and the usual MIME type. A GIF comes as two of these."""

_MENTION = re.compile(r"@(\w+)", re.ASCII)

SPOKEN = frozenset({"voice", "video_note"})

WHOLE_SECOND = timedelta(seconds=1)
"""Telegram leaves the parts of a second out: what it dates was said before the next one began."""


@dataclass(frozen=True)
class Place:
    """Where somebody writes: a bot, a chat, a topic in it (0 = none), and who."""

    agent_id: str
    chat: int
    thread: int
    user: int

    @property
    def is_private(self) -> bool:
        return self.chat > 0

    @property
    def key(self) -> str:
        return f"{self.agent_id}:{self.chat}:{self.thread}:{self.user}"


@dataclass(frozen=True)
class Native:
    """What an update says, as far as it concerns us. `topic` is the name that a topic was given in it."""

    event_id: str
    place: Place
    said_at: datetime | None = None
    name: str = ""
    language_code: str = ""
    message_id: int | None = None
    text: str = ""
    files: list[Attachment] = field(default_factory=list)
    is_spoken: bool = False
    album: str = ""
    reply_to: str | None = None
    replies_to_bot: bool = False
    callback_id: str = ""
    data: str = ""
    topic: str = ""

    @property
    def is_callback(self) -> bool:
        return bool(self.callback_id)

    @property
    def is_command(self) -> bool:
        return not self.files and parsed(self.text, prefix(PLATFORM)) is not None

    @property
    def is_answered_at_once(self) -> bool:
        """While it is delivered; what people say to agents is answered afterwards."""
        return self.is_callback or self.is_command or bool(self.topic)

    @property
    def is_bare_file(self) -> bool:
        """A file without a word, which waits for the next message; what was spoken does not."""
        return bool(self.files) and not self.text and not self.is_spoken


def read(update: Update) -> Native | None:
    """What there is to answer in an update; None where nobody of flesh says anything new."""
    raw = _object(update.raw_update)
    if update.kind == "callback_query":
        return _pressed(update, _object(raw.get("callback_query")))
    if update.kind == "stopped_message_generation":
        return _stopped(update)
    if update.kind != "message":
        return None
    message = _object(raw.get("message"))
    sender = _object(message.get("from"))
    if not update.user_id or not update.chat_id or sender.get("is_bot"):
        return None
    files, kind = _files(message)
    text = _text(message)
    topic = _object(message.get("forum_topic_created")) or _object(message.get("forum_topic_edited"))
    if not (files or text or topic.get("name")):
        return None
    replied = _object(message.get("reply_to_message"))
    return Native(
        event_id=update.event_id,
        place=_place(update, message, update.user_id),
        said_at=update.ts + WHOLE_SECOND,
        name=_name(sender),
        language_code=str(sender.get("language_code") or ""),
        message_id=update.message_id,
        text=text,
        files=files,
        is_spoken=kind in SPOKEN,
        album=str(message.get("media_group_id") or ""),
        reply_to=str(replied["message_id"]) if replied.get("message_id") else None,
        replies_to_bot=_author(replied) == update.bot_id and not _opened_topic(replied),
        topic=str(topic.get("name") or ""),
    )


def _pressed(update: Update, query: Mapping[str, Any]) -> Native | None:
    message, sender = _object(query.get("message")), _object(query.get("from"))
    data = query.get("data")
    if not update.user_id or not update.chat_id or not isinstance(data, str) or not query.get("id"):
        return None
    return Native(
        event_id=update.event_id,
        place=_place(update, message, update.user_id),
        name=_name(sender),
        language_code=str(sender.get("language_code") or ""),
        message_id=update.message_id,
        callback_id=str(query["id"]),
        data=data,
    )


def _stopped(update: Update) -> Native | None:
    """The button that Telegram shows below a draft is another way to say `/stop`; drafts are private."""
    if update.chat_id <= 0:
        return None
    place = Place(update.agent_id, update.chat_id, update.message_thread_id or 0, update.chat_id)
    return Native(event_id=update.event_id, place=place, text=f"{prefix(PLATFORM)}{STOP}")


def _place(update: Update, message: Mapping[str, Any], user: int) -> Place:
    """Outside of topics a thread is only a chain of replies."""
    thread = message.get("message_thread_id") if message.get("is_topic_message") else 0
    return Place(update.agent_id, update.chat_id, thread if isinstance(thread, int) else 0, user)


def is_for(native: Native, username: str) -> bool:
    """In a group a bot answers commands that are its own, replies to it, and whoever calls it by name."""
    if native.place.is_private or native.is_callback:
        return True
    if native.topic:
        return False
    name, said = username.lower(), native.text.lower()
    if native.is_command:
        addressee = said.split()[0].partition("@")[2]
        return not addressee or addressee == name
    return native.replies_to_bot or (bool(name) and name in _MENTION.findall(said))


def to_event(
    native: Native, chat_id: str, language: str, files: list[Attachment], action_id: str = ""
) -> IncomingEvent:
    """The core's event. `action_id` is what `/yes` and `/no` answer here."""
    who: dict[str, Any] = {"user_id": str(native.place.user), "platform": PLATFORM, "chat_id": chat_id}
    who |= {"language": language, "event_id": native.event_id, "said_at": native.said_at}
    if native.is_callback:
        action, payload = buttons.unpack(native.data)
        return IncomingCallback(**who, action=action, payload=dict(payload))
    command = parsed(native.text, prefix(PLATFORM)) if native.is_command else None
    if command is None:
        return IncomingMessage(**who, text=native.text, attachments=files, reply_to=native.reply_to)
    name, args = command
    if name in CONSENT:
        answered = {"action_id": action_id} if action_id else {}
        return IncomingCallback(**who, action=CONSENT[name], payload=dict(answered))
    return IncomingCommand(**who, command=name, args=args)


def _files(message: Mapping[str, Any]) -> tuple[list[Attachment], str]:
    for kind, (type_, mime) in _MEDIA.items():
        found = message.get(kind)
        if kind == "document" and message.get("animation"):
            continue
        if kind == "photo" and isinstance(found, list) and found:
            found = max((_object(size) for size in found), key=lambda size: _size(size) or 0)
        media = _object(found)
        if media.get("file_id"):
            name, told = media.get("file_name"), media.get("mime_type")
            return [
                Attachment(
                    type=type_,
                    filename=name if isinstance(name, str) and name else None,
                    mime_type=told if isinstance(told, str) else mime or None,
                    url=str(media["file_id"]),
                    size=_size(media),
                )
            ], kind
    return [], ""


def _size(media: Mapping[str, Any]) -> int | None:
    size = media.get("file_size")
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def _text(message: Mapping[str, Any]) -> str:
    """The words of a message; a place, a contact or a poll in words."""
    for key in ("text", "caption"):
        if isinstance(message.get(key), str) and message[key]:
            return str(message[key])
    if place := _object(message.get("location")):
        return f"geo:{place.get('latitude')},{place.get('longitude')}"
    if contact := _object(message.get("contact")):
        parts = (contact.get("first_name"), contact.get("last_name"), contact.get("phone_number"))
        return " ".join(str(part) for part in parts if part)
    if poll := _object(message.get("poll")):
        options = [str(_object(option).get("text") or "") for option in poll.get("options") or []]
        return "\n- ".join([str(poll.get("question") or ""), *options])
    return str(_object(message.get("dice")).get("emoji") or "")


def _name(sender: Mapping[str, Any]) -> str:
    parts = (sender.get("first_name"), sender.get("last_name"))
    return " ".join(str(part) for part in parts if part)[:100] or str(sender.get("username") or "")


def _author(message: Mapping[str, Any]) -> str:
    """Who wrote it, named as bots are: a group may have many of them."""
    return f"bot:{_object(message.get('from')).get('id')}"


def _opened_topic(message: Mapping[str, Any]) -> bool:
    """In a topic every message replies to the one that opened it."""
    return "forum_topic_created" in message


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
