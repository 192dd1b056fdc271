"""What people say goes to the agent, and its answer comes back."""

from quarterdeck.surfaces.auth import AuthManager
from quarterdeck.surfaces.chat import ChatManager
from quarterdeck.surfaces.platform import PlatformClient
from quarterdeck.surfaces.protocol import IncomingMessage, OutgoingEvent, OutgoingMessage, OutgoingTyping
from quarterdeck.surfaces.settings import SettingsManager
from quarterdeck.surfaces.texts import say


async def handle_message(
    event: IncomingMessage,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """One turn; who has not come in yet is told how to. Raises `PlatformError`."""
    if not await auth_mgr.is_authenticated(event.user_id):
        return [OutgoingMessage(event.chat_id, say(event.language, "please_start", platform=event.platform))]
    text = event.text or say(event.language, "file_only")
    answer = await platform.send_message(event.user_id, event.chat_id, text, event.attachments)
    said = answer.response.strip() or ("" if answer.attachments else say(event.language, "empty_answer"))
    return [
        OutgoingTyping(event.chat_id, False),
        OutgoingMessage(event.chat_id, said, answer.attachments, form="markdown"),
    ]
