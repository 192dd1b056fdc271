"""Who handles which event. Surfaces and the desk's own doors register here; the last one counts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from quarterdeck.surfaces.protocol import (
    IncomingCallback,
    IncomingCommand,
    IncomingEvent,
    IncomingMessage,
    OutgoingEvent,
)

if TYPE_CHECKING:
    from quarterdeck.surfaces.auth import AuthManager
    from quarterdeck.surfaces.chat import ChatManager
    from quarterdeck.surfaces.platform import PlatformClient
    from quarterdeck.surfaces.settings import SettingsManager

log = structlog.get_logger(__name__)

ANY = "*"
"""The key of what has no handler of its own."""

EventType = type[IncomingMessage] | type[IncomingCommand] | type[IncomingCallback]


class Handler(Protocol):
    """What an event leads to. It answers rather than raises where it can; a caller catches the rest."""

    async def __call__(
        self,
        event: Any,
        *,
        chat_mgr: "ChatManager",
        auth_mgr: "AuthManager",
        settings_mgr: "SettingsManager",
        platform: "PlatformClient",
    ) -> Sequence[OutgoingEvent]: ...


class EventDispatcher:
    """Event type and key to handler.

    A command's key is its name, a callback's its action, a message's the type of its first attachment,
    else `*`; what has no handler of its own goes to the one of `*`.
    """

    def __init__(
        self,
        *,
        chat_mgr: "ChatManager",
        auth_mgr: "AuthManager",
        settings_mgr: "SettingsManager",
        platform: "PlatformClient",
    ) -> None:
        self.chat_mgr = chat_mgr
        self.auth_mgr = auth_mgr
        self.settings_mgr = settings_mgr
        self.platform = platform
        self._handlers: dict[EventType, dict[str, Handler]] = {}

    def register(self, event_type: EventType, key: str, handler: Handler) -> None:
        """From now on this handler has these events; the one before it no longer."""
        self._handlers.setdefault(event_type, {})[key] = handler

    def knows(self, event: IncomingEvent) -> bool:
        """Is there somebody for this event?"""
        return self._handler(event) is not None

    async def dispatch(self, event: IncomingEvent) -> list[OutgoingEvent]:
        """What this event leads to; nothing when nobody handles it. Raises what the handler raises."""
        handler = self._handler(event)
        if handler is None:
            log.warning("event_without_handler", event_type=type(event).__name__, key=key_of(event))
            return []
        told = await handler(
            event,
            chat_mgr=self.chat_mgr,
            auth_mgr=self.auth_mgr,
            settings_mgr=self.settings_mgr,
            platform=self.platform,
        )
        return list(told)

    def _handler(self, event: IncomingEvent) -> Handler | None:
        registered = self._handlers.get(type(event), {})
        return registered.get(key_of(event)) or registered.get(ANY)


def key_of(event: IncomingEvent) -> str:
    """By what the handler of an event is found."""
    match event:
        case IncomingCommand(command=command):
            return command
        case IncomingCallback(action=action):
            return action
        case IncomingMessage(attachments=[first, *_]):
            return first.type
        case _:
            return ANY
