"""Upkeep: asked for from outside, or done by the router itself when nobody asked in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from quarterdeck.kernel.errors import NotFound, Unavailable
from quarterdeck.router.config import Tuning
from quarterdeck.router.model import Job
from quarterdeck.router.upkeep.jobs import DAY, HOUR, Result, Upkeep


class Diary:
    """Jobs that note when they ran, a clock that is set by hand, and a keeper in memory."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.done: list[Job] = []
        self.wrong: set[Job] = set()
        self.kept: list[Result] = []
        self.is_down = False
        work = {job: self._work(job) for job in Job}
        self.jobs = Upkeep(work, self, lambda: self.now, lambda: Tuning())

    def _work(self, job: Job) -> Callable[[], Awaitable[str]]:
        async def work() -> str:
            await asyncio.sleep(0)
            if job in self.wrong:
                raise Unavailable("The disk is full.")
            self.done.append(job)
            return f"did {job}"

        return work

    async def upkeep(self) -> list[Result]:
        return self.kept

    async def keep_upkeep(self, result: Result) -> None:
        if self.is_down:
            raise Unavailable("No database.")
        self.kept.append(result)


@pytest.fixture
def diary() -> Diary:
    return Diary()


async def test_a_job_says_what_it_did_and_who_asked(diary: Diary) -> None:
    result = await diary.jobs.run("backup", by="prefect")
    assert (result.ok, result.text, result.by) == (True, "did backup", "prefect")
    assert diary.kept == [result]


async def test_a_job_that_is_none_is_answered_with_those_that_exist(diary: Diary) -> None:
    with pytest.raises(NotFound, match="aggregate, backup"):
        await diary.jobs.run("dust")


async def test_everything_is_due_at_first_and_nothing_right_afterwards(diary: Diary) -> None:
    assert set(diary.jobs.due()) == set(Job)
    for job in Job:
        await diary.jobs.run(job)
    assert diary.jobs.due() == []


async def test_the_router_leaves_daily_jobs_an_hour_to_the_schedule(diary: Diary) -> None:
    for job in Job:
        await diary.jobs.run(job, by="prefect")
    diary.now += DAY + HOUR - 1
    assert set(diary.jobs.due()) == {Job.PROBE, Job.AGGREGATE}
    diary.now += 1
    assert set(diary.jobs.due()) == set(Job)


async def test_a_job_that_failed_is_a_result_and_is_tried_again_soon_but_ever_later(diary: Diary) -> None:
    for job in Job:
        await diary.jobs.run(job)
    diary.wrong = {Job.BACKUP}
    waits = []
    for _ in range(12):
        result = await diary.jobs.run(Job.BACKUP)
        assert (result.ok, result.text) == (False, "The disk is full.")
        began = diary.now
        while Job.BACKUP not in diary.jobs.due():
            diary.now += 1
        waits.append(diary.now - began)
    assert waits[0] == 2
    assert waits == sorted(waits)
    assert waits[-1] == 300


async def test_a_result_that_cannot_be_kept_does_not_stop_the_job(diary: Diary) -> None:
    diary.is_down = True
    assert (await diary.jobs.run(Job.PROBE)).ok
    assert Job.PROBE not in diary.jobs.due()


async def test_the_same_job_never_runs_twice_at_once(diary: Diary) -> None:
    at_once, most = 0, 0

    async def work() -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return "done"

    upkeep = Upkeep({Job.PROBE: work}, Diary(), lambda: 0.0, lambda: Tuning())
    await asyncio.gather(*(upkeep.run(Job.PROBE) for _ in range(5)))
    assert most == 1


@asynccontextmanager
async def keeping(upkeep: Upkeep) -> AsyncIterator[None]:
    task = asyncio.create_task(upkeep.keep())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_left_alone_the_router_does_everything_itself() -> None:
    diary = Diary()
    async with keeping(diary.jobs):
        async with asyncio.timeout(10):
            while set(diary.done) != set(Job):
                await asyncio.sleep(0)


async def test_a_restart_is_no_reason_for_a_second_backup_today() -> None:
    diary = Diary()
    diary.kept = [Result(job, diary.now - HOUR, "prefect", ok=True, text="") for job in Job]
    async with keeping(diary.jobs):
        async with asyncio.timeout(10):
            while not {Job.PROBE, Job.AGGREGATE} <= set(diary.done):
                await asyncio.sleep(0)
    assert not {Job.BACKUP, Job.RETENTION, Job.ROTATE} & set(diary.done)
