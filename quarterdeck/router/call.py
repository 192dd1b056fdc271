"""What the ledger is told of one attempt, and where on the way it is told."""

from dataclasses import dataclass
from typing import Protocol

from quarterdeck.router.backend import Pool, Usage
from quarterdeck.router.exchange import Outcome

NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and whom it is booked to. `client_id` is '' for the proxy token and for nobody."""

    client_id: str = ""
    agent: str = ""
    item: str = ""


@dataclass(slots=True)  # frozen ones take five times as long to make
class Call:
    """One attempt. `at` is when it began (epoch seconds), `id` names it for ever: booking it twice is once.

    `is_answer`: this attempt is the one whose answer (or final failure) the client got, so that counting
    these counts client requests. `status` is the provider's, 0 where there was none. Money: pico-dollars.
    """

    id: str
    at: float
    request: str
    attempt: int
    is_answer: bool
    backend_id: str
    pool: Pool
    is_emergency: bool
    model: str
    caller: Caller
    outcome: Outcome
    status: int
    is_stream: bool
    usage: Usage
    cost: int
    latency_ms: int
    ttft_ms: int | None = None


class Book(Protocol):
    """Takes calls in without waiting, and writes them later."""

    def record(self, call: Call) -> None: ...
