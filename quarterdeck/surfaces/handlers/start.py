"""`start` and `help`."""

from quarterdeck.surfaces.auth import AuthManager
from quarterdeck.surfaces.chat import ChatManager
from quarterdeck.surfaces.platform import PlatformClient
from quarterdeck.surfaces.protocol import IncomingCommand, OutgoingEvent, OutgoingMessage
from quarterdeck.surfaces.settings import SettingsManager
from quarterdeck.surfaces.texts import say


async def handle_start(
    event: IncomingCommand,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """Let the user in, and greet: differently the first time."""
    user = await platform.get_or_create_user(event.user_id, event.platform)
    await auth_mgr.start_flow(event.user_id, event.platform)
    await auth_mgr.confirm(event.user_id, event.platform, user.user_id)
    entry = "welcome" if user.is_new else "welcome_back"
    name = user.display_name or event.user_id
    text = say(event.language, entry, platform=event.platform, name=name, agent="Quarterdeck")
    return [OutgoingMessage(event.chat_id, text)]


async def handle_help(
    event: IncomingCommand,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """All commands in short."""
    return [OutgoingMessage(event.chat_id, say(event.language, "help", platform=event.platform))]
