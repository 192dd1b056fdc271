"""The port of all channels: what the relay hands over, and what can become of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel.database import Unit


@dataclass(frozen=True)
class Choice:
    """A button below a message: its words, and what comes back when it is pressed (64 bytes at most)."""

    text: str
    data: str


@dataclass(frozen=True)
class Outgoing:
    """A message on its way: HTML as `markup` knows it. `key` names it: the same key is sent once.

    `replaces` is the far side's name of an earlier message, in whose place this one is to stand.
    """

    key: str
    chat: str
    text: str
    silent: bool = False
    choices: tuple[Choice, ...] = ()
    replaces: str = ""


@dataclass(frozen=True)
class Taken:
    """The channel's own queue has it, under this name; `outcomes` tells when its fate is known."""

    receipt: str


@dataclass(frozen=True)
class Sent:
    """It arrived; `external_id` is the far side's name for it. `twice`: an attempt before may have, too."""

    external_id: str = ""
    twice: bool = False


@dataclass(frozen=True)
class Refused:
    """It can never be delivered as it is."""

    reason: str


@dataclass(frozen=True)
class Waits:
    """It cannot be taken now; it stays where it is."""

    reason: str


class Channel(Protocol):
    """A way to reach people. Whatever sends in its own time keeps its own order and limits."""

    @property
    def name(self) -> str: ...

    @property
    def has_buttons(self) -> bool:
        """Whether its messages can have buttons, and be rewritten."""
        ...

    async def home_chat(self, session: AsyncSession | None = None) -> str | None:
        """The chat used when a subscription names none; None = the channel is not configured.

        Inside a command give its `session`.
        """
        ...

    async def take(self, unit: Unit, message: Outgoing) -> Taken | Sent | Refused | Waits:
        """Take a message over, as part of the command that records it: both happen or neither."""
        ...

    async def outcomes(self, receipts: Sequence[str]) -> Mapping[str, Sent | Refused | Waits]:
        """What became of messages that were taken; `Waits` says why one is not sent yet."""
        ...

    async def try_out(self, message: Outgoing) -> Sent | Refused | Waits:
        """Send it now, and say how it fared, within twenty seconds."""
        ...


class Connections(Protocol):
    """Where a channel's address and secrets come from; read anew for every use."""

    async def get(
        self, kind: str, name: str = "default", *, session: AsyncSession | None = None
    ) -> Mapping[str, Any] | None: ...
