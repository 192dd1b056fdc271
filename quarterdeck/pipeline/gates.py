"""The gates: what each asks of the code host, and what its answers mean.

FAILED can be repaired by the stage's owner; STUCK needs a person; PENDING waits for something outside.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from quarterdeck.forge.in_time import LONGEST, in_time
from quarterdeck.forge.protocol import CIState, CombinedStatus, Forge, PullRequestInfo, Verdict
from quarterdeck.kernel.errors import Conflict, Forbidden
from quarterdeck.pipeline.definition import Stage
from quarterdeck.pipeline.model import GateVerdict

NO_CI_PATIENCE = timedelta(minutes=2)
"""How long a commit that no CI knows is waited for before a person is told."""


@dataclass(frozen=True)
class Asked:
    """Where a gate looks."""

    item_key: str
    title: str
    repository: str
    branch: str
    base: str
    needs: tuple[str, ...] = ()
    wants_ci: bool = False
    """Nothing is merged that CI did not pass."""


@dataclass(frozen=True)
class Answer:
    """What a gate says; `patience` overrides the stage's for a pending answer."""

    verdict: GateVerdict
    reason: str = ""
    commit: str = ""
    patience: timedelta | None = None


Check = Callable[[Forge, Asked], Awaitable[Answer]]


def documents_folder(item_key: str) -> str:
    """Where an item's documents live on its branch."""
    return f"docs/items/{item_key}"


async def check_documents(forge: Forge, asked: Asked) -> Answer:
    """Do the named documents exist on the branch, with something in them?"""
    complaints = [await _wrong_with(forge, asked, f"{name}.md") for name in asked.needs]
    if any(complaints):
        return Answer(GateVerdict.FAILED, ", ".join(filter(None, complaints)))
    return Answer(GateVerdict.PASSED)


async def _wrong_with(forge: Forge, asked: Asked, name: str) -> str:
    path = f"{documents_folder(asked.item_key)}/{name}"
    try:
        content = await forge.read_file(asked.repository, asked.branch, path)
    except Conflict as error:
        if error.code not in ("file_not_text", "file_too_large"):
            raise
        todo = error.instruction.rstrip(".")
        return f"{error.detail.rstrip('.')}: {todo[:1].lower()}{todo[1:]}"
    if content is None:
        return f"{name} is missing"
    return "" if content.strip() else f"{name} is empty"


async def check_pr_open(forge: Forge, asked: Asked) -> Answer:
    """Is there an open pull request of the branch into the one that it is merged into?"""
    request = await forge.pull_request(asked.repository, asked.branch, asked.base)
    if request is None:
        return Answer(GateVerdict.FAILED, f"no pull request of {asked.branch} into {asked.base}")
    if not request.is_open and not await _is_merged_whole(forge, asked, request):
        return Answer(GateVerdict.FAILED, f"pull request #{request.number} is closed", request.head)
    return Answer(GateVerdict.PASSED, commit=request.head)


async def _is_merged_whole(forge: Forge, asked: Asked, request: PullRequestInfo) -> bool:
    """Did somebody merge it in the code host, and is nothing newer on the branch?

    Whoever may do that there has decided; there is nothing left to review or to propose.
    """
    if not request.is_merged:
        return False
    return await forge.head(asked.repository, asked.branch) in (None, request.head)


async def check_ci_green(forge: Forge, asked: Asked) -> Answer:
    """Is CI green on the newest commit of the branch? Results of older commits are never looked at."""
    head = await forge.head(asked.repository, asked.branch) or await _merged_head(forge, asked)
    if head is None:
        return Answer(GateVerdict.FAILED, f"there is no branch {asked.branch}")
    return await _ci_of(forge, asked, head)


async def _ci_of(forge: Forge, asked: Asked, head: str) -> Answer:
    status = await forge.combined_status(asked.repository, head)
    if status.state is CIState.SUCCESS:
        return Answer(GateVerdict.PASSED, commit=head)
    if status.total == 0:
        reason = f"no CI has reported on {head[:10]} (total_count 0)"
        return Answer(GateVerdict.PENDING, reason, head, NO_CI_PATIENCE)
    if status.state is CIState.PENDING:
        return Answer(GateVerdict.PENDING, "CI state: pending", head)
    return await _red(forge, asked, status)


async def _merged_head(forge: Forge, asked: Asked) -> str | None:
    """What was merged of a branch that is gone: code hosts delete branches after a merge."""
    request = await forge.pull_request(asked.repository, asked.branch, asked.base)
    return request.head if request is not None and request.is_merged else None


async def _red(forge: Forge, asked: Asked, status: CombinedStatus) -> Answer:
    reason = f"CI state: {status.state.value}" + (f" ({status.summary})" if status.summary else "")
    base = await forge.head(asked.repository, asked.base)
    if base is not None:
        below = await forge.combined_status(asked.repository, base)
        if below.state in (CIState.FAILURE, CIState.ERROR):
            reason += f"; it is red on {asked.base} too"
            return Answer(GateVerdict.STUCK, reason, status.commit)
    return Answer(GateVerdict.FAILED, reason, status.commit)


async def check_review_approved(forge: Forge, asked: Asked) -> Answer:
    """Did a reviewer approve exactly the newest commit, and nobody reject it?"""
    request = await forge.pull_request(asked.repository, asked.branch, asked.base)
    if request is not None and await _is_merged_whole(forge, asked, request):
        return Answer(GateVerdict.PASSED, "merged by hand", request.head)
    if request is None or not request.is_open:
        return Answer(GateVerdict.FAILED, f"no open pull request of {asked.branch} into {asked.base}")
    verdicts = {review.verdict: review for review in request.reviews if review.commit == request.head}
    if Verdict.REJECTED in verdicts:
        review = verdicts[Verdict.REJECTED]
        return Answer(GateVerdict.FAILED, f"{review.reviewer}: {review.comment or 'rejected'}", request.head)
    if Verdict.APPROVED in verdicts:
        return Answer(GateVerdict.PASSED, commit=request.head)
    return Answer(GateVerdict.PENDING, f"no review of {request.head[:10]}", request.head)


def only_reads(stage: Stage) -> bool:
    """Is a review all that this stage wants of its agent?

    Not if a gate asks for something that it makes; nor if failures come back to it: then it makes what
    others review.
    """
    gates = {gate.name for gate in stage.gates}
    makes = gates & {"check_documents", "check_pr_open"} or stage.back == stage.name
    return "check_review_approved" in gates and not makes


async def check_merged(forge: Forge, asked: Asked) -> Answer:
    """Merge the pull request at the approved head, unless that happened already."""
    request = await forge.pull_request(asked.repository, asked.branch, asked.base)
    if request is None:
        return Answer(GateVerdict.FAILED, f"no pull request of {asked.branch} into {asked.base}")
    if request.is_merged:
        return Answer(GateVerdict.PASSED, commit=request.merged_commit or request.head)
    if not request.is_open:
        return Answer(GateVerdict.FAILED, f"pull request #{request.number} was closed without a merge")
    approved = approved_commit(request)
    if approved is None:
        return Answer(GateVerdict.FAILED, f"{request.head[:10]} is not approved", request.head)
    if asked.wants_ci:  # the branch may have moved while it was reviewed
        ci = await _ci_of(forge, asked, approved)
        if ci.verdict is not GateVerdict.PASSED:
            return ci
    try:
        merged = await forge.merge(
            asked.repository, request.number, approved, f"{asked.item_key}: {asked.title}"
        )
    except Forbidden as error:
        return Answer(GateVerdict.STUCK, error.detail, approved)
    except Conflict as error:
        return Answer(GateVerdict.FAILED, error.detail, approved)
    return Answer(GateVerdict.PASSED, commit=merged)


def approved_commit(request: PullRequestInfo) -> str | None:
    """The head, if it is approved and not rejected; an approval of an older commit does not count."""
    verdicts = {review.verdict for review in request.reviews if review.commit == request.head}
    return request.head if Verdict.APPROVED in verdicts and Verdict.REJECTED not in verdicts else None


GATES: Mapping[str, Check] = {
    "check_documents": check_documents,
    "check_pr_open": check_pr_open,
    "check_ci_green": check_ci_green,
    "check_review_approved": check_review_approved,
    "check_merged": check_merged,
}


async def ask(forge: Forge, gate: str, asked: Asked, longest: timedelta = LONGEST) -> Answer:
    """One gate's answer. Raises `Unavailable`, also when it takes longer than that, and what is refused."""
    async with in_time(gate, longest):
        return await GATES[gate](forge, asked)
