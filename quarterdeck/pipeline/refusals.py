"""Why the engine does not do what a person asks of an item, and what they can do instead."""

from datetime import datetime

from quarterdeck.board.model import OUTSIDE, State, WorkItem
from quarterdeck.kernel.errors import Conflict
from quarterdeck.pipeline import rules
from quarterdeck.pipeline.model import Approval


def must_be_ours(item: WorkItem) -> None:
    """Raises `Conflict` for items that stand for work of another source."""
    if item.pipeline == OUTSIDE:
        raise Conflict(
            f"{item.key} stands for work of another source.",
            f"Unblock it there: `quarterdeck heartbeat unblock {item.assignee} {item.key}`.",
            code="not_ours",
        )


def must_be_movable(item: WorkItem, *, is_lost: bool) -> None:
    """Raises `Conflict` for items that a person cannot put back any more; see `rules.may_be_moved`."""
    if not rules.may_be_moved(item.state, is_lost=is_lost):
        todo = "Retry it first." if item.state is State.CANCELLED else "File another item for what is left."
        raise Conflict(f"{item.key} is {item.state.value}.", todo, code="item_final")


def must_be_an_answer(said_at: datetime, asked_at: datetime, last_decision: datetime | None) -> None:
    """Raises `Conflict` for words that were said before there was a question."""
    if rules.was_said_before(said_at, asked_at, last_decision):
        raise Conflict(
            "That was said before approval was asked for.",
            "Look at what there is now, and say it again.",
            code="said_before",
        )


def no_longer_asked(key: str, approval: Approval) -> Conflict:
    """Why a request that is not open can be decided no more."""
    if approval.approved is None:
        return Conflict(
            f"{key} does not wait for this approval any more: it was withdrawn.",
            "Nothing to do.",
            code="not_waiting",
            item=key,
        )
    word = "approved" if approval.approved else "rejected"
    return Conflict(
        f"{key} was already decided by {approval.decided_by} ({word}).",
        "Nothing to do.",
        code="already_decided",
        by=approval.decided_by,
    )
