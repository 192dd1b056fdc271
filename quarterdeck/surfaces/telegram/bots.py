"""What this surface needs of the bots: a door to the Bot API, and the queue of what is said."""

from pathlib import Path
from typing import Any, Protocol

from quarterdeck.kernel.database import Unit
from quarterdeck.telegram.wire import Receipt, Send


class BotDoor(Protocol):
    """`quarterdeck.telegram`'s gateway: for what is not queued, because it is worthless later."""

    async def call(self, agent_id: str, method: str, **fields: Any) -> Any:
        """The result of a method. Raises `Conflict` (refused) and `Unavailable` (with `retry_after`)."""
        ...

    async def download(self, agent_id: str, file_id: str, folder: Path, limit: int, told: int = 0) -> Path:
        """Fetch a file, of `told` bytes where that is known.

        Raises `Invalid` (too large), `Conflict`, `Unavailable`, `NotFound` (the bot is not served here).
        """
        ...


class SendQueue(Protocol):
    """What is said for good: in order within a chat, once for each key."""

    async def put(self, send: Send, unit: Unit | None = None) -> Receipt: ...

    async def earlier(self, agent_id: str, idempotency_key: str) -> Receipt | None: ...

    async def wait(self, id: str, seconds: float) -> Receipt: ...
