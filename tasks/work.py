"""The steps of a stage run: let the agent work, publish what it made, ask a gate.

Each is one Prefect task of a stage flow. What they found out is recorded through the claim (`StageWork`),
so a step that is repeated after a crash finds its own traces and does nothing twice.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from quarterdeck.crew.model import AgentRun
from quarterdeck.crew.runtime import Job
from quarterdeck.forge.in_time import in_time
from quarterdeck.forge.protocol import Verdict
from quarterdeck.house import House
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound, Unavailable
from quarterdeck.pipeline.gates import Answer, ask, only_reads
from quarterdeck.pipeline.model import GateVerdict
from quarterdeck.pipeline.work import Assignment, StageWork
from tasks.step import step


@step(
    "agent run", seconds=None, run_name="{work.stage.agent}"
)  # the keeper enforces the limit, and goes on when nobody looks
async def run_agent(house: House, work: StageWork) -> str:
    """Start the stage's agent, or adopt its run, and wait until it ended."""
    assignment = await work.assignment()
    run = await house.engine.run_of(work.ticket)
    if run is None:
        await work.must_have_the_tree()
        await house.forge.ensure_repository(assignment.repository, assignment.project.default_branch)
        base = await house.forge.checkout(
            assignment.repository,
            assignment.branch,
            assignment.project.default_branch,
            house.work_tree(assignment.item.key),
        )
        run = await work.open_run(base)
    assert run.id is not None
    if await house.crew.start(run, await _job(house, work, assignment, run)):
        await work.run_started(run.id)
    outcome = await house.crew.wait(run)
    await work.run_ended(run.id, outcome)
    return f"{work.stage.agent} ended: exit_code={outcome.exit_code} {outcome.error}".rstrip()


async def _job(house: House, work: StageWork, assignment: Assignment, run: AgentRun) -> Job:
    agent = await house.crew.agent(run.agent)
    assert run.id is not None
    return Job(
        run_id=run.id,
        item_key=assignment.item.key,
        title=assignment.item.title,
        description=assignment.item.description,
        stage=work.ticket.stage,
        round=work.ticket.round,
        note=assignment.item.note,
        agent=agent.slug,
        model=agent.model,
        system_prompt=agent.system_prompt,
        parameters=agent.parameters,
        folder=house.crew.folder_of(run),
        work_tree=house.work_tree(assignment.item.key),
        branch=assignment.branch,
        base=assignment.project.default_branch,
        needs=tuple(f"{name}.md" for gate in work.stage.gates for name in gate.needs),
        gates=tuple(gate.name for gate in work.stage.gates),
        limit=work.stage.limit,
    )


@step("publish", seconds=120, retries=3, run_name="publish")
async def publish(house: House, work: StageWork, run_id: int) -> str:
    """Push the agent's commits; open the pull request and give the review that it reported.

    A reviewer only reads: what it left in the work tree is not pushed, and its word counts for the
    commit that it was given. Without a word of its own it has failed, unless people may still review.
    """
    assignment = await work.assignment()
    result = await house.crew.result_of(run_id)
    try:
        async with in_time("publishing"):
            head = await _published(house, work, assignment, result)
    except (Conflict, Invalid, NotFound) as error:
        await work.publish_failed(error.detail)
        return error.detail
    await work.published(head)
    return head


async def _published(house: House, work: StageWork, assignment: Assignment, result: Mapping[str, Any]) -> str:
    """The commit that the branch has afterwards, or the one that was reviewed."""
    if review := result.get("review"):
        await _review(house, assignment, review)
        return assignment.base
    if only_reads(work.stage):
        await _must_be_reviewable(house, assignment)
        return assignment.base
    tree = house.work_tree(assignment.item.key)
    head = await house.forge.publish(assignment.repository, assignment.branch, tree)
    await _propose(house, assignment, result.get("pull_request"))
    return head


async def _propose(house: House, assignment: Assignment, proposal: dict[str, Any] | None) -> None:
    if proposal is None:
        return
    await house.forge.open_pull_request(
        assignment.repository,
        assignment.branch,
        assignment.project.default_branch,
        proposal.get("title") or f"{assignment.item.key}: {assignment.item.title}",
        proposal.get("body") or "",
        assignment.stage.agent,
    )


async def _must_be_reviewable(house: House, assignment: Assignment) -> None:
    if not await house.forge.has_people(assignment.repository):
        raise Conflict(
            f"{assignment.stage.agent} ended without a review of {assignment.base[:10]}: a verdict, approved "
            "or rejected, is all that this stage takes from its agent"
        )


async def _review(house: House, assignment: Assignment, review: dict[str, Any]) -> None:
    request = await house.forge.pull_request(
        assignment.repository, assignment.branch, assignment.project.default_branch
    )
    if request is None:
        raise Conflict(f"{assignment.stage.agent} reviewed {assignment.branch}, which has no pull request.")
    await house.forge.review(
        assignment.repository,
        request.number,
        assignment.stage.agent,
        Verdict(review["verdict"]),
        review.get("comment") or "",
        assignment.base,
    )


@step("gate", seconds=120, retries=3, run_name="{gate}")
async def ask_gate(house: House, work: StageWork, gate: str) -> Answer:
    """Put one gate's question to the code host and record the answer."""
    assignment = await work.assignment()
    answer = await ask(house.forge, gate, assignment.asks(gate))
    await work.gate_answered(gate, answer, assignment.snapshot)
    if answer.verdict is GateVerdict.PENDING and gate == "check_review_approved":
        await _must_be_awaited(house, work, assignment, answer)
    return answer


async def _must_be_awaited(house: House, work: StageWork, assignment: Assignment, answer: Answer) -> None:
    """Where only the stage's agent reviews, it is asked again: nobody else would ever answer."""
    if not only_reads(work.stage) or await house.forge.has_people(assignment.repository):
        return
    what = f"neither approved nor rejected {assignment.base[:10]}"
    if answer.commit != assignment.base:
        what = f"reviewed {assignment.base[:10]}, and {assignment.branch} moved on meanwhile"
    await work.publish_failed(f"{answer.reason}: {work.stage.agent} {what}")


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
