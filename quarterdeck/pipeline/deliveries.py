"""What is done with deliveries: which handler works on those of which source.

Whoever understands a source adds its handler when the house is put together; what nobody understands is
kept and marked as ignored, and can be replayed once somebody does.
"""

from quarterdeck.kernel.inbox import Handler, Inbox


class Deliveries:
    """The handlers of this house over its inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self._handlers: dict[str, Handler] = {}

    def add(self, source: str, handler: Handler) -> None:
        """Let `handler` work on deliveries of `source` (`plane`, `gitea`, `openclaw`, `generic`)."""
        self._handlers[source] = handler

    async def work_off(self) -> float | None:
        """See `Inbox.work_off`."""
        return await self.inbox.work_off(self._handlers)
