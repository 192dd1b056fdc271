"""The people of the week: they read what they are told, hours later, and mostly do something about it."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from deployments.simulation.jobs import Job, Nature
from quarterdeck.heartbeat.service import Sweeper
from quarterdeck.heartbeat.work import Ref, Status
from quarterdeck.kernel.clock import Clock
from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.journal import Event

OWNER = Caller(name="owner", door="simulation", is_owner=True, may_write=True, may_approve=True)
HELD = (Status.BLOCKED, Status.OTHER)
OPENED = frozenset({"breaker_opened", "work_timed_out", "rounds_exhausted"})
"""What is unblocked by a command, or by whoever opens the work again where it stands."""
BY_COMMAND = frozenset({"work_needs_approval", "rounds_exhausted"})
"""What only a command answers."""
WHERE_IT_STANDS = 0.3
"""How many act there instead."""
IN_VAIN = 0.1
"""How many of those who are told never do anything."""


class People:
    """Those to whom events are addressed, and those who review.

    `days_over`: whose day was told to be spent, and when.
    """

    def __init__(
        self, jobs: dict[Ref, Job], clock: Clock, chance: random.Random, spawn: Callable[[Any], None]
    ) -> None:
        self._jobs = jobs
        self._clock = clock
        self._chance = chance
        self._spawn = spawn
        self._busy: set[Job] = set()
        self.sweeper: Sweeper | None = None
        self.told: Counter[tuple[str, str]] = Counter()
        self.days_over: dict[str, datetime] = {}

    async def hear(self, unit: Unit, event: Event) -> None:
        """Within the command that recorded it, as messages are made."""
        if event.data.get("to"):
            self.told[(event.data.get("agent", ""), event.kind)] += 1
        if event.kind == "day_budget_spent":
            self.days_over[event.data["agent"]] = unit.now
        source, _, ref = event.data.get("ref", "").partition(":")
        job = self._jobs.get(Ref(source, ref))
        if job is None or not event.data.get("to"):
            return
        job.told.add(event.kind)
        if job not in self._busy and not job.is_neglected:
            self._busy.add(job)
            self._spawn(self._answer(job))

    async def _answer(self, job: Job) -> None:
        """They have a look some time later, at whatever is there by then."""
        await asyncio.sleep(self._chance.uniform(0.5, 3) * 3600)
        self._busy.discard(job)
        if self._chance.random() < IN_VAIN or job.nature is Nature.REFUSED:
            job.is_neglected = True
            return
        if job.nature in (Nature.CYCLE, Nature.CANCELLED):
            for card in job.cards:
                card.needs.clear()
                card.change(self._clock.now())
        assert self.sweeper is not None
        acts_there = self._chance.random() < WHERE_IT_STANDS and not job.told & BY_COMMAND
        for card in job.cards if not acts_there else ():
            named = f"{card.ref.source}:{card.ref.id}"
            try:
                await self._permit(self.sweeper, job, named)
            except QuarterdeckError:
                continue  # another place of it is the one that is remembered
        if acts_there:
            job.cure()
        for card in job.cards if acts_there or not job.told & OPENED else ():
            if card.status in HELD:
                card.change(self._clock.now(), Status.TODO)

    async def _permit(self, sweeper: Sweeper, job: Job, named: str) -> None:
        if "work_needs_approval" in job.told:
            await sweeper.allow(OWNER, job.agent, named)
            job.is_allowed = True
        if "rounds_exhausted" in job.told:
            await sweeper.raise_limit(OWNER, job.agent, named, 1000)
        if job.told & OPENED:
            job.cure()
            await sweeper.unblock(OWNER, job.agent, named)

    async def review(self, jobs: Iterable[Job]) -> None:
        """What is done is looked at; what was not done goes back, without a word."""
        for job in jobs:
            waiting = [card for card in job.cards if card.is_in_review]
            for card in waiting if job.open_runs == 0 else ():
                card.change(self._clock.now(), Status.DONE if job.completed else Status.TODO)
