"""All queries of the heartbeat room."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from sqlalchemy import ColumnElement, and_, func, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.crew import rules as crew_rules
from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.heartbeat.model import Pulse, Result, Sweep, Work
from quarterdeck.heartbeat.rules import Spent
from quarterdeck.kernel.journal import Event
from quarterdeck.router.model import CallRow

REMEMBERED = timedelta(days=7)
"""How long finished work is known after it was last seen: a second place of it may turn up when its source is
back, and where nobody closes it, it is still in progress."""

KEPT = timedelta(days=30)
"""How long the record of a sweep is kept; the newest of each agent always."""

WORK_KEPT = timedelta(days=30)
"""How long work is remembered that no source lists any more, since it was last touched."""

EVERYBODY = ""
"""The row of what concerns all agents together: an outage of all sources."""


Places = tuple[tuple[str, str], frozenset[tuple[str, str]]]
"""A piece of work by its row's name, and every place where it stands."""


class Records(Protocol):
    """What the room asks of its rows. Here PostgreSQL answers, in a rehearsal memory."""

    async def locked_pulse(self, session: AsyncSession, agent: str, now: datetime) -> Pulse: ...

    async def pulse(self, session: AsyncSession, agent: str) -> Pulse | None: ...

    async def pulses(self, session: AsyncSession) -> dict[str, Pulse]: ...

    async def work_of(self, session: AsyncSession, agent: str, now: datetime) -> list[Work]: ...

    async def work(self, session: AsyncSession, source: str, ref: str) -> Work | None: ...

    async def work_known(self, session: AsyncSession, agent: str) -> list[Work]: ...

    async def waiting(self, session: AsyncSession) -> list[Work]: ...

    async def broken(self, session: AsyncSession) -> list[Work]: ...

    async def owing(self, session: AsyncSession, agent: str | None = None) -> list[Work]: ...

    async def pays_alone(self, session: AsyncSession, agent: str) -> bool: ...

    async def ended(self, session: AsyncSession, agent: str | None = None) -> list[tuple[Work, AgentRun]]: ...

    async def begun_anew(self, session: AsyncSession, run_id: int | None) -> int | None: ...

    async def items_at_work(self, session: AsyncSession, agent: str) -> set[str]: ...

    async def timed_out(self, session: AsyncSession, refs: Collection[tuple[str, str]]) -> frozenset[str]: ...

    async def sweep(self, session: AsyncSession, sweep_id: int) -> Sweep | None: ...

    async def newest_sweeps(self, session: AsyncSession, agents: Sequence[str]) -> dict[str, Sweep]: ...

    async def spent(
        self, session: AsyncSession, *, agent: str = "", item: str = "", since: datetime | None = None
    ) -> Spent: ...


async def locked_pulse(session: AsyncSession, agent: str, now: datetime) -> Pulse:
    """The agent's heartbeat, made if it is new; nobody else decides about it until the transaction ends."""
    made = {"agent": agent, "fence": 0, "holder": "", "since": now, "skipped": 0, "is_deferred": False}
    await session.exec(insert(Pulse).values(**made, swept={}, told={}).on_conflict_do_nothing())
    statement = select(Pulse).where(col(Pulse.agent) == agent).with_for_update()
    return (await session.exec(statement)).one()


async def pulse(session: AsyncSession, agent: str) -> Pulse | None:
    """The agent's heartbeat as it stands, for looking."""
    return await session.get(Pulse, agent)


async def pulses(session: AsyncSession) -> dict[str, Pulse]:
    return {row.agent: row for row in (await session.exec(select(Pulse))).all()}


async def work_of(session: AsyncSession, agent: str, now: datetime) -> list[Work]:
    """All that is remembered of an agent's work, except what was finished long ago."""
    recent = or_(col(Work.finished_at).is_(None), col(Work.updated_at) > now - REMEMBERED)
    statement = select(Work).where(col(Work.agent) == agent, recent).order_by(col(Work.source), col(Work.ref))
    return list((await session.exec(statement)).all())


async def work(session: AsyncSession, source: str, ref: str) -> Work | None:
    """One row, locked."""
    statement = select(Work).where(col(Work.source) == source, col(Work.ref) == ref).with_for_update()
    return (await session.exec(statement)).one_or_none()


async def work_known(session: AsyncSession, agent: str) -> list[Work]:
    """All that was ever remembered of an agent's work, for looking."""
    return list((await session.exec(select(Work).where(col(Work.agent) == agent))).all())


async def waiting(session: AsyncSession) -> list[Work]:
    """Work that waits for a yes."""
    is_told = col(Work.told).contains({"approval": True})
    statement = select(Work).where(is_told, col(Work.is_allowed).is_(False), col(Work.finished_at).is_(None))
    return list((await session.exec(statement.order_by(col(Work.updated_at)))).all())


async def broken(session: AsyncSession) -> list[Work]:
    """Work that a breaker holds back."""
    statement = select(Work).where(col(Work.breaker) != "").order_by(col(Work.broken_at))
    return list((await session.exec(statement)).all())


async def owing(session: AsyncSession, agent: str | None = None) -> list[Work]:
    """Work with actions that were decided and not done yet."""
    statement = select(Work).where(func.jsonb_array_length(col(Work.owed)) > 0)
    if agent is not None:
        statement = statement.where(col(Work.agent) == agent)
    return list((await session.exec(statement.order_by(col(Work.updated_at)))).all())


async def pays_alone(session: AsyncSession, agent: str) -> bool:
    """Whether nobody else pays what is owed for the agent, from now until the session ends."""
    lock = func.pg_try_advisory_xact_lock(func.hashtext(f"heartbeat {agent}"))
    return bool((await session.exec(select(lock))).one())


async def ended(session: AsyncSession, agent: str | None = None) -> list[tuple[Work, AgentRun]]:
    """Work whose run has ended and was not looked at yet."""
    statement = (
        select(Work, AgentRun)
        .join(AgentRun, col(AgentRun.id) == col(Work.run_id))
        .where(col(AgentRun.state) == RunState.ENDED)
    )
    if agent is not None:
        statement = statement.where(col(Work.agent) == agent)
    return list((await session.exec(statement)).all())


async def begun_anew(session: AsyncSession, run_id: int | None) -> int | None:
    """The run that took the place of this one, if one did."""
    statement = select(AgentRun.id).where(col(AgentRun.idempotency_key) == crew_rules.begun_anew(run_id))
    return (await session.exec(statement)).one_or_none()


async def items_at_work(session: AsyncSession, agent: str) -> set[str]:
    """The items on which the agent has a run: its keeper bounds it, so they are not stuck."""
    statement = select(AgentRun.item_key).where(
        col(AgentRun.agent) == agent, col(AgentRun.state) != RunState.ENDED
    )
    return set((await session.exec(statement)).all())


async def timed_out(session: AsyncSession, refs: Collection[tuple[str, str]]) -> frozenset[str]:
    """Which of these stand still: their last timeout has not been overcome."""
    if not refs:
        return frozenset()
    statement = select(Work.source, Work.ref).where(
        col(Work.source).in_({source for source, _ in refs}),
        col(Work.ref).in_({ref for _, ref in refs}),
        col(Work.suspected_since).is_not(None),
        col(Work.timeouts) > 0,
    )
    return frozenset(f"{source}:{ref}" for source, ref in (await session.exec(statement)).all())


async def sweep(session: AsyncSession, sweep_id: int) -> Sweep | None:
    return await session.get(Sweep, sweep_id)


async def forget_sweeps(session: AsyncSession, before: datetime, limit: int) -> int:
    """Drop sweeps that began before, but the newest of each agent; how many."""
    newest = select(func.max(Sweep.id)).group_by(col(Sweep.agent))
    old = select(Sweep.id).where(col(Sweep.started_at) < before, col(Sweep.id).not_in(newest)).limit(limit)
    return (await session.exec(delete(Sweep).where(col(Sweep.id).in_(old)))).rowcount


async def events(
    session: AsyncSession,
    kinds: Collection[str],
    after: int,
    between: tuple[datetime, datetime],
    limit: int,
) -> list[Event]:
    """What happened of these kinds at that time, behind the event `after`, the oldest first."""
    first, last = between
    statement = select(Event).where(
        col(Event.id) > after, col(Event.kind).in_(kinds), col(Event.at) >= first, col(Event.at) <= last
    )
    return list((await session.exec(statement.order_by(col(Event.id)).limit(limit))).all())


def _is_at_rest(before: datetime) -> ColumnElement[bool]:
    is_paid = func.jsonb_array_length(col(Work.owed)) == 0
    return and_(col(Work.updated_at) < before, col(Work.run_id).is_(None), is_paid)


async def work_at_rest(session: AsyncSession, before: datetime) -> list[Places]:
    """Work that was touched last before then, with no run and nothing owed: all places where each stands."""
    columns = select(Work.source, Work.ref, Work.places, Work.held).where(_is_at_rest(before))
    return [
        ((source, ref), frozenset([(source, ref), *((p[0], p[1]) for p in [*places, *held])]))
        for source, ref, places, held in (await session.exec(columns)).all()
    ]


async def forget_work(session: AsyncSession, names: Collection[tuple[str, str]], before: datetime) -> int:
    """Drop these, if they are still at rest; how many."""
    is_meant = tuple_(col(Work.source), col(Work.ref)).in_(list(names))
    return (await session.exec(delete(Work).where(is_meant, _is_at_rest(before)))).rowcount


async def newest_sweeps(session: AsyncSession, agents: Sequence[str]) -> dict[str, Sweep]:
    """The newest sweep of each agent."""
    newest = (
        select(func.max(Sweep.id))
        .where(col(Sweep.agent).in_(agents), col(Sweep.result) != Result.RUNNING)
        .group_by(col(Sweep.agent))
    )
    rows = await session.exec(select(Sweep).where(col(Sweep.id).in_(newest)))
    return {row.agent: row for row in rows.all()}


async def spent(
    session: AsyncSession, *, agent: str = "", item: str = "", since: datetime | None = None
) -> Spent:
    """What runs reported or the router booked, whichever is more: either may not know all."""
    runs = select(func.count(), func.sum(AgentRun.tokens), func.sum(AgentRun.cost_micro_usd))
    calls = select(func.sum(CallRow.total_tokens), func.sum(CallRow.cost_pico))
    if agent:
        runs, calls = runs.where(col(AgentRun.agent) == agent), calls.where(col(CallRow.agent) == agent)
    if item:
        runs, calls = runs.where(col(AgentRun.item_key) == item), calls.where(col(CallRow.item) == item)
    if since is not None:
        runs, calls = runs.where(col(AgentRun.created_at) >= since), calls.where(col(CallRow.at) >= since)
    count, tokens, micro = (await session.exec(runs)).one()
    booked, pico = (await session.exec(calls)).one()
    usd = max(Decimal(micro or 0) / 10**6, Decimal(pico or 0) / 10**12)
    return Spent(rounds=count, tokens=max(int(tokens or 0), int(booked or 0)), usd=usd)
