"""The runner goes on serving what the roster asks for, whatever a single look at it met."""

import asyncio
from pathlib import Path

import pytest
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment

from deployments.runner import follow_roster
from quarterdeck.kernel.database import Database
from tests.fakes.watch import Watch


class Moody:
    """A runner whose server refuses the first deployments."""

    def __init__(self, refusals: int) -> None:
        self.served: list[str] = []
        self.refusals = refusals

    async def aadd_deployment(self, deployment: RunnerDeployment) -> None:
        if self.refusals:
            self.refusals -= 1
            raise DeploymentApplyError("Error while applying deployment: 503")
        self.served.append(deployment.name)


async def until_served(runner: Moody, count: int) -> None:
    async with asyncio.timeout(20):
        while len(runner.served) < count:
            await asyncio.sleep(0.01)


async def test_agents_are_served_after_looks_that_failed_and_again_when_they_change(
    database: Database, tmp_path: Path
) -> None:
    watch, runner = Watch(database, tmp_path), Moody(refusals=3)
    await watch.enrol()
    following = asyncio.create_task(follow_roster(runner, watch.sweeper, 0.01))  # type: ignore[arg-type]
    try:
        await until_served(runner, 2)
        assert sorted(runner.served) == ["sweep-coo", "sweep-developer"]
        runner.refusals = 1
        await watch.enrol(category="high-frequency")
        await until_served(runner, 3)
        assert runner.served[2] == "sweep-developer"
    finally:
        following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
