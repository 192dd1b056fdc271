"""What passes between a messenger and the core, and between the core and an agent: values, no messenger.

Three identities are never mixed up. The *local chat id* (`C1`) is what the core and its handlers use, and
means something only together with the user. The *surface ref* is where the chat is in its messenger: only
the adapter reads it. The *platform chat id* is the conversation at the agent: only the routing knows it.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

Form = Literal["plain", "markdown", "html"]
"""How a text is written: `markdown` is what models write, `html` our own safe subset."""


@dataclass(frozen=True)
class Attachment:
    """A file. `url` is where the messenger has it, `workspace_path` where the agent's workspace has it.

    `type` is `document`, `image`, `audio` (also voice) or `video`; `size` is in bytes.
    """

    type: str = "document"
    filename: str | None = None
    mime_type: str | None = None
    url: str | None = None
    workspace_path: str | None = None
    size: int | None = None

    def stored(self, workspace_path: str) -> "Attachment":
        """The same file, now in the workspace."""
        return replace(self, workspace_path=workspace_path)


@dataclass(frozen=True)
class _Incoming:
    user_id: str
    platform: str
    chat_id: str
    language: str = field(default="", kw_only=True)
    """In which language the user is answered; empty = the desk's own."""
    event_id: str = field(default="", kw_only=True)
    """How the messenger names this event whenever it tells of it; empty = it has no name."""
    said_at: datetime | None = field(default=None, kw_only=True)
    """When it was said, by the messenger's clock; None = it does not tell."""


@dataclass(frozen=True)
class IncomingMessage(_Incoming):
    """Words, files, or both."""

    text: str = ""
    attachments: list[Attachment] = field(default_factory=list)
    reply_to: str | None = None


@dataclass(frozen=True)
class IncomingCommand(_Incoming):
    """A command, without the messenger's prefix."""

    command: str = ""
    args: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class IncomingCallback(_Incoming):
    """A button, or what a messenger without buttons has in its place."""

    action: str = ""
    payload: dict[str, Any] = field(default_factory=dict)


IncomingEvent = IncomingMessage | IncomingCommand | IncomingCallback


@dataclass(frozen=True)
class UIButton:
    """A button: pressed, it comes back as an `IncomingCallback` of this action; or it opens a URL.

    The payload's values are texts: a messenger must carry them in a few bytes.
    """

    text: str
    action: str = ""
    payload: dict[str, str] = field(default_factory=dict)
    url: str = ""


@dataclass(frozen=True)
class OutgoingMessage:
    """Something to say. `replaces`: in place of the message whose button was pressed, if that can be."""

    chat_id: str
    text: str
    attachments: list[Attachment] = field(default_factory=list)
    form: Form = "plain"
    replaces: bool = False


@dataclass(frozen=True)
class OutgoingUI:
    """Something to say with buttons, in rows."""

    chat_id: str
    text: str
    buttons: list[list[UIButton]] = field(default_factory=list)
    form: Form = "plain"
    replaces: bool = False


class Level(StrEnum):
    """How much a notice matters."""

    INFO = "info"
    ERROR = "error"


@dataclass(frozen=True)
class OutgoingNotification:
    """A notice that answers nothing, for example that a long task has ended."""

    chat_id: str
    text: str
    level: Level = Level.INFO
    task_id: str | None = None


@dataclass(frozen=True)
class OutgoingTyping:
    """The agent is at work, or no longer."""

    chat_id: str
    is_typing: bool


OutgoingEvent = OutgoingMessage | OutgoingUI | OutgoingNotification | OutgoingTyping


@dataclass(frozen=True)
class ChatContext:
    """One chat of one user: `chat_id` is its local id, `surface_ref` its place in the messenger."""

    chat_id: str
    user_id: str
    platform: str
    surface_ref: str
    display_name: str
    is_archived: bool = False


class AuthState(StrEnum):
    """How far a user has come."""

    PENDING = "pending"
    CONFIRMED = "confirmed"


@dataclass(frozen=True)
class AuthFlow:
    """A user on the way in; `platform_user_id` is there once confirmed."""

    user_id: str
    platform: str
    state: AuthState = AuthState.PENDING
    platform_user_id: str | None = None


@dataclass(frozen=True)
class SettingsAction:
    """One change of a user's settings, for example `toggle_skill` of `{"skill": "browser", ...}`."""

    action: str
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfirmationRequest:
    """Something that an agent may do only when the user agrees."""

    action_id: str
    text: str


@dataclass(frozen=True)
class PaymentRequired:
    """Declared for messengers that can be paid in; nothing sends it yet."""

    chat_id: str
    reason: str
