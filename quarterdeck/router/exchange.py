"""One attempt at one backend: what goes out, what comes back, and how it can fail.

Both ways (`openai_way`, `litellm_way`) offer the same `Way`, so that limits, cooldown, failover, ledger and
errors are decided once, above them.
"""

from collections.abc import AsyncIterator
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from quarterdeck.router.backend import Backend, Mapping, Usage


class Outcome(StrEnum):
    """How an attempt ended. Only `ok` and `refused` are answers for the client as they are."""

    OK = "ok"
    LIMITED = "limited"  # 429
    UNREACHABLE = "unreachable"  # no connection, or it broke before an answer
    TIMED_OUT = "timed_out"
    BROKEN = "broken"  # 5xx, 408, or an answer that is none
    BAD_KEY = "bad_key"  # 401, 403, or a key that does not open
    REFUSED = "refused"  # any other 4xx: the request is wrong, another backend would say the same
    CUT = "cut"  # broke after the first byte had gone to the client
    ABORTED = "aborted"  # the client left


NO_ERROR = frozenset({Outcome.OK, Outcome.ABORTED})
"""What no statistic calls an error. SQL says it once more: `ledger.booking.BOOK`."""


@dataclass(slots=True)  # frozen ones take five times as long to make, and each call makes one
class Attempt:
    """What is sent. `body` is the client's, parsed, and must not be changed; each way makes its own.

    `path` begins with `/v1/`; `headers` are those of the allow-list; `wants_usage`: the client itself asked
    for usage in its stream; `patience`: seconds until the first byte must be there, over all attempts.
    `raw` is the same body as the client sent it, for ways that change no more of it than they must.
    """

    backend: Backend
    mapping: Mapping
    path: str
    query: str
    headers: Map[str, str]
    body: Map[str, Any]
    is_stream: bool
    wants_usage: bool
    patience: float
    raw: bytes = b""


@dataclass(slots=True)
class Answer:
    """A whole answer with the canonical model name in it; `usage` is None where the provider told none.

    `said` is the answer's text then, for counting.
    """

    status: int
    content_type: str
    body: bytes
    usage: Usage | None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    said: str = ""


class Stream(Protocol):
    """An answer that arrives in pieces. `open` has seen the first whole event; nothing is lost.

    `pieces` yields SSE bytes ready for the client, the canonical model name in them, ending with `[DONE]`
    where the dialect has it; it raises `Failure` (`cut`, `timed_out`) when the provider breaks off.
    """

    headers: tuple[tuple[bytes, bytes], ...]
    usage: Usage | None
    """What is known so far; final when `pieces` has ended."""
    first_content_at: float | None
    """Steady seconds of the first chunk with content."""
    is_begun: bool
    """Whether anything of the answer itself has come. Before that another backend's stream may go on."""

    def pieces(self) -> AsyncIterator[bytes]: ...

    def text(self) -> str:
        """What the model said so far, for counting where no usage was told."""
        ...

    async def close(self) -> None:
        """Let go of the connection; safe to call twice."""
        ...


class Way(Protocol):
    """How to reach backends of one kind of dialect."""

    async def send(self, attempt: Attempt) -> "Answer | Stream":
        """Send, and wait for the whole answer or a stream's first event. Raises `Failure`."""
        ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Failure(Exception):
    """An attempt that gave no answer to pass on, or (`refused`) one that is passed on unchanged.

    `status` is the provider's, 0 if there was none; `body` its text, whole where it is passed on (else some
    kB of it), without secrets; `passed_on` are those of its headers that the client may see.
    """

    outcome: Outcome
    reason: str
    status: int = 0
    body: bytes = b""
    content_type: str = "application/json"
    headers: Map[str, str] = field(default_factory=dict)
    is_charged: bool = False
    """An answer had begun: the provider charges for what was asked."""
    usage: Usage | None = None
    """What it told about that, if it did."""
    passed_on: tuple[tuple[bytes, bytes], ...] = ()

    def __str__(self) -> str:
        return self.reason
