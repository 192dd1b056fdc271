"""What an agent asked consent for, and what the user said."""

from quarterdeck.surfaces.auth import AuthManager
from quarterdeck.surfaces.chat import ChatManager
from quarterdeck.surfaces.platform import PlatformClient
from quarterdeck.surfaces.protocol import (
    ConfirmationRequest,
    IncomingCallback,
    OutgoingEvent,
    OutgoingMessage,
    OutgoingUI,
    UIButton,
)
from quarterdeck.surfaces.settings import SettingsManager
from quarterdeck.surfaces.texts import say


async def handle_confirm(
    event: IncomingCallback,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """The user agrees."""
    return [_answer(event, "confirmed")]


async def handle_cancel(
    event: IncomingCallback,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """The user does not."""
    return [_answer(event, "cancelled")]


def _answer(event: IncomingCallback, entry: str) -> OutgoingMessage:
    if not event.payload.get("action_id"):
        return OutgoingMessage(event.chat_id, say(event.language, "nothing_pending"))
    return OutgoingMessage(event.chat_id, say(event.language, entry), replaces=True)


def asked(request: ConfirmationRequest, chat_id: str, language: str) -> OutgoingUI:
    """The question with its two buttons."""
    payload = {"action_id": request.action_id}
    yes = UIButton(say(language, "confirm"), "confirm", payload)
    no = UIButton(say(language, "cancel"), "cancel", payload)
    return OutgoingUI(chat_id, request.text, [[yes, no]])
