"""`new`, `chats`, `rename`, `archive`, as far as they concern no messenger."""

from quarterdeck.surfaces.auth import AuthManager
from quarterdeck.surfaces.chat import ChatManager
from quarterdeck.surfaces.platform import PlatformClient
from quarterdeck.surfaces.protocol import IncomingCommand, OutgoingEvent, OutgoingMessage
from quarterdeck.surfaces.settings import SettingsManager
from quarterdeck.surfaces.texts import say

LONGEST_NAME = 100


async def handle_new(
    event: IncomingCommand,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """Another chat in the same place; surfaces that have places of their own do better."""
    number, chat_id = await chat_mgr.next_id(event.user_id, event.platform)
    name = chat_name(event.args) or say(event.language, "chat_name", n=number)
    chat = await chat_mgr.get_or_create(event.user_id, chat_id, event.platform, "", name)
    text = say(event.language, "new_chat", name=chat.display_name, chat=chat.chat_id)
    return [OutgoingMessage(event.chat_id, text)]


async def handle_chats(
    event: IncomingCommand,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """The user's chats that are not archived."""
    chats = await chat_mgr.list_active(event.user_id)
    if not chats:
        return [OutgoingMessage(event.chat_id, say(event.language, "no_chats", platform=event.platform))]
    lines = [say(event.language, "chats_line", name=chat.display_name, chat=chat.chat_id) for chat in chats]
    return [OutgoingMessage(event.chat_id, "\n".join([say(event.language, "chats"), *lines]))]


async def handle_rename(
    event: IncomingCommand,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """Give the chat another name."""
    name = chat_name(event.args)
    if not name:
        return [OutgoingMessage(event.chat_id, say(event.language, "rename_usage", platform=event.platform))]
    try:
        chat = await chat_mgr.rename(event.chat_id, event.user_id, name)
    except ValueError:
        return [unknown_chat(event)]
    return [OutgoingMessage(event.chat_id, say(event.language, "renamed", name=chat.display_name))]


async def handle_archive(
    event: IncomingCommand,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """Put the chat away."""
    try:
        chat = await chat_mgr.archive(event.chat_id, event.user_id)
    except ValueError:
        return [unknown_chat(event)]
    return [OutgoingMessage(event.chat_id, say(event.language, "archived", name=chat.display_name))]


def chat_name(words: list[str]) -> str:
    """A name as it was typed, of a length that every messenger takes."""
    return " ".join(words)[:LONGEST_NAME].strip()


def unknown_chat(event: IncomingCommand, new: str = "new") -> OutgoingMessage:
    """`new` is the command that begins another chat."""
    text = say(event.language, "chat_unknown", platform=event.platform, new=new)
    return OutgoingMessage(event.chat_id, text)
