"""The steps of a stage run: let the agent work, publish what it made, ask a gate.

Each is one Prefect task of a stage flow. What they found out is recorded through the claim (`StageWork`),
so a step that is repeated after a crash finds its own traces and does nothing twice.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from quarterdeck.crew.runtime import Job
from quarterdeck.forge.protocol import Verdict
from quarterdeck.house import House
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound, Unavailable
from quarterdeck.pipeline.gates import GATES, Answer, documents_folder
from quarterdeck.pipeline.work import Assignment, StageWork, repository_of


def _is_down(_task: Any, _run: Any, state: Any) -> bool:
    """Only what is down is asked again; what was refused is refused again."""
    try:
        state.result()
    except Unavailable:
        return True
    except Exception:
        return False
    return False


def step(name: str, *, seconds: float | None, retries: int = 0) -> Callable[..., Any]:
    """A Prefect task without caching or stored results: our tables hold both."""
    return task(
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        timeout_seconds=seconds,
        retries=retries,
        retry_delay_seconds=2,
        retry_condition_fn=_is_down if retries else None,
    )


@step("agent run", seconds=None)  # the keeper enforces the limit, and goes on when nobody looks
async def run_agent(house: House, work: StageWork) -> str:
    """Start the stage's agent, or adopt its run, and wait until it ended."""
    assignment = await work.assignment()
    folder = house.settings.work_folder / assignment.item.key
    run = await house.engine.run_of(work.ticket)
    if run is None:
        await house.forge.checkout(
            repository_of(assignment.project), assignment.branch, assignment.project.default_branch, folder
        )
        run = await work.open_run()
    assert run.id is not None
    job = Job(
        run_id=run.id,
        item_key=assignment.item.key,
        title=assignment.item.title,
        description=assignment.item.description,
        stage=work.ticket.stage,
        round=work.ticket.round,
        note=assignment.item.note,
        agent=work.stage.agent,
        parameters=(await house.crew.agent(work.stage.agent)).parameters,
        work_tree=folder,
        branch=assignment.branch,
        documents=documents_folder(assignment.item.key),
        limit_seconds=run.limit_seconds,
    )
    if await house.crew.start(run, job):
        await work.run_started(run.id)
    outcome = await house.crew.wait(run)
    await work.run_ended(run.id, outcome)
    return outcome.sentence


@step("publish", seconds=120, retries=3)
async def publish(house: House, work: StageWork, run_id: int) -> str:
    """Push the agent's commits; open the pull request and give the review that it reported."""
    assignment = await work.assignment()
    result = await house.crew.result_of(run_id)
    try:
        head = await _push(house, assignment)
        await _report(house, assignment, head, result)
    except (Conflict, Invalid, NotFound) as error:
        await work.publish_failed(error.detail)
        return error.detail
    await work.published(head)
    return head


async def _push(house: House, assignment: Assignment) -> str:
    return await house.forge.publish(
        repository_of(assignment.project), assignment.branch, house.settings.work_folder / assignment.item.key
    )


async def _report(house: House, assignment: Assignment, head: str, result: dict[str, Any]) -> None:
    repository, agent = repository_of(assignment.project), assignment.stage.agent
    if proposal := result.get("pull_request"):
        await house.forge.open_pull_request(
            repository,
            assignment.branch,
            assignment.project.default_branch,
            proposal.get("title") or f"{assignment.item.key}: {assignment.item.title}",
            proposal.get("body", ""),
            agent,
        )
    if review := result.get("review"):
        request = await house.forge.pull_request(repository, assignment.branch)
        if request is None:
            raise Conflict(f"{agent} reviewed {assignment.branch}, which has no pull request.")
        verdict = Verdict(review["verdict"])
        await house.forge.review(repository, request.number, agent, verdict, review.get("comment", ""), head)


@step("gate", seconds=120, retries=3)
async def ask_gate(house: House, work: StageWork, gate: str) -> Answer:
    """Put one gate's question to the code host and record the answer."""
    assignment = await work.assignment()
    answer = await GATES[gate](house.forge, assignment.asks(gate))
    await work.gate_answered(gate, answer)
    return answer


async def keep_claim(work: StageWork, pause: float) -> None:
    """Signs of life while the stage is worked on; ends by itself when the claim is lost or useless."""
    while True:
        await asyncio.sleep(pause)
        try:
            await work.renew()
        except Conflict:
            return
        except Unavailable:
            continue
