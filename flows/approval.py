"""A person is asked: the run waits with a form until somebody presses Resume, or another door was first.

The request is our own row; this run is one of the doors to it. Prefect runs the function from the top
after every Resume, so the answers given before are read again.
"""

from uuid import UUID

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from quarterdeck.house import House, at_hand
from quarterdeck.kernel.errors import Conflict, Forbidden, Invalid, Misconfigured, NotFound
from quarterdeck.pipeline.model import Approval
from tasks.approvals import decide


class Decision(RunInput):
    """The form."""

    approve: bool = Field(
        title="Approve", description="Yes: the item goes on. No: it goes back to its agent with your comment."
    )
    comment: str = Field(default="", title="Comment", description="Needed when you do not approve.")
    by: str = Field(default="", title="By", description="Who of the roster decides; empty = the owner.")


@flow(
    name="approval",
    flow_run_name="{item} · approval · {stage} · {round}",
    timeout_seconds=300,
    persist_result=False,
)
async def ask_for_approval(item: str, stage: str, round: int, approval: UUID) -> "State[None]":
    """Show the form until a decision stands; wrong input is shown again with the reason."""
    async with at_hand() as house:
        refused = ""
        while not (ended := await _ended(house, item, approval)):
            answer = await asuspend_flow_run(
                wait_for_input=Decision.with_initial_data(description=_question(item, stage, round, refused))
            )
            try:
                by = await decide(
                    house,
                    item,
                    approved=answer.approve,
                    comment=answer.comment,
                    by=answer.by.strip(),
                    asked=approval,
                )
            except (Invalid, Forbidden, Misconfigured, NotFound) as error:
                refused = str(error)
            except Conflict as error:
                refused = str(error)
                if await _ended(house, item, approval):  # another door was first
                    ended = error.detail
                    break
            else:
                ended = f"{'Approved' if answer.approve else 'Rejected'} by {by}."
                break
    return Completed(message=ended)


async def _ended(house: House, item: str, approval_id: UUID) -> str:
    """Why nobody needs to be asked any more; empty = ask."""
    approval = await house.engine.approval_of(item)
    if approval is None or approval.id != approval_id:
        return f"{item} is no longer asked about: it went on since."
    return verdict(approval)


def verdict(approval: Approval) -> str:
    """What became of a request, in words; empty = it is open."""
    if approval.decided_at is None:
        return ""
    if approval.approved is None:
        return f"Withdrawn by {approval.decided_by}."
    word = "approved" if approval.approved else "rejected"
    return f"Already {word} by {approval.decided_by} ({approval.door})."


def _question(item: str, stage: str, round_: int, refused: str) -> str:
    asked = f"**{item}**: `{stage}` is finished (round {round_}). May the item go on?"
    return f"**Not accepted: {refused}**\n\n{asked}" if refused else asked
