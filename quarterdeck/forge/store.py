"""All queries of the forge's tables."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, or_, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.forge.model import CIRun, PullRequest, Review
from quarterdeck.forge.protocol import CIState


async def lock_repository(session: AsyncSession, repository: str) -> None:
    """Be alone with a repository's numbers and folder until the command ends."""
    key = func.hashtextextended(f"forge:{repository}", 0)
    await session.exec(select(func.pg_advisory_xact_lock(key)))


async def next_number(session: AsyncSession, repository: str) -> int:
    """The number of the next pull request; only under `lock_repository`."""
    query = select(func.max(col(PullRequest.number))).where(col(PullRequest.repository) == repository)
    return ((await session.exec(query)).one() or 0) + 1


async def newest_pull_request(
    session: AsyncSession, repository: str, branch: str, base: str
) -> PullRequest | None:
    """The last one opened to merge a branch into `base`."""
    query = (
        select(PullRequest)
        .where(col(PullRequest.repository) == repository)
        .where(col(PullRequest.branch) == branch, col(PullRequest.base) == base)
        .order_by(col(PullRequest.number).desc())
        .limit(1)
    )
    return (await session.exec(query)).first()


async def pull_request(
    session: AsyncSession, repository: str, number: int, *, lock: bool = False
) -> PullRequest | None:
    """One by its number."""
    query = select(PullRequest).where(
        col(PullRequest.repository) == repository, col(PullRequest.number) == number
    )
    return (await session.exec(query.with_for_update() if lock else query)).first()


async def numbers(session: AsyncSession, repository: str) -> Sequence[int]:
    """The numbers of all pull requests of a repository."""
    return (
        await session.exec(select(PullRequest.number).where(col(PullRequest.repository) == repository))
    ).all()


async def reviews(session: AsyncSession, pull_request_id: UUID) -> Sequence[Review]:
    """All reviews, oldest first."""
    query = select(Review).where(col(Review.pull_request_id) == pull_request_id)
    return (await session.exec(query.order_by(col(Review.created_at), col(Review.reviewer)))).all()


async def put_review(session: AsyncSession, review: Review) -> None:
    """Add it, or replace what this reviewer said of this commit before; the same again changes nothing."""
    row = insert(Review).values(review.model_dump())
    new = row.excluded
    changed = or_(col(Review.verdict) != new.verdict, col(Review.comment) != new.comment)
    await session.exec(
        row.on_conflict_do_update(
            index_elements=["pull_request_id", "reviewer", "commit"],
            set_={"verdict": new.verdict, "comment": new.comment, "created_at": new.created_at},
            where=changed,
        )
    )


async def ci_runs(session: AsyncSession, repository: str, commit: str) -> Sequence[CIRun]:
    """All CI runs of a commit."""
    query = select(CIRun).where(col(CIRun.repository) == repository, col(CIRun.commit) == commit)
    return (await session.exec(query.order_by(col(CIRun.context)))).all()


async def add_ci_run(session: AsyncSession, run: CIRun) -> bool:
    """False if this commit has this run already."""
    row = insert(CIRun).values(run.model_dump()).on_conflict_do_nothing()
    return (await session.exec(row.returning(col(CIRun.id)))).first() is not None


async def ci_run(session: AsyncSession, run: CIRun) -> CIRun | None:
    """What is kept of a planned run, locked."""
    query = select(CIRun).where(
        col(CIRun.repository) == run.repository,
        col(CIRun.commit) == run.commit,
        col(CIRun.context) == run.context,
    )
    return (await session.exec(query.with_for_update())).first()


async def waiting_ci_run(session: AsyncSession, now: datetime) -> CIRun | None:
    """The oldest run that nobody holds, locked; runs that somebody takes at this moment are passed over."""
    query = (
        select(CIRun)
        .where(col(CIRun.state) == CIState.PENDING)
        .where(or_(col(CIRun.leased_until).is_(None), col(CIRun.leased_until) <= now))
        .order_by(col(CIRun.created_at), col(CIRun.id))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return (await session.exec(query)).first()


async def leased_ci_runs(session: AsyncSession) -> list[CIRun]:
    """The runs that somebody holds or held when he died."""
    query = select(CIRun).where(col(CIRun.state) == CIState.PENDING, col(CIRun.leased_until).is_not(None))
    return list((await session.exec(query)).all())


async def end_ci_leases(session: AsyncSession, leases: Collection[str], now: datetime) -> None:
    """As if these had run out; a run that somebody else took meanwhile is under another one."""
    await session.exec(update(CIRun).where(col(CIRun.leased_by).in_(leases)).values(leased_until=now))


async def held_ci_run(session: AsyncSession, identity: UUID, lease: str) -> CIRun | None:
    """The run, locked, if this lease is still the newest one on it and it has not ended."""
    query = select(CIRun).where(
        col(CIRun.id) == identity, col(CIRun.leased_by) == lease, col(CIRun.state) == CIState.PENDING
    )
    return (await session.exec(query.with_for_update())).first()
