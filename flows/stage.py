"""Run a stage of a work item: the same flow in the desk, by hand in Prefect's UI, and on a work pool.

It claims (item, stage, round) first; a second run of the same ends "already claimed". Then it takes one
step after the other as `pipeline.rules` says, until the stage run has an end: the item moved, waits,
or needs a person.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated, Any

import httpx
from prefect import flow, get_run_logger, runtime
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, get_run_context
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from quarterdeck.house import House, at_hand
from quarterdeck.kernel import disk
from quarterdeck.kernel.errors import Conflict, QuarterdeckError, Unavailable
from quarterdeck.pipeline.rules import (
    Advance,
    AskApproval,
    AwaitRun,
    Block,
    CheckGate,
    Decision,
    Publish,
    Repair,
    StartRun,
    Step,
    Wait,
    pause_when_down,
)
from quarterdeck.pipeline.store import Candidate
from quarterdeck.pipeline.work import LEASE, StageWork
from tasks.work import ask_gate, keep_claim, publish, run_agent

PAUSE_WHEN_BUSY = 1.0

let_go: ContextVar[Callable[[], None]] = ContextVar("let_go", default=lambda: None)
"""What a stage run calls when all is done but to tell Prefect: then the item may be worked on elsewhere."""


# The storage is named, else Prefect asks its server for one, and all in this process waits for the answer.
@flow(name="stage", persist_result=False, result_storage=get_current_settings().results.local_storage_path)
async def run_stage(item: str, stage: str = "", round: Annotated[int, Field(ge=0)] = 0) -> State[Any]:
    """Work on one stage of a work item until it moves, waits, or needs a person.

    Args:
        item: Key of the work item, for example ET-007.
        stage: The stage that is meant; empty = the one in which the item stands.
        round: The round that is meant; 0 = the present one.
    """
    async with (
        at_hand() as house,
        _called(item, " · ".join(str(part) for part in (item, stage, round) if part)),
    ):
        try:
            work = await _claim(house, item, stage, round)
        except Conflict as refusal:
            return Completed(name="NothingToDo", message=str(refusal))
        keeping = asyncio.create_task(keep_claim(work, LEASE.total_seconds() / 3))
        try:
            return await work_on(house, work)
        finally:
            keeping.cancel()


@asynccontextmanager
async def _called(item: str, name: str) -> AsyncIterator[None]:
    """Let the run be found by its item, while the work has begun: nothing waits for a name.

    Neither by `flow_run_name`, for which Prefect prepares the run twice, nor by `prefect.tags`, which its
    tasks would inherit: for each new tag of a task Prefect keeps a thread with a client of its own, for ever.
    """
    naming = asyncio.create_task(_name(item, name))
    try:
        yield
        await naming
    finally:
        naming.cancel()


async def _name(item: str, name: str) -> None:
    context = get_run_context()
    assert isinstance(context, FlowRunContext)
    assert context.flow_run is not None
    assert isinstance(context.client, PrefectClient)
    context.flow_run.name = name
    tags = [*context.flow_run.tags, item]
    try:
        await context.client.update_flow_run(context.flow_run.id, name=name, tags=tags)
    except httpx.HTTPError as error:
        get_run_logger().warning("This run keeps the name that Prefect gave it: %s", error)


async def _claim(house: House, item: str, stage: str, round_: int) -> StageWork:
    now = await house.engine.current(item)
    wanted = Candidate(item, stage or now.stage, round_ or now.round)
    return await house.engine.claim(wanted, flow_run=str(runtime.flow_run.id))


async def work_on(house: House, work: StageWork) -> State[Any]:
    """One step after the other until the stage run has an end; what went wrong is recorded on the item."""
    try:
        return await _outcome(house, work)
    finally:
        let_go.get()()


async def _outcome(house: House, work: StageWork) -> State[Any]:
    try:
        decision = await _until_decided(house, work)
    except Unavailable as error:
        return await _interrupted(work, error)
    except Conflict as error:
        return await _refused(work, error)
    except Exception as error:
        if disk.is_full(error):
            return await _interrupted(work, disk.full(house.settings.folder))
        reason = error.detail if isinstance(error, QuarterdeckError) else f"{type(error).__name__}: {error}"
        await work.failed(reason)
        raise
    if isinstance(decision, Block) and decision.cancelled:
        return Cancelled(message=decision.why)
    return Completed(message=_sentence(work, decision))


async def _until_decided(house: House, work: StageWork) -> Decision:
    log = get_run_logger()
    while True:
        step = await work.next_step()
        match step:
            case StartRun() | AwaitRun():
                log.info(await run_agent(house, work))
            case Publish(run_id):
                log.info("published %s", await publish(house, work, run_id))
            case CheckGate(gate):
                answer = await ask_gate(house, work, gate)
                log.info("%s: %s %s", gate, answer.verdict.value, answer.reason)
            case _:
                await work.record(step)
                return step


async def _interrupted(work: StageWork, error: Unavailable) -> State[Any]:
    pause = pause_when_down(error.data.get("retry_after"), work.stage.limit)
    await work.release(pause.total_seconds())
    return Failed(message=f"{error} The stage goes on by itself in {pause.total_seconds():.0f} s.")


async def _refused(work: StageWork, error: Conflict) -> State[Any]:
    if error.code in ("busy", "agent_disabled"):
        await work.postpone(PAUSE_WHEN_BUSY)
        return Completed(name="Postponed", message=str(error))
    if error.code == "item_final":
        return Cancelled(message=str(error))
    if error.code == "claim_lost":
        return Completed(name="TakenOver", message=str(error))
    await work.failed(error.detail)
    return Failed(message=str(error))


def _sentence(work: StageWork, step: Step) -> str:
    match step:
        case Advance(to=to):
            return f"{work.ticket.key}: {work.ticket.stage} → {to}"
        case Repair(to=to, note=note):
            return f"back to {to}: {note}"
        case Wait(gate=gate, reason=reason):
            return f"waits for {gate}: {reason}"
        case AskApproval():
            return "waits for a person's approval"
        case Block(why=why):
            return f"blocked: {why}"
    return ""
