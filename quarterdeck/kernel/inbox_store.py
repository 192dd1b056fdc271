"""All queries of the inbox."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, TextClause, and_, bindparam, delete, func, or_, text, update
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA
from sqlalchemy.types import Text
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.inbox_model import Arrival, Delivery, InboxEntry, Lease, Standing

_LOCKS = 7_140_031
"""The first key of our advisory locks: one a source, held while the next delivery is chosen."""

_KEEP = text(
    """
    insert into inbox (source, delivery_id, fingerprint, event, headers, body, received_at, not_before,
                       state, outcome, attempts, deaths, replays, fence)
    select source, delivery_id, fingerprint, event, headers::jsonb, body, :now, :now,
           'waiting', '', 0, 0, 0, 0
    from unnest(:sources, :delivery_ids, :fingerprints, :events, :headers, :bodies)
         as arrived (source, delivery_id, fingerprint, event, headers, body)
    on conflict do nothing
    returning source, delivery_id
    """
).bindparams(
    *(
        bindparam(name, type_=ARRAY(Text))
        for name in ("sources", "delivery_ids", "fingerprints", "events", "headers")
    ),
    bindparam("bodies", type_=ARRAY(BYTEA)),
)


async def keep(unit: Unit, arrivals: Sequence[Arrival]) -> set[tuple[str, str]]:
    """Store new deliveries, all in one statement; source and id of those that were not there yet."""
    values = {
        "now": unit.now,
        "sources": [one.source for one in arrivals],
        "delivery_ids": [one.delivery_id for one in arrivals],
        "fingerprints": [one.fingerprint for one in arrivals],
        "events": [one.event for one in arrivals],
        "headers": [json.dumps(dict(one.headers)) for one in arrivals],
        "bodies": [one.body for one in arrivals],
    }
    connection = await unit.session.connection()
    return {(row.source, row.delivery_id) for row in await connection.execute(_KEEP, values)}


# Working


def _is_free(now: datetime) -> ColumnElement[bool]:
    until = col(InboxEntry.leased_until)
    return or_(until.is_(None), until <= now)


def _waits() -> TextClause:
    return text("inbox.state = 'waiting'")  # written out: a parameter would not fit the partial index


def _is_settled() -> ColumnElement[bool]:
    return col(InboxEntry.state) != Standing.WAITING


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(_waits(), col(InboxEntry.not_before) <= now, _is_free(now))


async def sources_due(session: AsyncSession, now: datetime) -> Sequence[str]:
    """Sources of which something is to be worked on."""
    return (await session.exec(select(InboxEntry.source).where(_is_due(now)).distinct())).all()


async def take(unit: Unit, source: str, lease: timedelta, hurry: timedelta) -> InboxEntry | None:
    """Lease the next delivery of a source; None when there is none, or its turn has not come.

    Its turn has come when the one before is settled, or at work for longer than `hurry`.
    """
    await unit.session.exec(select(func.pg_advisory_xact_lock(_LOCKS, func.hashtext(source))))
    of_source = col(InboxEntry.source) == source
    at_work = and_(
        of_source,
        _waits(),
        col(InboxEntry.leased_until) > unit.now,
        col(InboxEntry.leased_at) > unit.now - hurry,
    )
    if (await unit.session.exec(select(InboxEntry.id).where(at_work).limit(1))).first():
        return None
    due = select(InboxEntry).where(of_source, _is_due(unit.now)).order_by(col(InboxEntry.id)).limit(1)
    entry = (await unit.session.exec(due.with_for_update(skip_locked=True))).first()
    if entry is not None:
        entry.deaths += entry.leased_until is not None
        entry.attempts, entry.fence = entry.attempts + 1, entry.fence + 1
        entry.leased_at, entry.leased_until = unit.now, unit.now + lease
    return entry


async def held(unit: Unit, lease: Lease) -> InboxEntry | None:
    """The delivery of a lease, locked; None if somebody else took it meanwhile."""
    query = select(InboxEntry).where(col(InboxEntry.id) == lease.delivery.id, _waits())
    return (
        await unit.session.exec(query.where(col(InboxEntry.fence) == lease.fence).with_for_update())
    ).first()


async def next_due(session: AsyncSession) -> datetime | None:
    """When there is something to do again; None = nothing waits."""
    begins = func.min(func.greatest(col(InboxEntry.not_before), col(InboxEntry.leased_until)))
    found: datetime | None = (await session.exec(select(begins).where(_waits()))).one()
    return found


def delivery_of(entry: InboxEntry) -> Delivery:
    """A row as its handler gets it."""
    assert entry.id is not None
    return Delivery(
        id=entry.id,
        source=entry.source,
        delivery_id=entry.delivery_id,
        event=entry.event,
        headers=dict(entry.headers),
        body=entry.body or b"",
        received_at=entry.received_at,
        attempts=entry.attempts,
        replays=entry.replays,
    )


# Looking


async def entry(session: AsyncSession, number: int, *, for_update: bool = False) -> InboxEntry | None:
    """One delivery."""
    return await session.get(InboxEntry, number, with_for_update=for_update or None)


async def entries(
    session: AsyncSession, source: str | None, state: Standing | None, before: int, limit: int
) -> Sequence[InboxEntry]:
    """Newest first, older than `before`."""
    query = select(InboxEntry).where(col(InboxEntry.id) < before)
    if source is not None:
        query = query.where(col(InboxEntry.source) == source)
    if state is not None:
        query = query.where(col(InboxEntry.state) == state)
    return (await session.exec(query.order_by(col(InboxEntry.id).desc()).limit(limit))).all()


# Forgetting


async def forget_bodies(unit: Unit, before: datetime, limit: int) -> int:
    """Drop the content of settled deliveries received before; how many."""
    old = (
        select(InboxEntry.id)
        .where(col(InboxEntry.received_at) < before, _is_settled(), col(InboxEntry.body).is_not(None))
        .limit(limit)
    )
    emptied = update(InboxEntry).where(col(InboxEntry.id).in_(old)).values(body=None, headers={})
    return (await unit.session.exec(emptied)).rowcount


async def forget(unit: Unit, before: datetime, limit: int) -> int:
    """Drop settled deliveries received before; how many."""
    old = select(InboxEntry.id).where(col(InboxEntry.received_at) < before, _is_settled()).limit(limit)
    return (await unit.session.exec(delete(InboxEntry).where(col(InboxEntry.id).in_(old)))).rowcount
