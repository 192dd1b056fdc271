"""What an update says, what a message is made of, what an answer means. Pure."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from quarterdeck.telegram.splitting import plain_of, split
from quarterdeck.telegram.wire import Button, File, Send, Update

KINDS = (
    *("message", "edited_message", "channel_post", "edited_channel_post"),
    *("business_connection", "business_message", "edited_business_message", "deleted_business_messages"),
    *("message_reaction", "message_reaction_count", "inline_query", "chosen_inline_result"),
    *("callback_query", "shipping_query", "pre_checkout_query", "purchased_paid_media", "poll"),
    *("poll_answer", "my_chat_member", "chat_member", "chat_join_request", "chat_boost"),
    *("removed_chat_boost", "managed_bot", "stopped_message_generation"),
)
"""Every kind of update of Bot API 10.3; a server that does not know one ignores its name."""

LONGEST_WAIT = timedelta(hours=24)
LONGEST_PAUSE = timedelta(minutes=5)

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def is_group(chat: str) -> bool:
    """Groups, supergroups and channels have negative ids, or a public @name."""
    return chat.startswith(("-", "@"))


def update_of(raw: Mapping[str, Any], agent_id: str, bot_id: str, now: datetime) -> Update:
    """An update as an event. What PostgreSQL and UTF-8 cannot hold becomes U+FFFD."""
    raw = storable(raw)
    kind = next((key for key in raw if key != "update_id"), "unknown")
    content = raw.get(kind)
    content = content if isinstance(content, dict) else {}
    message = content.get("message") if kind == "callback_query" else content
    message = message if isinstance(message, dict) else {}
    update_id = int(raw["update_id"])
    return Update(
        event_id=f"{bot_id}:{update_id}",
        agent_id=agent_id,
        bot_id=bot_id,
        update_id=update_id,
        kind=kind[:50],
        chat_id=_id(message.get("chat")) or 0,
        user_id=_id(content.get("from") or content.get("user")) or 0,
        ts=_moment(content.get("edit_date") or content.get("date"), now),
        text=_text(content, kind),
        message_id=_number(message.get("message_id")),
        message_thread_id=_number(message.get("message_thread_id")),
        raw_update=raw,
    )


def _text(content: Mapping[str, Any], kind: str) -> str | None:
    found = content.get("data") if kind == "callback_query" else content.get("text") or content.get("caption")
    return found if isinstance(found, str) else None


def move_of(raw: Mapping[str, Any]) -> tuple[int, int] | None:
    """The old and the new id of a group that became a supergroup, as a service message in either says."""
    message = raw.get("message")
    message = message if isinstance(message, dict) else {}
    chat, new = _id(message.get("chat")), _number(message.get("migrate_to_chat_id"))
    old = _number(message.get("migrate_from_chat_id"))
    if chat and new:
        return chat, new
    return (old, chat) if chat and old else None


def _id(thing: object) -> int | None:
    return _number(thing.get("id")) if isinstance(thing, dict) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and -(2**63) <= value < 2**63 else None


def _moment(seconds: object, now: datetime) -> datetime:
    """Telegram's time of it; of inaccessible messages that is 0."""
    if not isinstance(seconds, int) or not 0 < seconds < 2**33:
        return now
    return datetime.fromtimestamp(seconds, UTC)


def storable(value: Any) -> Any:
    """The same JSON without what no database column can hold."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {storable(key): storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [storable(inner) for inner in value]
    return value


def is_allowed(update: Update, chats: frozenset[int]) -> bool:
    """Whether an update comes from a chat that the bot may listen to; none named = all."""
    return not chats or (update.chat_id or update.user_id) in chats


def moved(chats: Iterable[int], old: int, new: int) -> list[int]:
    """The same chats where one of them has another id now."""
    return list(dict.fromkeys(new if chat == old else chat for chat in chats))


# What is sent


@dataclass(frozen=True)
class Part:
    """One request: its method, its fields, and the file that goes along."""

    method: str
    fields: Mapping[str, Any]
    file: File | None = None


def parts(send: Send) -> list[Part]:
    """The requests that a message is made of, in order: its texts, then its files.

    The reply belongs to the first, the buttons to the last text (or to the last file without one).
    """
    texts = split(send.text, send.parse_mode) if send.text.strip() else []
    if send.edits is not None:
        return [_edit(send, text) for text in texts[:1]]
    made = [Part("sendMessage", _text_fields(send, text)) for text in texts]
    made += [Part(_METHODS[file.kind], _common(send), file) for file in send.attachments]
    if not made:
        return []
    if send.reply_to_message_id:
        made[0] = _with(
            made[0],
            reply_parameters={"message_id": send.reply_to_message_id, "allow_sending_without_reply": True},
        )
    if send.buttons:
        place = len(texts) - 1 if texts else len(made) - 1
        made[place] = _with(made[place], reply_markup=keyboard(send.buttons))
    return made


def redirected(send: Send, chat: int) -> Send:
    """The same in the chat that a group became. There messages are numbered anew: what would change one of
    the old chat, or answer it, is said on its own.
    """
    return replace(send, chat_id=chat, edits=None, reply_to_message_id=None, message_thread_id=None)


_METHODS = {
    "document": "sendDocument",
    "photo": "sendPhoto",
    "audio": "sendAudio",
    "video": "sendVideo",
    "voice": "sendVoice",
}


def _edit(send: Send, text: str) -> Part:
    """Without buttons it takes former ones away."""
    fields = {**_text_fields(send, text), "message_id": send.edits}
    fields.pop("message_thread_id", None)  # a message knows where it is
    fields.pop("disable_notification", None)
    if send.buttons:
        fields["reply_markup"] = keyboard(send.buttons)
    return Part("editMessageText", fields)


def _with(part: Part, **more: Any) -> Part:
    return Part(part.method, {**part.fields, **more}, part.file)


def _common(send: Send) -> dict[str, Any]:
    fields: dict[str, Any] = {"chat_id": send.chat_id}
    if send.message_thread_id:
        fields["message_thread_id"] = send.message_thread_id
    if send.disable_notification:
        fields["disable_notification"] = True
    return fields


def _text_fields(send: Send, text: str) -> dict[str, Any]:
    fields = {**_common(send), "text": text}
    if send.parse_mode:
        fields["parse_mode"] = send.parse_mode
    if not send.link_preview:
        fields["link_preview_options"] = {"is_disabled": True}
    return fields


def keyboard(rows: tuple[tuple[Button, ...], ...]) -> dict[str, Any]:
    """Buttons as Telegram takes them."""
    return {"inline_keyboard": [[_button(button) for button in row] for row in rows]}


def _button(button: Button) -> dict[str, str]:
    return {"text": button.text, **({"url": button.url} if button.url else {"callback_data": button.data})}


# What comes back


@dataclass(frozen=True)
class Done:
    """It worked; `result` is what Telegram gave back."""

    result: Any = None


@dataclass(frozen=True)
class Limited:
    """Telegram wants peace for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Moved:
    """The group has another id now."""

    chat_id: int


_NO_PHOTO = ("PHOTO_", "IMAGE_PROCESS_FAILED", "too big for a photo")
_IN_VAIN = ("message is not modified", "message to edit not found")


@dataclass(frozen=True)
class Refused:
    """Telegram says no, and will say no again."""

    status: int
    description: str

    @property
    def cannot_parse(self) -> bool:
        return self.status == 400 and "can't parse entities" in self.description

    @property
    def is_no_photo(self) -> bool:
        """A photo has fewer bytes than a document, and sides within limits."""
        return self.status == 413 or (self.status == 400 and any(s in self.description for s in _NO_PHOTO))

    @property
    def is_revoked(self) -> bool:
        """The token is no token any more (an impossible one is 404 for every method)."""
        return self.status == 401 or (self.status == 404 and self.description.strip() == "Not Found")

    @property
    def is_in_vain(self) -> bool:
        """An edit that arrived before, or of a message that somebody deleted: there is nothing to be done."""
        return self.status == 400 and any(said in self.description for said in _IN_VAIN)

    @property
    def is_conflict(self) -> bool:
        return self.status == 409

    @property
    def lacks_method(self) -> bool:
        return self.status == 404 and "method not found" in self.description


@dataclass(frozen=True)
class GivenUp(Refused):
    """Nobody said no, but it would fail for ever, and what waits behind it with it."""


@dataclass(frozen=True)
class Failed:
    """It may work later. `maybe_arrived`: the request had left when it broke."""

    reason: str
    maybe_arrived: bool = False


Answer = Done | Limited | Moved | Refused | Failed


def repaired(part: Part, answer: Answer) -> Part | None:
    """The request that may work instead, or None.

    Unformatted where markup was refused, or as a document what is no photo.
    """
    is_marked = "parse_mode" in part.fields
    if isinstance(answer, Refused) and answer.cannot_parse and is_marked:
        fields = {key: value for key, value in part.fields.items() if key != "parse_mode"}
        text = plain_of(str(fields["text"]), part.fields["parse_mode"])
        return Part(part.method, {**fields, "text": text}, part.file)
    is_no_photo = isinstance(answer, Refused) and answer.is_no_photo
    if is_no_photo and part.file is not None and part.method == _METHODS["photo"]:
        return Part(_METHODS["document"], part.fields, replace(part.file, kind="document"))
    return None


@dataclass
class Patience:
    """How often in a row one request failed. Telegram's silence is waited out; what fails while others of the
    same bot are answered is given up.
    """

    failures: int = 0
    _answered: int = 0

    def with_(self, answer: Answer, answered: int, most: int) -> Answer:
        """The answer, or that it was one failure too many. `answered`: how often the bot was, so far."""
        if not isinstance(answer, Failed):
            self.failures = 0
            return answer
        if not self.failures:
            self._answered = answered
        self.failures += 1
        if self.failures < most or answered == self._answered:
            return answer
        return GivenUp(500, f"It failed {self.failures} times: {answer.reason}")


def obeyed(seconds: float) -> timedelta:
    """The wait that was asked for, exactly; more than 24 hours or nonsense is 24 hours."""
    if not isfinite(seconds) or not 0 <= seconds <= LONGEST_WAIT.total_seconds():
        return LONGEST_WAIT
    return timedelta(seconds=seconds)


def pause(failures: int, jitter: float) -> timedelta:
    """How long to leave something alone that failed so often in a row (1 = for the first time)."""
    doubled = min(2.0 ** min(failures - 1, 32), LONGEST_PAUSE.total_seconds())
    return timedelta(seconds=doubled * (1 - jitter / 2))


_CHATLESS = re.compile(r"^(get|answer|delete|set|unpin|pin)|^sendChatAction$")


def chat_of(method: str, fields: Mapping[str, Any]) -> str | None:
    """The chat whose limits a request counts in; None = only the bot's."""
    chat = fields.get("chat_id")
    return None if chat is None or _CHATLESS.search(method) else str(chat)


def pauses(jitter: Callable[[], float]) -> Iterator[float]:
    """Seconds to wait after the first, second, … failure."""
    failures = 1
    while True:
        yield pause(failures, jitter()).total_seconds()
        failures += 1
