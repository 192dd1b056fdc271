"""The port of all channels: what the relay hands out, and what can become of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from sqlmodel.ext.asyncio.session import AsyncSession


@dataclass(frozen=True)
class Outgoing:
    """A message on its way: HTML as `markup` knows it."""

    chat: str
    text: str
    silent: bool = False


@dataclass(frozen=True)
class Sent:
    """It arrived; `external_id` is the far side's name for it."""

    external_id: str = ""


@dataclass(frozen=True)
class Limited:
    """Not taken: the far side wants peace for `retry_after` seconds."""

    retry_after: float


@dataclass(frozen=True)
class Failed:
    """It may work later. `maybe_sent`: the request had left when it broke, so it may have arrived."""

    reason: str
    maybe_sent: bool = False


@dataclass(frozen=True)
class Refused:
    """It can never be delivered as it is."""

    reason: str


Outcome = Sent | Limited | Failed | Refused


@dataclass(frozen=True)
class Window:
    """At most `count` messages in any span of this length."""

    count: int
    span: timedelta


class Channel(Protocol):
    """A way to reach people. `send` never raises, and ends within ten seconds."""

    @property
    def name(self) -> str: ...

    @property
    def sender_limits(self) -> tuple[Window, ...]:
        """What all chats together may be sent; none = the channel has no limits and answers at once."""
        ...

    def chat_limits(self, chat: str) -> tuple[Window, ...]:
        """What one chat may be sent."""
        ...

    async def home_chat(self, session: AsyncSession | None = None) -> str | None:
        """The chat used when a subscription names none; None = the channel is not configured.

        Inside a command give its `session`.
        """
        ...

    async def send(self, message: Outgoing) -> Outcome: ...

    async def close(self) -> None:
        """Give connections back."""
        ...


class Connections(Protocol):
    """Where a channel's address and secrets come from; read anew for every use."""

    async def get(
        self, kind: str, name: str = "default", *, session: AsyncSession | None = None
    ) -> Mapping[str, Any] | None: ...
