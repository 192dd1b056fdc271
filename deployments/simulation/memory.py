"""The rows of heartbeats in memory: the same answers as `store.py`, a hundred times as fast.

A command here has no point at which another one could come in between, so all commands are one after the
other, as row locks make them in PostgreSQL. What was read stays as it was read; a command's changes are seen
by nobody until it commits, and never if it does not. A command may be told to die before or after its commit.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from sqlalchemy.orm.attributes import manager_of_class
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.heartbeat import store
from quarterdeck.heartbeat.model import Pulse, Result, Sweep, Work
from quarterdeck.heartbeat.rules import Spent
from quarterdeck.heartbeat.sources.model import Sighting, Turn
from quarterdeck.kernel.clock import Clock
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.journal import Event

KEYS: Mapping[type[SQLModel], tuple[str, ...]] = {
    Pulse: ("agent",),
    Work: ("source", "ref"),
    Sweep: ("id",),
    AgentRun: ("id",),
    Sighting: ("place",),
    Turn: ("door",),
    Event: ("id",),
}


class Died(BaseException):
    """The process is gone; nothing that it would have done afterwards happens."""


@dataclass
class Doom:
    """A process that dies at its so manieth point before or after a commit, and stays dead."""

    points: int

    def comes(self) -> None:
        self.points -= 1
        if self.points <= 0:
            raise Died


DOOM: ContextVar[Doom | None] = ContextVar("doom", default=None)


@dataclass
class Tables:
    """All rows that are committed; rows in here are never changed, only replaced."""

    rows: dict[type[SQLModel], dict[Any, Any]] = field(default_factory=lambda: defaultdict(dict))
    work_by_agent: dict[str, dict[Any, Work]] = field(default_factory=lambda: defaultdict(dict))
    owing: dict[Any, Work] = field(default_factory=dict)
    running: dict[Any, Work] = field(default_factory=dict)
    open_runs: dict[str, dict[int, AgentRun]] = field(default_factory=lambda: defaultdict(dict))
    runs_of: dict[str, dict[int, AgentRun]] = field(default_factory=lambda: defaultdict(dict))
    numbers: dict[type[SQLModel], int] = field(default_factory=lambda: defaultdict(int))
    payers: set[str] = field(default_factory=set)

    def number(self, kind: type[SQLModel]) -> int:
        self.numbers[kind] += 1
        return self.numbers[kind]

    def put(self, key: Any, row: SQLModel) -> None:
        self.rows[type(row)][key] = row
        if isinstance(row, Work):
            self.work_by_agent[row.agent][key] = row
            _keep(self.owing, key, row, bool(row.owed))
            _keep(self.running, key, row, row.run_id is not None)
        if isinstance(row, AgentRun):
            _keep(self.open_runs[row.agent], key, row, row.state is not RunState.ENDED)
            self.runs_of[row.agent][key] = self.runs_of[row.item_key][key] = row


def _keep(index: dict[Any, Any], key: Any, row: Any, is_in: bool) -> None:
    if is_in:
        index[key] = row
    else:
        index.pop(key, None)


class MemorySession:
    """What commands and looks see. Only a commit changes the tables."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.pays_for: set[str] = set()
        self._mine: dict[tuple[type[SQLModel], Any], Any] = {}
        self._before: dict[tuple[type[SQLModel], Any], Any] = {}

    def add(self, row: SQLModel) -> None:
        if "id" in type(row).model_fields and getattr(row, "id", None) is None:
            row.id = self.tables.number(type(row))
        self._mine[(type(row), _key(row))] = row

    def mine(self, kind: type[SQLModel], key: Any) -> Any:
        """A row that this command may change; `None` = there is none."""
        found = self._mine.get((kind, key))
        if found is None and (kept := self.tables.rows[kind].get(key)) is not None:
            found = self._mine[(kind, key)] = _copy(kept)
            self._before[(kind, key)] = kept
        return found

    async def flush(self) -> None: ...

    async def exec(self, _: object) -> None:
        """Only notifications are sent this way: nobody listens here."""

    async def commit(self) -> None:
        for (kind, key), row in self._mine.items():
            before = self._before.get((kind, key))
            if self.tables.rows[kind].get(key) is not before:
                raise RuntimeError(f"{kind.__name__} {key} was changed by two commands at once.")
            if before is None or _values(row) != _values(before):
                self.tables.put(key, row)

    def close(self) -> None:
        self.tables.payers -= self.pays_for


def _key(row: SQLModel) -> Any:
    names = KEYS[type(row)]
    values = tuple(getattr(row, name) for name in names)
    return values if len(values) > 1 else values[0]


def _values(row: SQLModel) -> dict[str, Any]:
    return {name: value for name, value in row.__dict__.items() if name != "_sa_instance_state"}


def _copy(row: SQLModel) -> Any:
    """As a row comes from a database: by its manager, without the checks of a constructor."""
    made = manager_of_class(type(row)).new_instance()
    made.__dict__.update(_values(row))
    return made


class MemoryDatabase(Database):
    """The unit of work over those rows. Whoever is doomed dies before or after one of its commits."""

    def __init__(self, clock: Clock) -> None:
        self.url, self.clock, self.reactions = "memory", clock, []
        self.tables = Tables()

    @asynccontextmanager
    async def command(self, name: str) -> AsyncIterator[Unit]:
        doom = DOOM.get()
        async with super().command(name) as unit:
            yield unit
            if doom:
                doom.comes()
        if doom:
            doom.comes()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncSession]:
        session = MemorySession(self.tables)
        try:
            yield cast(AsyncSession, session)
        finally:
            session.close()

    async def close(self) -> None: ...


def memory(session: AsyncSession) -> MemorySession:
    """The session as it really is."""
    return cast(MemorySession, session)


class MemoryRecords:
    """`quarterdeck.heartbeat.store` and `sources.store`, over rows in memory."""

    async def locked_pulse(self, session: AsyncSession, agent: str, now: datetime) -> Pulse:
        found = memory(session).mine(Pulse, agent)
        if found is None:
            found = Pulse(agent=agent, since=now)
            memory(session).add(found)
        return cast(Pulse, found)

    async def pulse(self, session: AsyncSession, agent: str) -> Pulse | None:
        return memory(session).tables.rows[Pulse].get(agent)

    async def pulses(self, session: AsyncSession) -> dict[str, Pulse]:
        return dict(memory(session).tables.rows[Pulse])

    async def work_of(self, session: AsyncSession, agent: str, now: datetime) -> list[Work]:
        rows = memory(session).tables.work_by_agent[agent].values()
        known = now - store.REMEMBERED
        kept = (row for row in rows if row.finished_at is None or row.updated_at > known)
        return sorted(kept, key=lambda row: (row.source, row.ref))

    async def work(self, session: AsyncSession, source: str, ref: str) -> Work | None:
        return cast(Work | None, memory(session).mine(Work, (source, ref)))

    async def work_known(self, session: AsyncSession, agent: str) -> list[Work]:
        return list(memory(session).tables.work_by_agent[agent].values())

    async def waiting(self, session: AsyncSession) -> list[Work]:
        rows: Collection[Work] = memory(session).tables.rows[Work].values()
        held = (row for row in rows if row.told.get("approval") and not row.is_allowed)
        return sorted((row for row in held if row.finished_at is None), key=lambda row: row.updated_at)

    async def broken(self, session: AsyncSession) -> list[Work]:
        rows: Collection[Work] = memory(session).tables.rows[Work].values()
        held = [row for row in rows if row.breaker]
        return sorted(held, key=lambda row: (row.broken_at is None, row.broken_at))

    async def owing(self, session: AsyncSession, agent: str | None = None) -> list[Work]:
        rows = (row for row in memory(session).tables.owing.values() if agent in (None, row.agent))
        return sorted(rows, key=lambda row: (row.updated_at, row.source, row.ref))

    async def pays_alone(self, session: AsyncSession, agent: str) -> bool:
        here = memory(session)
        if agent in here.tables.payers:
            return False
        here.tables.payers.add(agent)
        here.pays_for.add(agent)
        return True

    async def ended(self, session: AsyncSession, agent: str | None = None) -> list[tuple[Work, AgentRun]]:
        tables = memory(session).tables
        rows = [row for row in tables.running.values() if agent in (None, row.agent)]
        pairs = [(row, tables.rows[AgentRun][row.run_id]) for row in rows]
        return [(row, run) for row, run in pairs if run.state is RunState.ENDED]

    async def begun_anew(self, session: AsyncSession, run_id: int | None) -> int | None:
        return None  # nobody closes everything here

    async def items_at_work(self, session: AsyncSession, agent: str) -> set[str]:
        return {run.item_key for run in memory(session).tables.open_runs[agent].values()}

    async def timed_out(self, session: AsyncSession, refs: Collection[tuple[str, str]]) -> frozenset[str]:
        rows = (memory(session).tables.rows[Work].get(ref) for ref in refs)
        stuck = (row for row in rows if row and row.suspected_since is not None and row.timeouts > 0)
        return frozenset(f"{row.source}:{row.ref}" for row in stuck)

    async def sweep(self, session: AsyncSession, sweep_id: int) -> Sweep | None:
        return cast(Sweep | None, memory(session).mine(Sweep, sweep_id))

    async def newest_sweeps(self, session: AsyncSession, agents: Sequence[str]) -> dict[str, Sweep]:
        rows: Collection[Sweep] = memory(session).tables.rows[Sweep].values()
        return {row.agent: row for row in rows if row.result is not Result.RUNNING and row.agent in agents}

    async def spent(
        self, session: AsyncSession, *, agent: str = "", item: str = "", since: datetime | None = None
    ) -> Spent:
        runs = memory(session).tables.runs_of[agent or item].values()
        counted = [run for run in runs if since is None or run.created_at >= since]
        tokens = sum(run.tokens or 0 for run in counted)
        micro = sum(run.cost_micro_usd or 0 for run in counted)
        return Spent(rounds=len(counted), tokens=tokens, usd=Decimal(micro) / 10**6)

    # What is shared by those who look into sources

    async def locked_turn(self, session: AsyncSession, door: str, now: datetime) -> Turn:
        found = memory(session).mine(Turn, door)
        if found is None:
            found = Turn(door=door, next_at=now)
            memory(session).add(found)
        return cast(Turn, found)

    async def locked_sighting(self, session: AsyncSession, place: str) -> Sighting:
        found = memory(session).mine(Sighting, place)
        if found is None:
            found = Sighting(place=place)
            memory(session).add(found)
        return cast(Sighting, found)

    async def sighting(self, session: AsyncSession, place: str) -> Sighting | None:
        return memory(session).tables.rows[Sighting].get(place)
