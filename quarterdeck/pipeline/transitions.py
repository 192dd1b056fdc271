"""How a decision becomes state and events: the only place that writes an item's stage, state and round."""

from datetime import timedelta
from typing import Any

from quarterdeck.board.model import FINAL, State, WorkItem
from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.identity import Caller
from quarterdeck.pipeline import store
from quarterdeck.pipeline.rules import Advance, Block, Repair, Standing, moved


def touch(unit: Unit, item: WorkItem) -> None:
    """Every change raises the version and wakes whoever looks after items."""
    item.version += 1
    item.updated_at = unit.now
    unit.session.add(item)
    unit.wake("items", item.key)


def standing(item: WorkItem) -> Standing:
    """The item as the rules see it."""
    return Standing(item.stage, item.state, item.spent, item.note)


async def put(unit: Unit, item: WorkItem, there: Standing) -> None:
    """Write where the rules put the item; a queued one begins the next round of its stage."""
    item.stage, item.state, item.note, item.spent = there.stage, there.state, there.note, dict(there.spent)
    item.move, item.wake_at = None, None
    item.finished_at = unit.now if item.state in FINAL else None
    if item.state is State.QUEUED:
        item.round = 1 + await store.rounds_so_far(unit.session, item.id, item.stage)
    touch(unit, item)


async def go(unit: Unit, item: WorkItem, step: Advance | Repair) -> None:
    """Move the item along its pipeline, forwards or back, and tell it."""
    left = item.stage
    await put(unit, item, moved(standing(item), step))
    if isinstance(step, Repair) and step.pause:
        item.wake_at = unit.now + step.pause
    if step.to != left:
        change: dict[str, Any] = {"from": left, "to": step.to, "agent": step.agent}
        unit.record("stage_changed", item=item.key, **change)
    if item.state is State.DONE:
        unit.record("item_done", item=item.key)


async def withdraw(unit: Unit, item: WorkItem, caller: Caller, why: str) -> None:
    """Nobody is asked any more about an item that a person cancelled or moved."""
    approval = await store.newest_approval(unit.session, item.id)
    if approval is not None and approval.decided_at is None:
        approval.decided_at, approval.decided_by, approval.door = unit.now, caller.name, caller.door
        approval.comment = f"withdrawn: the item was {why}"
        unit.session.add(approval)
        unit.wake("approvals", approval.id)


def block(unit: Unit, item: WorkItem, step: Block, *, whose: str = "owner") -> None:
    """Stop here until a person acts; the item says whose move it is, since when, why, and what to do."""
    item.state, item.wake_at = State.BLOCKED, None
    item.note = step.note or item.note
    item.move = move(unit, whose, step.why, step.todo)
    touch(unit, item)
    unit.record("item_blocked", item=item.key, reason=step.why, whose=whose, todo=step.todo)
    unit.record("error", item=item.key, reason=step.why)


def move(unit: Unit, whose: str, why: str, todo: str) -> dict[str, Any]:
    """Whose move it is, in the form that the API shows."""
    return {"whose": whose, "since": unit.now.isoformat(), "why": why, "todo": todo}


def postpone(unit: Unit, item: WorkItem, pause: timedelta) -> None:
    """Back into the queue for a moment, for example because the agent is busy."""
    item.state, item.wake_at = State.QUEUED, unit.now + pause
    touch(unit, item)
