"""The crew of the week: a slot, a run, and what becomes of it; also the engine that drives our own board."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from deployments.simulation.jobs import OF_THE_BOARD, Job, Nature, course
from deployments.simulation.memory import MemoryDatabase, memory
from deployments.simulation.outside import Card
from quarterdeck.board.model import State
from quarterdeck.crew import rules
from quarterdeck.crew.model import ASSIGNED, Agent, AgentRun, RunState
from quarterdeck.crew.service import Crew
from quarterdeck.heartbeat.adoption import Opened, Order
from quarterdeck.heartbeat.work import Ref, Status
from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.errors import Conflict


class SimulatedCrew(Crew):
    """Knows the roster's heartbeats, and nothing else."""

    def __init__(self, database: MemoryDatabase, entries: dict[str, Any]) -> None:
        super().__init__(database, {}, Path())
        self._entries = entries

    async def heartbeat_entries(self) -> dict[str, Any]:
        return self._entries


class Workshop:
    """Opens runs within the transaction that decided on them, and executes those that were committed.

    `late` says how long it takes until an opened run is really taken up: a desk may be away. `slots`: how
    many runs of one agent go on at a time.
    """

    def __init__(
        self,
        database: MemoryDatabase,
        jobs: dict[Ref, Job],
        chance: random.Random,
        spawn: Callable[[Any], None],
        late: Callable[[], float],
        slots: int = 1,
    ) -> None:
        self._slots = slots
        self._database = database
        self._jobs = jobs
        self._chance = chance
        self._spawn = spawn
        self._late = late
        self._keys: dict[str, AgentRun] = {}
        self._items = 0
        self.states: dict[str, State] = {}
        self.ended: Callable[[Job], None] = lambda job: None
        self.most_at_once: dict[str, int] = {}

    # What sweeps ask for

    async def start(self, unit: Unit, order: Order) -> Opened:
        tables = memory(unit.session).tables
        if (known := tables.rows[AgentRun].get(getattr(self._keys.get(order.key), "id", None))) is not None:
            return Opened(known.id, known.item_key)
        worker = Agent(
            slug=order.agent,
            name=order.agent,
            max_concurrent=self._slots,
            created_at=unit.now,
            updated_at=unit.now,
        )
        if rules.free_slots(worker, len(tables.open_runs[order.agent])) < 1:
            raise Conflict(f"{order.agent} is busy.", code="busy")
        self._items += order.item is None
        run = AgentRun(
            item_id=UUID(int=self._items),
            item_key=order.item or f"HB-{self._items:03}",
            stage=ASSIGNED,
            round=1,
            agent=order.agent,
            runtime="simulated",
            idempotency_key=order.key,
            limit_seconds=order.limit.total_seconds(),
            created_at=unit.now,
        )
        unit.session.add(run)
        assert run.id is not None
        self._keys[order.key] = run
        self._spawn(self._execute(run.id, self._jobs[order.piece.ref]))
        return Opened(run.id, run.item_key)

    async def cancelled_at(self, unit: Unit, item: str) -> datetime | None:
        return None  # whoever gives work up does so where it stands

    async def settle(self, unit: Unit, item: str, state: State, why: str = "", todo: str = "") -> None:
        self.states[item] = state

    # What happens

    async def _execute(self, run_id: int, job: Job) -> None:
        await asyncio.sleep(0)
        run = self._database.tables.rows[AgentRun].get(run_id)
        if run is None:
            return  # whoever opened it died before the commit
        job.begin(self._database.clock.now(), run.item_key)
        count = len(self._database.tables.open_runs[run.agent])
        self.most_at_once[run.agent] = max(count, self.most_at_once.get(run.agent, 0))
        await asyncio.sleep(self._late())
        began, way = self._database.clock.now(), course(job, self._chance)
        await asyncio.sleep(way.minutes * 60)
        async with self._database.command("end run") as unit:
            ended = memory(unit.session).mine(AgentRun, run_id)
            for name, value in (way.facts | {"tokens": 1000 + self._chance.randrange(500)}).items():
                setattr(ended, name, value)
            job.spent[run.item_key] += ended.tokens
            ended.state, ended.started_at, ended.ended_at = RunState.ENDED, began, unit.now
        outcome = f"done {run_id}" if way.is_done else f"{way.facts}"
        job.end(self._database.clock.now(), outcome, is_done=way.is_done)
        self.ended(job)

    # Our own engine

    def wake(self, card: Card) -> None:
        """A sweep wakes the engine: it goes on where it stood, unless it is stuck for good."""
        job = self._jobs[card.ref]
        if card.status is Status.IN_PROGRESS and job.open_runs == 0:
            if job.nature is Nature.DEAF:
                job.is_cured = True
            if job.nature is not Nature.STUCK or job.is_cured:
                self._spawn(self.drive(job, card))

    async def drive(self, job: Job, card: Card) -> None:
        """The engine takes a card through its stages; a sign of life every few minutes."""
        if job.open_runs or job.completed:
            return
        now = self._database.clock.now
        job.begin(now())
        card.change(now(), Status.IN_PROGRESS)
        is_lost = job.nature in OF_THE_BOARD and not job.is_cured
        for _ in range(self._chance.randrange(8, 13)):
            await asyncio.sleep(5 * 60)
            if is_lost or card.status is not Status.IN_PROGRESS:
                job.end(now(), "lost", is_done=False)
                return
            card.change(now())
        card.change(now(), Status.DONE)
        job.end(now(), "driven", is_done=True)


def in_own_hands(job: Job, card: Card, now: Callable[[], Any], spawn: Callable[[Any], None]) -> None:
    """The agent began it in a session of its own."""
    card.change(now(), Status.IN_PROGRESS)
    if job.nature is not Nature.STALLS:
        spawn(_go_on(job, card, now))


async def _go_on(job: Job, card: Card, now: Callable[[], Any]) -> None:
    """Slowly, or round after round; as long as nobody takes it away."""
    begun = now()
    while card.status is Status.IN_PROGRESS and job.runs == 0:
        await asyncio.sleep(20 * 60)
        if card.status is not Status.IN_PROGRESS:
            return
        if job.nature is Nature.ROUNDS:
            card.rounds = (card.rounds or 0) + 9
        card.change(now())
        if job.nature is Nature.SLOW and now() - begun > timedelta(hours=4):
            card.change(now(), Status.DONE)
            job.completed += 1
