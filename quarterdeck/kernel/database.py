"""The unit of work: one command is one transaction of state, events and outbox rows.

    async with database.command("approve") as unit:      # commits at the end, or nothing happened
        unit.session.add(...)
        unit.record("approval_decided", item=item.key, by="anna")
        unit.wake("items", item.id)                      # a NOTIFY, sent by the commit itself

Nobody calls `commit()`. PostgreSQL 14 or newer; times are UTC.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Text, cast, func
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel import crash
from quarterdeck.kernel.clock import Clock, SystemClock
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.kernel.journal import Event
from quarterdeck.kernel.postgres import network, options

CHANNEL = "quarterdeck"
"""The one LISTEN/NOTIFY channel; payloads are `topic:id`, never content."""

_TURNS = 7_140_040
"""The first key of the advisory locks under which events are told: one an item."""

Reaction = Callable[["Unit", Event], Awaitable[None]]
"""What a room adds to somebody else's command when an event is recorded, for example outbox rows."""


class Unit:
    """One command under way: its session, its time and what it has to tell."""

    def __init__(self, session: AsyncSession, now: datetime) -> None:
        self.session = session
        self.now = now
        self.events: list[Event] = []
        self.circumstances: dict[str, Any] = {}
        """Data that every event of this command carries, for example the Prefect run it happened in."""
        self._wakes: dict[str, None] = {}

    def record(self, kind: str, *, item: str | None = None, run: int | None = None, **data: Any) -> Event:
        """Append a fact to the journal. `data` must be JSON and free of secrets."""
        event = Event(kind=kind, at=self.now, item_key=item, run_id=run, data=self.circumstances | data)
        self.events.append(event)
        return event

    def wake(self, topic: str, identity: object = "") -> None:
        """Tell the listeners of `topic` after the commit; the row holds the content."""
        self._wakes[f"{topic}:{identity}"] = None

    async def seal(self, reactions: Sequence[Reaction]) -> None:
        """Write the events, let the rooms react to them, and queue the notifications."""
        await self._take_turns()
        for event in self.events:
            self.session.add(event)
            await self.session.flush()  # one by one: ids must follow the order of recording
            for react in reactions:
                await react(self, event)
        if self._wakes:
            payloads = func.unnest(cast(list(self._wakes), ARRAY(Text))).column_valued("payload")
            await self.session.exec(select(func.pg_notify(CHANNEL, payloads)))

    async def _take_turns(self) -> None:
        """From here to the commit nobody else tells of these items: whoever follows one reads by number.

        A lower number that is committed after a higher one would be passed over. Many commands hold their
        item's row anyway, and wait for nothing here.
        """
        keys = sorted({event.item_key for event in self.events if event.item_key})
        if keys:
            await self.session.flush()  # rows before turns, as in all other commands
        for key in keys:
            await self.session.exec(select(func.pg_advisory_xact_lock(_TURNS, func.hashtext(key))))


class Database:
    """The pool of connections, and the only way to begin a command.

    At most `connections` are open; a command waits up to `patience` seconds for one of them.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        reactions: Sequence[Reaction] = (),
        connections: int = 20,
        patience: float = 30,
    ) -> None:
        self.url = url
        self.clock = clock or SystemClock()
        self.reactions = list(reactions)
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=min(5, connections),
            max_overflow=max(0, connections - 5),
            pool_timeout=patience,
            pool_pre_ping=True,
            connect_args={**network(url), "options": options(url, "-c timezone=utc")},
        )

    @asynccontextmanager
    async def command(self, name: str) -> AsyncIterator[Unit]:
        """One transaction. `name` says what is done, in words: it is also the name of its crash points.

        Raises `Unavailable` when the database cannot be reached; nothing has happened then, unless the
        connection broke during the commit itself: then the command may have happened, and its caller
        finds out by reading.
        """
        async with self._session() as session:
            unit = Unit(session, self.clock.now())
            yield unit
            await unit.seal(self.reactions)
            crash.point(f"before {name}")
            await session.commit()
            crash.point(f"after {name}")

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for looking; whatever it changes is thrown away."""
        async with self._session() as session:
            yield session

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncSession]:
        try:
            async with AsyncSession(self.engine, expire_on_commit=False) as session:
                yield session
        except (OperationalError, InterfaceError) as error:
            raise _unavailable(error) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise _unavailable(error) from error
            raise
        except NoConnectionFree as error:
            raise Unavailable(
                "All connections to the database are in use.",
                "It is tried again by itself; if it goes on, something holds a command open for too long.",
                code="database_busy",
            ) from error

    async def close(self) -> None:
        """Give all connections back."""
        await self.engine.dispose()


def _unavailable(error: DBAPIError) -> Unavailable:
    """The server is gone, or it had to give this command up (deadlock, full disk, shutting down)."""
    said = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    return Unavailable(
        f"The database does not answer or gave up: {said[0]}.",
        "Nothing is lost; it is tried again by itself. `quarterdeck doctor` looks for the cause.",
        code="database_unavailable",
    )
