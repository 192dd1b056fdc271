"""The bus: wake-ups between processes. Rows hold the payload, a wake-up only says "topic:id".

Losing one costs a poll interval and nothing else, so every listener polls as well. The embedded bus is
PostgreSQL's LISTEN/NOTIFY; a wake-up sent with `Unit.wake` leaves with the commit, never before it.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import psycopg
import structlog
from psycopg import sql

from quarterdeck.kernel.database import CHANNEL
from quarterdeck.kernel.postgres import libpq, network

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Wake:
    """Something of `topic` changed; `identity` names the row, empty = look yourself."""

    topic: str
    identity: str = ""


class Bus(Protocol):
    """Where wake-ups come from."""

    def listen(self, *topics: str) -> AsyncIterator[Wake]:
        """Wake-ups of these topics, for ever. The first is always an empty one: look at once."""
        ...


class PostgresBus:
    """LISTEN/NOTIFY on one connection of its own; reconnects by itself with a growing pause (<= 5 s)."""

    def __init__(self, url: str) -> None:
        self._conninfo = libpq(url, **network(url))

    async def listen(self, *topics: str) -> AsyncIterator[Wake]:
        pause = 0.1
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True
                ) as connection:
                    await connection.execute(sql.SQL("listen {}").format(sql.Identifier(CHANNEL)))
                    pause = 0.1
                    for topic in topics:  # whatever was missed while nobody listened
                        yield Wake(topic)
                    async for notice in connection.notifies():
                        topic, _, identity = notice.payload.partition(":")
                        if topic in topics:
                            yield Wake(topic, identity)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                log.warning("bus_reconnects", reason=str(error).strip(), pause=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
