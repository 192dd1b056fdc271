"""What keeps the house in order when Prefect lost something: forms that vanished, runs nobody works on."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelled, Crashed

from quarterdeck.forge.packing import Packed
from quarterdeck.house import House
from quarterdeck.pipeline import long_finished
from tasks.approvals import is_open, open_form
from tasks.connections import copy_blocks
from tasks.step import step

GRACE = timedelta(minutes=3)
"""How long a run may be silent before it counts as dead: the server's own rule should be faster."""

ON_ITS_WAY = timedelta(minutes=4)
"""How long a run may take from its place to its process: less than the five minutes after which Prefect gives
the place to another, while its server lives."""

QUIET_KEPT = timedelta(hours=1)

STAGE, LISTEN = "stage", "listen"
"""Flows without a time limit."""


@step("copy blocks", seconds=120, retries=3)
async def copy_changed_blocks(house: House) -> int:
    """Blocks whose value is new."""
    return len(await copy_blocks(house))


@step("restore forms", seconds=120, retries=3)
async def restore_forms(house: House) -> int:
    """Ask again where the form of an open request ended without a decision; how many were put up."""
    restored = 0
    for approval in await house.engine.open_forms():
        if not await is_open(approval.flow_run):
            await house.engine.form_opened(approval.id, str(await open_form(approval)))
            restored += 1
    return restored


@step("free claims", seconds=60, retries=3)
async def free_claims(house: House) -> int:
    """Claims of processes that died on this host."""
    return await house.engine.free_claims()


@step("forget deliveries", seconds=120, retries=3)
async def forget_deliveries(house: House) -> int:
    """Contents of webhooks that are older than anybody asks for."""
    return await house.inbox.forget_old()


@step("forget Telegram", seconds=120, retries=3)
async def forget_telegram(house: House) -> int:
    """Updates that were told and messages that were sent long ago."""
    return await house.bots.forget_old()


@step("forget messages", seconds=120, retries=3)
async def forget_messages(house: House) -> int:
    """Messages that arrived, and what Plane was told, of items that were finished long ago."""
    told = await long_finished.forget_messages(house.database, house.settings.kept)
    return told + await long_finished.forget_posts(house.database, house.settings.kept)


@step("forget prompts", seconds=120, retries=3)
async def forget_prompts(house: House) -> int:
    """What was asked of agents for items that were finished long ago."""
    return await long_finished.forget_prompts(house.database, house.settings.kept)


@step("forget conversations", seconds=120, retries=3)
async def forget_talks(house: House) -> int:
    """Notes that somebody talks to an agent, of conversations that are over."""
    return await house.talks.forget_old()


@step("forget sweeps", seconds=120, retries=3)
async def forget_sweeps(house: House) -> int:
    """Records of sweeps that are older than anybody asks for."""
    return await house.sweeper.forget_old()


@step("forget vanished work", seconds=120, retries=1)
async def forget_vanished_work(house: House) -> int:
    """What is remembered of work that no source lists any more."""
    return await house.sweeper.forget_vanished()


@step("pack repositories", seconds=400)  # what could not be packed waits for the next upkeep
async def pack_repositories(house: House) -> Packed:
    """Repositories in which much lay loose: each loose file costs every copy that is made of it."""
    return await house.forge.pack()


@step("forget quiet runs", seconds=120, retries=3)
async def forget_quiet_runs(house: House, name: str) -> int:
    """Runs that ended in this state have nothing to show: they are purged from Prefect after an hour."""
    before = house.database.clock.now() - QUIET_KEPT
    wanted = FlowRunFilter(
        state=FlowRunFilterState(name=FlowRunFilterStateName(any_=[name])),
        start_time=FlowRunFilterStartTime(before_=before),
    )
    async with get_client() as client:
        runs = await client.read_flow_runs(flow_run_filter=wanted, limit=200)
        for run in runs:
            await client.delete_flow_run(run.id)
    return len(runs)


@step("close dead runs", seconds=120, retries=3)
async def close_dead_runs(house: House, limits: Mapping[str, float]) -> int:
    """Close Prefect runs that nobody works on; `limits` has the time limit of each flow, in seconds.

    A stage run lives as long as it holds its claim; any other run at most as long as its time limit.
    """
    closed = await close_overdue_runs(house, limits)
    at_work = await house.engine.flow_runs_at_work()
    async with get_client() as client:
        for run in await _running(client, STAGE, house.database.clock.now() - GRACE):
            if str(run.id) not in at_work:
                closed += await _close(client, run, "Nobody holds the claim of this stage run any more.")
    return closed


async def close_overdue_runs(house: House, limits: Mapping[str, float]) -> int:
    """Close runs that take up their deployment's place for nothing: older than their limit, or never begun.

    What was on its way to a process when everything stopped stays so for ever, and may hold up all that come
    after it. The desk looks too: the upkeep itself can be held up so.
    """
    now, closed = house.database.clock.now(), 0
    async with get_client() as client:
        for run in await _never_begun(client, {STAGE, LISTEN, *limits}, now - ON_ITS_WAY):
            closed += await _close(client, run, "The process of this run was never there.")
        for name, seconds in limits.items():
            for run in await _running(client, name, now - GRACE - timedelta(seconds=seconds)):
                closed += await _close(client, run, "The run is older than its time limit.")
    return closed


async def _never_begun(client: PrefectClient, flows: Collection[str], since: datetime) -> list[FlowRun]:
    """Runs that have been on their way since then; those of work pools are their workers' to see to."""
    runs = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(flows))),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING]))
        ),
        limit=200,
    )
    return [run for run in runs if not run.work_pool_name and run.state and run.state.timestamp < since]


async def _running(client: PrefectClient, flow: str, started_before: datetime) -> list[FlowRun]:
    states = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
    return await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=states), start_time=FlowRunFilterStartTime(before_=started_before)
        ),
        limit=200,
    )


async def _close(client: PrefectClient, run: FlowRun, why: str) -> int:
    end: Any = Cancelled if run.state is not None and run.state.is_cancelling() else Crashed
    await client.set_flow_run_state(run.id, end(message=why), force=True)
    return 1
