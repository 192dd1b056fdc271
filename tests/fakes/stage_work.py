"""Hands that do an agent's and a gate's part of a stage, so that a test can begin wherever it wants to."""

from datetime import timedelta

from sqlmodel import col, select

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.board.model import WorkItem
from quarterdeck.crew.model import AgentRun
from quarterdeck.crew.runtime import Outcome
from quarterdeck.house import House
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.journal import Event
from quarterdeck.pipeline.gates import Answer
from quarterdeck.pipeline.model import GateVerdict
from quarterdeck.pipeline.rules import Advance, AskApproval, CheckGate
from quarterdeck.pipeline.work import StageWork

OWNER = owner("test")

PIPELINE = """
name: default
stages:
  - {name: analysis, agent: analyst, gates: [{check_documents: [brd]}], approval: true}
  - {name: development, agent: developer, gates: [check_ci_green], rounds: 1}
  - {name: merge, agent: engine, gates: [check_merged], fails_to: development}
"""


async def filed(house: House, **more: object) -> str:
    if not (await house.board.projects()).items:
        await house.board.create_project(OWNER, ProjectDraft(key="ET", name="Enduro"))
    draft = Draft.model_validate({"project": "ET", "title": "Greet"} | more)
    return (await house.board.file(OWNER, draft)).key


async def taken(house: House, key: str, holder: str | None = None) -> StageWork:
    return await house.engine.claim(await house.engine.current(key), holder=holder)


def well_ended(run: AgentRun) -> Outcome:
    return Outcome(exit_code=0, started_at=run.created_at, ended_at=run.created_at)


async def finish_run(work: StageWork, **how: object) -> None:
    """Let the stage's agent end as told, by default well, and publish."""
    run = await work.open_run("0" * 40)
    assert run.id is not None
    now = run.created_at
    await work.run_started(run.id)
    outcome = {"exit_code": 0, "started_at": now, "ended_at": now + timedelta(minutes=8)} | how
    await work.run_ended(run.id, Outcome(**outcome))  # type: ignore[arg-type]
    if outcome["exit_code"] == 0:
        await work.published("1" * 40)


async def pass_stage(house: House, key: str) -> None:
    """Work on the item's stage until every gate passed, and record the decision."""
    work = await taken(house, key)
    if not work.stage.is_engine:
        await finish_run(work)
    while isinstance(step := await work.next_step(), CheckGate):
        snapshot = (await work.assignment()).snapshot
        await work.gate_answered(step.gate, Answer(GateVerdict.PASSED), snapshot)
    assert isinstance(step, Advance | AskApproval)
    await work.record(step)


async def kinds(house: House, key: str) -> list[str]:
    async with house.database.read() as session:
        wanted = select(Event.kind).where(col(Event.item_key) == key).order_by(col(Event.id))
        return list((await session.exec(wanted)).all())


async def state(house: House, key: str) -> WorkItem:
    async with house.database.read() as session:
        return (await session.exec(select(WorkItem).where(col(WorkItem.key) == key))).one()
