"""The edge of the core: whatever a handler raises becomes words for the user, and a line in the log."""

import structlog

from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.surfaces.dispatcher import EventDispatcher, key_of
from quarterdeck.surfaces.platform import PlatformError
from quarterdeck.surfaces.protocol import IncomingCommand, IncomingEvent, OutgoingEvent, OutgoingMessage
from quarterdeck.surfaces.texts import say

log = structlog.get_logger(__name__)


async def answered(dispatcher: EventDispatcher, event: IncomingEvent) -> list[OutgoingEvent]:
    """What an event leads to. Raises nothing but a cancellation: one failure harms nobody else."""
    if isinstance(event, IncomingCommand) and not dispatcher.knows(event):
        return [_said(event, "unknown_command", command=event.command[:50])]
    try:
        return await dispatcher.dispatch(event)
    except PlatformError as error:
        log.warning("platform_failed", code=error.code, reason=str(error), **_about(event))
        return [unavailable(event, error)]
    except QuarterdeckError as error:
        log.info("event_refused", code=error.code, reason=error.detail, **_about(event))
        return [OutgoingMessage(event.chat_id, str(error))]
    except ValueError as error:
        log.info("event_not_possible", reason=str(error), **_about(event))
        return [_said(event, "chat_unknown")]
    except Exception:
        log.exception("event_failed", **_about(event))
        return [_said(event, "failed")]


def unavailable(event: IncomingEvent, error: PlatformError) -> OutgoingMessage:
    """What the user is told of an agent that failed."""
    return _said(event, "unavailable_why", code=error.code)


def _said(event: IncomingEvent, entry: str, **facts: object) -> OutgoingMessage:
    return OutgoingMessage(event.chat_id, say(event.language, entry, platform=event.platform, **facts))


def _about(event: IncomingEvent) -> dict[str, str]:
    return {"platform": event.platform, "user": event.user_id, "chat": event.chat_id, "key": key_of(event)}
