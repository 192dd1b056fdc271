"""What people do to an item by hand, inside one command: stop it, try it again, put it back."""

from dataclasses import dataclass
from typing import Any

from quarterdeck.board.cards import Card
from quarterdeck.board.model import State
from quarterdeck.board.service import card_within, must_be_current
from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.identity import Caller
from quarterdeck.pipeline import rules, store, transitions
from quarterdeck.pipeline.pipelines import Pipelines
from quarterdeck.pipeline.refusals import must_be_movable, must_be_ours


@dataclass(frozen=True)
class Way:
    """Where an item is put back to, the words for its agent, and the version that was read."""

    stage: str
    comment: str = ""
    version: int | None = None


async def cancel(unit: Unit, key: str, caller: Caller, comment: str) -> Card:
    """See `Engine.cancel`."""
    item = await store.item_for_update(unit.session, key)
    if not rules.may_be_cancelled(item.state):
        raise Conflict(f"{key} is {item.state.value} already.", "Nothing to do.", code="item_final")
    item.state, item.wake_at, item.move = State.CANCELLED, None, None
    item.finished_at = unit.now
    await transitions.withdraw(unit, item, caller, "cancelled")
    transitions.touch(unit, item)
    unit.record("item_cancelled", item=key, by=caller.name, comment=comment)
    return await card_within(unit, item)


async def retry(unit: Unit, pipelines: Pipelines, key: str, caller: Caller, comment: str) -> Card:
    """See `Engine.retry`."""
    item = await store.item_for_update(unit.session, key)
    if not rules.may_be_retried(item.state):
        raise Conflict(
            f"{key} is {item.state.value}: only blocked or cancelled items can be retried.",
            "Wait for its agent, or cancel it first.",
            code="not_blocked",
        )
    must_be_ours(item)
    _, stage = await pipelines.way_of(unit.session, item)
    words = f"retried by {caller.name}: {comment}" if comment else ""
    await transitions.put(unit, item, rules.retried(transitions.standing(item), stage, words))
    unit.record("item_retried", item=key, by=caller.name, stage=item.stage, comment=comment)
    return await card_within(unit, item)


async def move(unit: Unit, pipelines: Pipelines, key: str, caller: Caller, way: Way) -> Card:
    """See `Engine.move`."""
    item = await store.item_for_update(unit.session, key)
    must_be_current(item, way.version)
    must_be_ours(item)
    must_be_movable(item, is_lost=not await pipelines.has_stage_of(unit.session, item))
    stage = await pipelines.way_back(unit.session, item, way.stage)
    left, note = item.stage, f"moved by {caller.name}: {way.comment}".rstrip(": ")
    await transitions.withdraw(unit, item, caller, "moved")
    await transitions.put(unit, item, rules.moved_by_hand(transitions.standing(item), stage, note))
    unit.record("item_moved", item=key, by=caller.name, stage=way.stage, comment=way.comment)
    if left != way.stage:
        change: dict[str, Any] = {"from": left, "to": way.stage, "agent": rules.starter(stage)}
        unit.record("stage_changed", item=key, **change)
    return await card_within(unit, item)
