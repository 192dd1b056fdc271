"""What must be done from time to time: probes, sums, retention, backups, keys.

A schedule outside (Prefect's) may ask for a job; the router itself does whatever nobody asked for in time,
so that nothing is forgotten while Prefect is down. Either way the job runs here, one at a time of each
kind, and its result is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from quarterdeck.kernel.errors import NotFound, QuarterdeckError
from quarterdeck.router.config import Tuning
from quarterdeck.router.model import Job

log = structlog.get_logger(__name__)

HOUR, DAY = 3600.0, 86_400.0

LOOK = 1.0
"""Seconds between two looks at what is due."""

LONGEST_PAUSE = 300.0
"""Seconds after which a job that failed is tried again, at the latest."""

OWN = "router"
"""Who ran a job that nobody asked for."""


@dataclass(frozen=True)
class Result:
    """How a job ended: `text` says what it did, or why it failed. `ran_at` in epoch seconds."""

    job: Job
    ran_at: float
    by: str
    ok: bool
    text: str


class Keeper(Protocol):
    """Where results are kept beyond the process."""

    async def upkeep(self) -> list[Result]: ...

    async def keep_upkeep(self, result: Result) -> None: ...


Work = Callable[[], Awaitable[str]]
"""Does a job and says in a few words what it did."""


def intervals(tuning: Tuning) -> dict[Job, float]:
    """Seconds after which the router does a job by itself. The daily ones leave an hour to the schedule."""
    return {
        Job.PROBE: tuning.health_check_interval_seconds,
        Job.AGGREGATE: tuning.stats_refresh_interval_seconds,
        Job.RETENTION: DAY + HOUR,
        Job.BACKUP: DAY + HOUR,
        Job.ROTATE: DAY + HOUR,
    }


class Upkeep:
    """Runs jobs. `now` gives epoch seconds; `tuning` the settings as they are."""

    def __init__(
        self, work: Mapping[Job, Work], keeper: Keeper, now: Callable[[], float], tuning: Callable[[], Tuning]
    ) -> None:
        self._work = work
        self._keeper = keeper
        self._now = now
        self._tuning = tuning
        self._locks = {job: asyncio.Lock() for job in Job}
        self._failures = dict.fromkeys(Job, 0)
        self.results: dict[Job, Result] = {}

    async def run(self, name: str, by: str = OWN) -> Result:
        """Do a job now. Raises `NotFound` for a name that is none; a job that fails is a result, too."""
        if name not in set(Job):
            raise NotFound.among("job", name, Job)
        job = Job(name)
        async with self._locks[job]:
            result = await self._done(job, by)
        self.results[job] = result
        self._failures[job] = 0 if result.ok else self._failures[job] + 1
        await self._keep(result)
        return result

    async def _done(self, job: Job, by: str) -> Result:
        began = self._now()
        try:
            return Result(job, began, by, ok=True, text=await self._work[job]())
        except QuarterdeckError as error:
            log.warning("upkeep_failed", job=job.value, reason=str(error))
            return Result(job, began, by, ok=False, text=error.detail)
        except Exception as error:
            log.exception("upkeep_broke", job=job.value)
            return Result(job, began, by, ok=False, text=type(error).__name__)

    async def _keep(self, result: Result) -> None:
        try:
            await self._keeper.keep_upkeep(result)
        except QuarterdeckError as error:
            log.warning("upkeep_not_recorded", job=result.job.value, reason=str(error))

    def due(self) -> list[Job]:
        """What nobody did in time."""
        now, after = self._now(), intervals(self._tuning())
        return [job for job in self._work if now >= self._next(job, after[job])]

    def _next(self, job: Job, interval: float) -> float:
        last = self.results.get(job)
        if last is None:
            return 0.0
        return last.ran_at + (interval if last.ok else self._pause(job, interval))

    def _pause(self, job: Job, interval: float) -> float:
        return min(interval, LONGEST_PAUSE, 2.0 ** min(self._failures[job], 10))

    async def keep(self) -> None:
        """Do what is due, until cancelled. A long job does not hold up the others."""
        await self._remember()
        at_work: dict[Job, asyncio.Task[Result]] = {}
        try:
            while True:
                at_work = {job: task for job, task in at_work.items() if not task.done()}
                for job in self.due():
                    if job not in at_work:
                        at_work[job] = asyncio.create_task(self.run(job))
                await asyncio.sleep(LOOK)
        finally:
            for task in at_work.values():
                task.cancel()
            await asyncio.gather(*at_work.values(), return_exceptions=True)

    async def _remember(self) -> None:
        """A restart is no reason for a second backup today; probes and sums are made at once."""
        try:
            for result in await self._keeper.upkeep():
                if intervals(self._tuning())[result.job] >= DAY:
                    self.results.setdefault(result.job, result)
        except QuarterdeckError as error:
            log.warning("upkeep_unknown", reason=str(error))
