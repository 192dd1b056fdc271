"""What the core does by itself. A surface registers its own after these, in their place or besides."""

from quarterdeck.surfaces.dispatcher import ANY, EventDispatcher
from quarterdeck.surfaces.handlers import callback, chat, message, settings, start
from quarterdeck.surfaces.protocol import IncomingCallback, IncomingCommand, IncomingMessage


def register_all(dispatcher: EventDispatcher) -> None:
    """The core's handlers. Call it first."""
    commands = {
        "start": start.handle_start,
        "help": start.handle_help,
        "new": chat.handle_new,
        "chats": chat.handle_chats,
        "rename": chat.handle_rename,
        "archive": chat.handle_archive,
        "settings": settings.handle_settings,
    }
    callbacks = {
        "confirm": callback.handle_confirm,
        "cancel": callback.handle_cancel,
        "settings": settings.handle_part,
        "toggle_skill": settings.handle_toggle,
        "toggle_safety": settings.handle_toggle,
        "set_style": settings.handle_toggle,
        "set_language": settings.handle_language,
    }
    for name, on_command in commands.items():
        dispatcher.register(IncomingCommand, name, on_command)
    for action, on_callback in callbacks.items():
        dispatcher.register(IncomingCallback, action, on_callback)
    dispatcher.register(IncomingMessage, ANY, message.handle_message)
