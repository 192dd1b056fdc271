"""Run the CI of the local forge: its orders, executed under the same keepers as agents."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog

from quarterdeck.crew.runtime import Job, Outcome
from quarterdeck.forge.ci import CIJob, CIOrder
from quarterdeck.house import House
from quarterdeck.kernel import disk
from quarterdeck.kernel.errors import QuarterdeckError, Stale, Unavailable
from quarterdeck.pipeline.service import this_holder

log = structlog.get_logger(__name__)

TRIES = 3
"""How often tests are begun, with those that a desk gave up, before an end without a verdict counts."""

RENEW = 15.0
"""Seconds between signs of life of a CI run."""


async def run_next_ci(house: House) -> bool:
    """Take one waiting CI run, execute it and record its result. False: there was none."""
    order = await house.forge.ci.take(this_holder())
    if order is None:
        return False
    try:
        await _execute(house, order)
    except Stale as error:
        log.info("ci_lost", commit=order.commit, reason=error.detail)
    return True


async def _execute(house: House, order: CIOrder) -> None:
    keeping = asyncio.create_task(_keep(house, order))
    try:
        outcome, log_path = await _outcome(house, order)
    finally:
        keeping.cancel()
    if not outcome.succeeded and _is_no_verdict(house, outcome) and _tries(house, order) < TRIES:
        log.warning("ci_without_verdict", commit=order.commit, reason=outcome.error or "the disk is full")
        return  # the lease runs out and somebody tries again
    await _finish(house, order, outcome, log_path)
    await house.forge.ci.clear(order)


def _is_no_verdict(house: House, outcome: Outcome) -> bool:
    """Did the tests end by what happened to this machine?"""
    lost = outcome.started_at is not None and outcome.error != ""
    return lost or disk.is_short(house.settings.folder)


def _tries(house: House, order: CIOrder) -> int:
    return len(list(house.settings.runs_folder.glob(f"ci-{order.id.hex}.*")))


async def _outcome(house: House, order: CIOrder) -> tuple[Outcome, str]:
    """How it ended, and where its log is."""
    try:
        await _stop_former(house, order)
        job = await house.forge.ci.prepare(order)
    except Unavailable:
        raise  # the lease runs out and somebody tries again
    except QuarterdeckError as error:
        return Outcome(error=error.detail), ""
    return await _run(house, order, job)


async def _stop_former(house: House, order: CIOrder) -> None:
    """End what a holder left running that died, or was closed: its folder is taken away now."""
    for folder in house.settings.runs_folder.glob(f"ci-{order.id.hex}.*"):
        await house.crew.runtime("command").stop(folder, "These tests are begun anew.")


async def _run(house: House, order: CIOrder, job: CIJob) -> tuple[Outcome, str]:
    runtime = house.crew.runtime("command")
    folder = house.settings.runs_folder / f"ci-{job.folder.name}"
    await runtime.start(
        Job(
            run_id=0,
            item_key=order.repository,
            title=f"CI of {order.commit}",
            description="",
            stage="ci",
            round=1,
            agent="ci",
            folder=folder,
            work_tree=job.folder,
            branch=order.commit,
            limit=timedelta(seconds=job.limit_seconds),
            parameters={"program": job.argv[0], "args": list(job.argv[1:]), "env": job.env},
        )
    )
    return await runtime.wait(folder), str(folder / "agent.log")


async def _finish(house: House, order: CIOrder, outcome: Outcome, log_path: str) -> None:
    async with house.database.command("finish CI") as unit:
        waiting = await house.engine.wake_commit(unit, order.commit)
        await house.forge.ci.finish(
            unit,
            order,
            item=waiting[0] if waiting else None,
            exit_code=outcome.exit_code,
            timed_out=outcome.timed_out,
            error=outcome.error,
            log_path=log_path,
        )


async def _keep(house: House, order: CIOrder) -> None:
    """Signs of life, until the run has ended or somebody else has it."""
    with suppress(Stale):
        while True:
            await asyncio.sleep(RENEW)
            with suppress(Unavailable):
                await house.forge.ci.renew(order)
