"""One log line for each request of a client, at the price of a list entry: written together, a moment later.

The usual way of logging costs more than all the rest of the router. What stands in a line is made here or
checked at the door, so that it cannot hold a secret: names, numbers, outcomes; never what was said.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import orjson

LOGGER = "quarterdeck.router"
DELAY = 0.2
"""Seconds that a line may wait for others."""

EVENT = "request_completed"
_HEAD = f" [info     ] {EVENT:<30} [{LOGGER}]"


@dataclass(slots=True)
class Entry:
    """A request that is over. `cost` is in pico-dollars; `backend` is '' where none was asked."""

    at: float
    request: str
    model: str
    status: int
    outcome: str
    backend: str
    pool: str
    attempts: int
    is_stream: bool
    tokens: int
    cost: int
    elapsed_ms: int
    client: str
    agent: str
    item: str


class RequestLog:
    """Collects entries while the level of the router's logger lets them pass. `write` takes whole lines."""

    def __init__(self, form: str = "console", write: Callable[[str], object] | None = None) -> None:
        self.form = form
        self._write = write or _to_the_log
        self._logger = logging.getLogger(LOGGER)
        self._waiting: list[Entry] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_on(self) -> bool:
        return self._logger.isEnabledFor(logging.INFO)

    def add(self, entry: Entry) -> None:
        self._waiting.append(entry)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        entries, self._waiting = self._waiting, []
        if entries:
            render = _as_json if self.form == "json" else _as_text
            self._write("".join([render(entry) for entry in entries]))


def _to_the_log(text: str) -> None:
    """Where the other log lines go."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.stream.write(text)
            handler.flush()
            return
    sys.stderr.write(text)


def _fields(entry: Entry) -> dict[str, str | int | bool]:
    fields: dict[str, str | int | bool] = {
        "request": entry.request,
        "backend": entry.backend,
        "pool": entry.pool,
        "model": entry.model,
        "status": entry.status,
        "outcome": entry.outcome,
        "tokens": entry.tokens,
        "cost": f"{entry.cost / 1e12:.9f}",
        "elapsed_ms": entry.elapsed_ms,
        "attempts": entry.attempts,
        "stream": entry.is_stream,
    }
    if entry.client:
        fields["client"] = entry.client
    if entry.agent:
        fields["agent"] = entry.agent
    if entry.item:
        fields["item"] = entry.item
    return fields


def _as_json(entry: Entry) -> str:
    fields = _fields(entry)
    fields["event"], fields["level"], fields["logger"] = EVENT, "info", LOGGER
    fields["timestamp"] = _iso(entry.at)
    return orjson.dumps(fields).decode() + "\n"


def _as_text(entry: Entry) -> str:
    """The same fields. Only what is not made or checked at the door can need quotation marks."""
    client = f" client={entry.client}" if entry.client else ""
    agent = f" agent={_plain(entry.agent)}" if entry.agent else ""
    item = f" item={entry.item}" if entry.item else ""
    return (
        f"{_iso(entry.at)}{_HEAD} request={entry.request} backend={_plain(entry.backend)}"
        f" pool={_plain(entry.pool)} model={_plain(entry.model)} status={entry.status}"
        f" outcome={entry.outcome} tokens={entry.tokens} cost={entry.cost / 1e12:.9f}"
        f" elapsed_ms={entry.elapsed_ms} attempts={entry.attempts} stream={entry.is_stream}"
        f"{client}{agent}{item}\n"
    )


@lru_cache(maxsize=1024)
def _plain(text: str) -> str:
    return text if text.isprintable() and " " not in text and text else repr(text)


def _iso(at: float) -> str:
    return f"{_second(int(at))}.{int(at % 1 * 1000):03}Z"


@lru_cache(maxsize=8)
def _second(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}"
