"""All queries of the pipeline room."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    or_,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from quarterdeck.board.model import FINAL, OUTSIDE, ItemDependency, Priority, Project, State, WorkItem
from quarterdeck.board.store import dependencies_done
from quarterdeck.crew.model import ASSIGNED, AgentRun, RunState
from quarterdeck.kernel.errors import NotFound
from quarterdeck.pipeline.model import Approval, Claim, CommitNews, GateCheck, StoredPipeline
from quarterdeck.pipeline.rules import Place

_RANK = {priority: rank for rank, priority in enumerate(Priority)}


async def pipelines(session: AsyncSession) -> list[StoredPipeline]:
    return list((await session.exec(select(StoredPipeline).order_by(col(StoredPipeline.name)))).all())


async def pipeline(session: AsyncSession, name: str) -> StoredPipeline | None:
    statement = select(StoredPipeline).where(col(StoredPipeline.name) == name)
    return (await session.exec(statement)).one_or_none()


async def projects_by_pipeline(session: AsyncSession) -> dict[str, list[str]]:
    """The keys of the projects that file into each pipeline; archived ones file nothing."""
    files = (~col(Project.archived), col(Project.pipeline) != OUTSIDE)
    wanted = select(Project.pipeline, Project.key).where(*files).order_by(col(Project.key))
    users: dict[str, list[str]] = {}
    for pipeline, key in await session.exec(wanted):
        users.setdefault(pipeline, []).append(key)
    return users


async def pipelines_of_open_items(session: AsyncSession) -> Sequence[str]:
    is_open = col(WorkItem.state).not_in(FINAL)
    return (await session.exec(select(WorkItem.pipeline).where(is_open).distinct())).all()


async def item_for_update(session: AsyncSession, key: str) -> WorkItem:
    """The item, locked until the transaction ends. Raises `NotFound`."""
    statement = select(WorkItem).where(col(WorkItem.key) == key).with_for_update()
    item = (await session.exec(statement)).one_or_none()
    if item is None:
        raise await _unknown_item(session, key)
    return item


async def item(session: AsyncSession, key: str) -> WorkItem:
    found = (await session.exec(select(WorkItem).where(col(WorkItem.key) == key))).one_or_none()
    if found is None:
        raise await _unknown_item(session, key)
    return found


async def keys_in(session: AsyncSession, state: State) -> Sequence[str]:
    """The items in a state."""
    return (await session.exec(select(WorkItem.key).where(col(WorkItem.state) == state))).all()


async def _unknown_item(session: AsyncSession, key: str) -> NotFound:
    newest = select(WorkItem.key).order_by(col(WorkItem.created_at).desc()).limit(20)
    return NotFound.among("item", key, (await session.exec(newest)).all())


async def project_of(session: AsyncSession, item: WorkItem) -> Project:
    return (await session.exec(select(Project).where(col(Project.id) == item.project_id))).one()


@dataclass(frozen=True)
class Candidate:
    """A (item, stage, round) for which there is something to do.

    `version` is the item's when it was seen; `was_running`: somebody worked on it and stopped.
    """

    key: str
    stage: str
    round: int
    version: int = field(default=0, compare=False)
    was_running: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, item: WorkItem) -> "Candidate":
        return cls(item.key, item.stage, item.round, item.version, item.state is State.RUNNING)


def _held(now: datetime) -> SelectOfScalar[int]:
    return (
        select(1)
        .select_from(Claim)
        .where(
            col(Claim.item_id) == col(WorkItem.id),
            col(Claim.stage) == col(WorkItem.stage),
            col(Claim.round) == col(WorkItem.round),
            col(Claim.leased_until) > now,
        )
        .correlate(WorkItem)
    )


def _of_other_rounds(host: str) -> ColumnElement[bool]:
    """Runs on this host of stages and rounds that their item left, which may still use its work tree.

    They are open, or were given up when this host was away.
    """
    return and_(
        col(AgentRun.item_id) == col(WorkItem.id),
        col(AgentRun.host) == host,
        or_(col(AgentRun.state) != RunState.ENDED, col(AgentRun.given_up)),
        col(AgentRun.stage) != ASSIGNED,
        or_(col(AgentRun.stage) != col(WorkItem.stage), col(AgentRun.round) != col(WorkItem.round)),
    )


def _at_work_on_another(host: str) -> ColumnElement[bool]:
    """Runs of the item's present round whose end only their own host sees."""
    return and_(
        col(AgentRun.item_id) == col(WorkItem.id),
        col(AgentRun.stage) == col(WorkItem.stage),
        col(AgentRun.round) == col(WorkItem.round),
        col(AgentRun.state) != RunState.ENDED,
        col(AgentRun.host) != host,
    )


async def run_of_another_round(session: AsyncSession, item_id: UUID, host: str) -> AgentRun | None:
    """A run of a round that the item left, which still goes on on this host."""
    statement = select(AgentRun).join(WorkItem, _of_other_rounds(host)).where(col(WorkItem.id) == item_id)
    return (await session.exec(statement.limit(1))).one_or_none()


async def candidates(
    session: AsyncSession,
    now: datetime,
    full: Collection[Place],
    known: Collection[str],
    limit: int,
    host: str,
) -> list[WorkItem]:
    """Items to take up on this host, most urgent first, without the `known` ones.

    In the places that are `full` no agent is free.
    """
    still_worked_on = exists(select(1).where(_of_other_rounds(host)).correlate(WorkItem))
    new = and_(col(WorkItem.state) == State.QUEUED, dependencies_done(), ~still_worked_on)
    if full:
        new = and_(new, tuple_(col(WorkItem.pipeline), col(WorkItem.stage)).not_in(list(full)))
    due = or_(col(WorkItem.wake_at).is_(None), col(WorkItem.wake_at) <= now)
    elsewhere = exists(select(1).where(_at_work_on_another(host)).correlate(WorkItem))
    going_on = and_(col(WorkItem.state).in_([State.RUNNING, State.WAITING_GATE]), ~elsewhere)
    statement = (
        select(WorkItem)
        .where(or_(new, going_on), due, col(WorkItem.pipeline) != OUTSIDE, ~exists(_held(now)))
        .where(col(WorkItem.key).not_in(list(known)))
        .order_by(
            case({State.QUEUED.value: 1}, value=col(WorkItem.state), else_=0),
            case({p.value: r for p, r in _RANK.items()}, value=col(WorkItem.priority)),
            col(WorkItem.created_at),
        )
        .limit(limit)
    )
    return list((await session.exec(statement)).all())


async def about_to_begin(session: AsyncSession, keys: Collection[str]) -> list[Place]:
    """Where those of these items stand whose agent has not begun its round yet."""
    begun = select(1).where(
        col(AgentRun.item_id) == col(WorkItem.id),
        col(AgentRun.stage) == col(WorkItem.stage),
        col(AgentRun.round) == col(WorkItem.round),
    )
    statement = select(WorkItem.pipeline, WorkItem.stage).where(
        col(WorkItem.key).in_(list(keys)),
        col(WorkItem.state).in_([State.QUEUED, State.RUNNING]),
        ~exists(begun.correlate(WorkItem)),
    )
    return list((await session.exec(statement)).all())


async def open_needs(session: AsyncSession, item_id: UUID) -> Sequence[str]:
    """The keys of what an item depends on and that is not done."""
    needed = (
        select(WorkItem.key)
        .join(ItemDependency, col(ItemDependency.needs_id) == col(WorkItem.id))
        .where(col(ItemDependency.item_id) == item_id, col(WorkItem.state) != State.DONE)
    )
    return (await session.exec(needed.order_by(col(WorkItem.key)))).all()


async def hopeless(session: AsyncSession) -> list[tuple[WorkItem, str]]:
    """Queued items that need a cancelled one, locked, each with the key of what it needs."""
    needed = aliased(WorkItem)
    statement = (
        select(WorkItem, needed.key)
        .join(ItemDependency, col(ItemDependency.item_id) == col(WorkItem.id))
        .join(needed, col(needed.id) == col(ItemDependency.needs_id))
        .where(col(WorkItem.state) == State.QUEUED, col(needed.state) == State.CANCELLED)
        .with_for_update(of=WorkItem, skip_locked=True)
    )
    return list((await session.exec(statement)).all())


async def next_due(session: AsyncSession, now: datetime) -> datetime | None:
    """When the next waiting item wants to be looked at."""
    statement = select(func.min(WorkItem.wake_at)).where(
        col(WorkItem.state).in_([State.QUEUED, State.WAITING_GATE, State.RUNNING]),
        col(WorkItem.wake_at) > now,
    )
    return (await session.exec(statement)).one()


async def claim_for_update(session: AsyncSession, item_id: UUID, stage: str, round_: int) -> Claim | None:
    statement = select(Claim).where(
        col(Claim.item_id) == item_id, col(Claim.stage) == stage, col(Claim.round) == round_
    )
    return (await session.exec(statement.with_for_update())).one_or_none()


async def claim(session: AsyncSession, claim_id: int) -> Claim:
    return (await session.exec(select(Claim).where(col(Claim.id) == claim_id))).one()


async def open_claims(session: AsyncSession) -> list[Claim]:
    """Claims that somebody holds or held when he died."""
    statement = select(Claim).where(col(Claim.ended_at).is_(None), col(Claim.holder) != "")
    return list((await session.exec(statement)).all())


async def flow_runs_under_way(session: AsyncSession) -> list[str]:
    """The Prefect runs of stages that are worked on, or were when their process died."""
    statement = (
        select(Claim.flow_run)
        .join(WorkItem, col(WorkItem.id) == col(Claim.item_id))
        .where(
            col(WorkItem.state) == State.RUNNING,
            col(WorkItem.stage) == col(Claim.stage),
            col(WorkItem.round) == col(Claim.round),
            col(Claim.ended_at).is_(None),
            col(Claim.interrupted) == "",
            col(Claim.flow_run) != "",
        )
    )
    return list((await session.exec(statement)).all())


async def free_claims(session: AsyncSession, fences: Mapping[int | None, int], now: datetime) -> None:
    """End the leases of these claims, unless somebody took one meanwhile (its fence is higher then)."""
    wanted = tuple_(col(Claim.id), col(Claim.fence)).in_(list(fences.items()))
    await session.exec(update(Claim).where(wanted).values(holder="", leased_until=now))


async def claim_of_flow(session: AsyncSession, flow_run: str) -> Claim | None:
    statement = select(Claim).where(col(Claim.flow_run) == flow_run).order_by(col(Claim.id).desc()).limit(1)
    return (await session.exec(statement)).one_or_none()


async def rounds_so_far(session: AsyncSession, item_id: UUID, stage: str) -> int:
    """The highest round of a stage that was ever claimed."""
    statement = select(func.max(Claim.round)).where(col(Claim.item_id) == item_id, col(Claim.stage) == stage)
    return (await session.exec(statement)).one() or 0


async def stages_so_far(session: AsyncSession, item_id: UUID) -> Sequence[str]:
    """The stages that were ever claimed."""
    return (await session.exec(select(Claim.stage).where(col(Claim.item_id) == item_id).distinct())).all()


async def run_of(session: AsyncSession, item_id: UUID, stage: str, round_: int) -> AgentRun | None:
    statement = (
        select(AgentRun)
        .where(col(AgentRun.item_id) == item_id, col(AgentRun.stage) == stage, col(AgentRun.round) == round_)
        .order_by(col(AgentRun.id).desc())
        .limit(1)
    )
    return (await session.exec(statement)).one_or_none()


async def interrupted_runs(session: AsyncSession, host: str) -> list[tuple[AgentRun, str]]:
    """Open runs on this host whose stage run was cancelled from outside, each with why."""
    statement = (
        select(AgentRun, Claim.interrupted)
        .join(
            Claim,
            and_(
                col(Claim.item_id) == col(AgentRun.item_id),
                col(Claim.stage) == col(AgentRun.stage),
                col(Claim.round) == col(AgentRun.round),
            ),
        )
        .where(
            col(AgentRun.state) != RunState.ENDED,
            col(AgentRun.host) == host,
            col(Claim.interrupted) != "",
        )
    )
    return list((await session.exec(statement)).all())


async def stray_runs(session: AsyncSession) -> list[AgentRun]:
    """Runs still open although their item left that stage and round: cancelled, or moved by a person."""
    statement = (
        select(AgentRun)
        .join(WorkItem, col(WorkItem.id) == col(AgentRun.item_id))
        .where(
            col(AgentRun.state) != RunState.ENDED,
            or_(
                and_(
                    col(AgentRun.stage) != ASSIGNED,
                    or_(
                        col(WorkItem.stage) != col(AgentRun.stage),
                        col(WorkItem.round) != col(AgentRun.round),
                        col(WorkItem.state) != State.RUNNING,
                    ),
                ),
                and_(col(AgentRun.stage) == ASSIGNED, col(WorkItem.state).in_(FINAL)),
            ),
        )
    )
    return list((await session.exec(statement)).all())


async def checks_of(session: AsyncSession, item_id: UUID, stage: str, round_: int) -> list[GateCheck]:
    statement = select(GateCheck).where(
        col(GateCheck.item_id) == item_id, col(GateCheck.stage) == stage, col(GateCheck.round) == round_
    )
    return list((await session.exec(statement)).all())


async def snapshot(session: AsyncSession) -> str:
    """Which transactions can be seen now (PostgreSQL's `pg_snapshot`, as text)."""
    connection = await session.connection()
    return str((await connection.execute(text("select pg_current_snapshot()::text"))).scalar_one())


async def has_news(session: AsyncSession, commit: str, since: str) -> bool:
    """Was anything said about a commit that could not be seen in the snapshot `since`?

    Locks the commit's row: who says something later finds what this transaction writes.
    """
    await session.exec(insert(CommitNews).values(commit=commit, tx=0).on_conflict_do_nothing())
    statement = text(
        "select not pg_visible_in_snapshot(tx::text::xid8, cast(:since as pg_snapshot))"
        " from commit_news where commit = :commit for update"
    )
    connection = await session.connection()
    return bool((await connection.execute(statement, {"commit": commit, "since": since})).scalar_one())


async def set_news(session: AsyncSession, commit: str) -> None:
    """This transaction says something about a commit."""
    tx = cast(cast(func.pg_current_xact_id(), Text), BigInteger)
    fresh = insert(CommitNews).values(commit=commit, tx=tx)
    await session.exec(fresh.on_conflict_do_update(index_elements=["commit"], set_={"tx": tx}))


async def waiting_for_commit(session: AsyncSession, commit: str) -> list[WorkItem]:
    """Items that wait for a gate on this commit, locked."""
    statement = (
        select(WorkItem)
        .join(
            GateCheck,
            and_(
                col(GateCheck.item_id) == col(WorkItem.id),
                col(GateCheck.stage) == col(WorkItem.stage),
                col(GateCheck.round) == col(WorkItem.round),
            ),
        )
        .where(col(WorkItem.state) == State.WAITING_GATE, col(GateCheck.commit) == commit)
        .with_for_update(of=WorkItem)
    )
    return list((await session.exec(statement)).unique().all())


async def waiting_for_news(
    session: AsyncSession, commits: Collection[str], keys: Collection[str], projects: Collection[UUID]
) -> list[WorkItem]:
    """Items of these projects that wait for a gate, on one of the commits or as one of the keys, locked."""
    asked = select(1).where(
        col(GateCheck.item_id) == col(WorkItem.id),
        col(GateCheck.stage) == col(WorkItem.stage),
        col(GateCheck.round) == col(WorkItem.round),
        col(GateCheck.commit).in_(list(commits)),
    )
    statement = select(WorkItem).where(
        col(WorkItem.state) == State.WAITING_GATE,
        col(WorkItem.project_id).in_(list(projects)),
        or_(col(WorkItem.key).in_(list(keys)), exists(asked.correlate(WorkItem))),
    )
    return list((await session.exec(statement.order_by(col(WorkItem.key)).with_for_update())).all())


async def was_published(session: AsyncSession, commit: str) -> bool:
    """Was this commit pushed by the desk?"""
    found = select(Claim.id).where(col(Claim.head) == commit).limit(1)
    return (await session.exec(found)).first() is not None


async def projects(session: AsyncSession) -> list[Project]:
    """All projects on which there can be work: what is open in an archived one goes on."""
    is_open = select(1).where(col(WorkItem.project_id) == col(Project.id), col(WorkItem.state).not_in(FINAL))
    at_work = exists(is_open.correlate(Project))
    return list((await session.exec(select(Project).where(or_(~col(Project.archived), at_work)))).all())


async def approval(session: AsyncSession, approval_id: UUID, of: UUID | None = None) -> Approval:
    """A request for a decision; with `of` only if it is this item's. Raises `NotFound`."""
    found = (await session.exec(select(Approval).where(col(Approval.id) == approval_id))).one_or_none()
    if found is None or of not in (None, found.item_id):
        raise NotFound(
            f"There is no approval {approval_id}.",
            "The item says which one waits: `quarterdeck item show`, or `move.approval` over HTTP.",
        )
    return found


async def newest_approval(session: AsyncSession, item_id: UUID) -> Approval | None:
    """The open one first: a clock may be set back."""
    is_open = col(Approval.decided_at).is_(None)
    statement = (
        select(Approval)
        .where(col(Approval.item_id) == item_id)
        .order_by(is_open.desc(), col(Approval.requested_at).desc())
        .limit(1)
    )
    return (await session.exec(statement)).one_or_none()


async def last_decision(session: AsyncSession, item_id: UUID) -> datetime | None:
    """When a request of this item was last decided or withdrawn."""
    statement = select(func.max(Approval.decided_at)).where(col(Approval.item_id) == item_id)
    return (await session.exec(statement)).one()


async def approvals_without_form(session: AsyncSession) -> list[Approval]:
    """Requests that the Prefect UI does not show yet."""
    statement = select(Approval).where(col(Approval.decided_at).is_(None), col(Approval.flow_run) == "")
    return list((await session.exec(statement)).all())


async def open_forms(session: AsyncSession) -> list[Approval]:
    """Requests that wait for a person and have a form."""
    statement = select(Approval).where(col(Approval.decided_at).is_(None), col(Approval.flow_run) != "")
    return list((await session.exec(statement)).all())


async def forms_to_close(session: AsyncSession) -> list[Approval]:
    """Decided requests whose form still stands in the Prefect UI."""
    statement = select(Approval).where(
        col(Approval.decided_at).is_not(None),
        col(Approval.flow_run) != "",
        col(Approval.form_closed).is_(False),
    )
    return list((await session.exec(statement)).all())
