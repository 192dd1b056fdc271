"""Work of another source as an item of ours, so that its run has a slot, a log, a cost and a history.

The item belongs to no pipeline that an engine moves: it runs while its run goes on, and waits between runs
(docs/decisions/0015-adopted-work.md). Its run is opened here and followed by whoever follows runs that were
asked for by hand.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sqlmodel import col, select

from quarterdeck.board import store as board_store
from quarterdeck.board.model import OUTSIDE, Priority, Project, State, WorkItem
from quarterdeck.crew.assigning import assign
from quarterdeck.crew.model import ASSIGNED
from quarterdeck.crew.prompt import data
from quarterdeck.crew.service import Crew
from quarterdeck.heartbeat.overview import ADOPTED, Piece
from quarterdeck.heartbeat.progress import NO_PROGRESS, Progress
from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.ids import item_key

PROJECT = "HB"
"""The project of adopted items; made when the first is adopted."""

PROMPT = """This work was found by your heartbeat in {where}. Nobody is there to answer: begin at once,
proceed on the best reading where something is missing, and do not ask whether to do it. Report what you did,
and what is left to do, at the end, as a task list: `- [x] a finished step`, `- [ ] one that is left`."""

SO_FAR = "Earlier runs of it reported these steps; go on from there:"
ASKED = "Its last run waited for an answer, and nobody is there. Decide it yourself, and say how you decided:"


@dataclass(frozen=True)
class Order:
    """A run that is wanted. The same `key` gives the same run again, whatever happened in between."""

    agent: str
    piece: Piece
    key: str
    limit: timedelta
    item: str | None = None
    progress: Progress = NO_PROGRESS


@dataclass(frozen=True)
class Opened:
    """The run that was opened, and the item it works on."""

    run_id: int
    item: str


class Starter(Protocol):
    """How found work becomes a run, within the transaction that decided on it."""

    async def start(self, unit: Unit, order: Order) -> Opened:
        """Raises `Conflict` (`busy`, `agent_disabled`) when the agent takes nothing up now."""
        ...

    async def cancelled_at(self, unit: Unit, item: str) -> datetime | None:
        """When a person gave the item up; `None` = nobody did."""
        ...

    async def settle(self, unit: Unit, item: str, state: State, why: str = "", todo: str = "") -> None:
        """What became of the item: done, waiting for the next run, or a person's move."""
        ...


class Adoption:
    """The starter of the house."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    async def start(self, unit: Unit, order: Order) -> Opened:
        item = await self._item(unit, order)
        prompt = _prompt(order.piece, order.progress)
        place = (item.id, item.key)
        run = await assign(self._crew, unit, place, order.agent, order.limit, order.key, prompt)
        assert run.id is not None
        _put(unit, item, State.RUNNING)
        return Opened(run.id, item.key)

    async def _item(self, unit: Unit, order: Order) -> WorkItem:
        known = await board_store.item(unit.session, order.item, lock=True) if order.item else None
        if known is not None:
            return known
        project = await _project(unit)
        number = await board_store.take_number(unit.session, project.id)
        first = order.piece.first
        item = WorkItem(
            project_id=project.id,
            number=number,
            key=item_key(project.key, number),
            title=first.title[:300],
            description=first.description,
            priority=_priority(first.priority),
            labels=[ADOPTED, *(str(place.ref) for place in order.piece.places)],
            assignee=order.agent,
            reporter=(order.piece.creator or "")[:50] or None,
            created_at=unit.now,
            updated_at=unit.now,
            pipeline=OUTSIDE,
            stage=ASSIGNED,
            state=State.RUNNING,
        )
        unit.session.add(item)
        await unit.session.flush()
        unit.record("item_filed", item=item.key, title=item.title, stage=item.stage, by=order.agent)
        return item

    async def cancelled_at(self, unit: Unit, item: str) -> datetime | None:
        row = await board_store.item(unit.session, item, lock=True)
        return row.finished_at or unit.now if row is not None and row.state is State.CANCELLED else None

    async def settle(self, unit: Unit, item: str, state: State, why: str = "", todo: str = "") -> None:
        row = await board_store.item(unit.session, item, lock=True)
        if row is None or row.state is State.CANCELLED:
            return
        _put(unit, row, state)
        if state is State.BLOCKED:
            row.move = {"whose": "owner", "since": unit.now.isoformat(), "why": why, "todo": todo}


def _put(unit: Unit, item: WorkItem, state: State) -> None:
    item.state, item.move = state, None
    item.finished_at = unit.now if state is State.DONE else None
    item.version += 1
    item.updated_at = unit.now
    unit.session.add(item)
    unit.wake("items", item.key)


async def _project(unit: Unit) -> Project:
    row = Project(key=PROJECT, name="Found by heartbeats", pipeline=OUTSIDE, created_at=unit.now)
    await board_store.add_project(unit.session, row)
    return (await unit.session.exec(select(Project).where(col(Project.key) == PROJECT))).one()


def _priority(said: str | None) -> Priority:
    word = {"critical": "urgent", "normal": "medium"}.get((said or "").lower(), (said or "").lower())
    return Priority(word) if word in {priority.value for priority in Priority} else Priority.NONE


def _prompt(piece: Piece, progress: Progress) -> str:
    where = ", ".join(f"{p.ref.source} ({p.shown or p.ref.id})" for p in piece.places)
    parts = [PROMPT.format(where=where)]
    if steps := progress.task_list():
        parts += [SO_FAR, data("steps", steps)]
    if progress.asked:
        parts += [ASKED, data("question", progress.asked)]
    return "\n\n".join(parts)
