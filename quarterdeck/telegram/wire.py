"""What comes in and what goes out, as values: the same on the bus, over HTTP and between rooms.

Nothing here is derived from a bot's token, and nothing holds one.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

SCHEMA = 1

UPDATE, SEND, REGISTERED = "agent.telegram.update", "agent.telegram.send", "bot.registered"
"""The subjects of the bus."""

ParseMode = Literal["HTML", "MarkdownV2"]


@dataclass(frozen=True)
class Update:
    """Something that happened in a chat. `event_id` is the same at every redelivery.

    `bot_id` is `bot:<number>`. `user_id` is 0 where nobody sent it. `text` is the text or the caption.
    """

    event_id: str
    agent_id: str
    bot_id: str
    update_id: int
    kind: str
    chat_id: int
    user_id: int
    ts: datetime
    text: str | None = None
    message_id: int | None = None
    message_thread_id: int | None = None
    mode: str | None = None
    team_id: str | None = None
    channel_id: str | None = None
    schema: int = SCHEMA
    raw_update: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Button:
    """One button below a message: `data` comes back when it is pressed (1 to 64 bytes), or it opens `url`."""

    text: str
    data: str = ""
    url: str = ""


@dataclass(frozen=True)
class File:
    """A file to be sent: where it lies on this host, as what, and under which name."""

    path: str
    kind: Literal["document", "photo", "audio", "video", "voice"] = "document"
    name: str = ""
    mime_type: str = ""


@dataclass(frozen=True)
class Send:
    """Something an agent says. The same `idempotency_key` says it once; without one, every call does.

    With `edits` the text and buttons stand in place of those of that message from now on. `is_followed`:
    whoever says it asks what became of it, and tells people.
    """

    agent_id: str
    chat_id: int | str
    text: str = ""
    reply_to_message_id: int | None = None
    message_thread_id: int | None = None
    parse_mode: ParseMode | None = None
    disable_notification: bool = False
    link_preview: bool = True
    buttons: tuple[tuple[Button, ...], ...] = ()
    attachments: tuple[File, ...] = ()
    edits: int | None = None
    is_followed: bool = False
    idempotency_key: str = ""


class SendState(StrEnum):
    """Where a message stands; all but the first are final."""

    QUEUED = "queued"
    SENT = "sent"
    MAYBE_SENT = "maybe_sent"  # sent; an attempt before broke after its request had left: maybe there twice
    REFUSED = "refused"


@dataclass(frozen=True)
class Receipt:
    """What became of a message: one id per part that it was split into; `reason` where it was refused."""

    id: str
    state: SendState
    message_ids: tuple[int, ...] = ()
    reason: str = ""


Begins = Callable[[str, str], Awaitable[None]]
"""Who is told that a bot begins to be served: its agent, and `bot:<number>`."""

Consumer = Callable[[Update], Awaitable[None]]
"""Who is told of updates, in order within a chat. An update is told again until this returned; one that
fails twenty times is left out, which the journal tells."""


def event_of(update: Update) -> dict[str, Any]:
    """An update as it is published: JSON."""
    return {**vars(update), "ts": update.ts.isoformat()}


def document_of(send: Send) -> dict[str, Any]:
    """A message as it is stored: JSON, without what is the default."""
    return {key: value for key, value in asdict(send).items() if value}


def send_of(document: Mapping[str, Any]) -> Send:
    """A message from what `document_of` made."""
    rows = document.get("buttons", ())
    return Send(
        **{
            **document,
            "link_preview": document.get("link_preview", False),
            "buttons": tuple(tuple(Button(**button) for button in row) for row in rows),
            "attachments": tuple(File(**file) for file in document.get("attachments", ())),
        }
    )
