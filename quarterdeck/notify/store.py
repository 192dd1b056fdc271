"""All queries of the notify room."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.journal import Delivery, OutboxMessage
from quarterdeck.notify.model import Lane, Lease, Sender, Subscription

_WAITING = (Delivery.QUEUED, Delivery.SENDING)


def _waits() -> ColumnElement[bool]:
    return col(OutboxMessage.state).in_(_WAITING)


def _lane_waits() -> ColumnElement[bool]:
    return exists().where(col(OutboxMessage.lane) == col(Lane.lane), _waits())


# Subscriptions


async def subscriptions(session: AsyncSession) -> Sequence[Subscription]:
    """All of them, in the order of the roster."""
    return (await session.exec(select(Subscription).order_by(col(Subscription.id)))).all()


async def replace_subscriptions(unit: Unit, entries: Sequence[Subscription]) -> None:
    """These, and no others."""
    await unit.session.exec(delete(Subscription))
    unit.session.add_all(entries)
    await unit.session.flush()


# The outbox


async def message(unit: Unit, message_id: int) -> OutboxMessage | None:
    """One message, locked."""
    return await unit.session.get(OutboxMessage, message_id, with_for_update=True)


async def sending(unit: Unit, ids: Sequence[int]) -> dict[int, OutboxMessage]:
    """Those of these messages whose outcome is not recorded yet, by id, locked."""
    query = select(OutboxMessage).where(
        col(OutboxMessage.id).in_(ids), col(OutboxMessage.state) == Delivery.SENDING
    )
    found = (await unit.session.exec(query.with_for_update())).all()
    return {message.id: message for message in found if message.id is not None}


async def first_waiting(unit: Unit, lane: str, limit: int) -> list[OutboxMessage]:
    """The messages whose turn it is, in order, locked."""
    query = select(OutboxMessage).where(col(OutboxMessage.lane) == lane, _waits())
    ordered = query.order_by(col(OutboxMessage.id)).limit(limit).with_for_update()
    return list((await unit.session.exec(ordered)).all())


async def messages_of(
    session: AsyncSession, item_key: str | None, before: int, limit: int
) -> list[OutboxMessage]:
    """The newest messages (of one item), newest first, older than `before`."""
    query = select(OutboxMessage).where(col(OutboxMessage.id) < before)
    if item_key is not None:
        query = query.where(col(OutboxMessage.item_key) == item_key)
    return list((await session.exec(query.order_by(col(OutboxMessage.id).desc()).limit(limit))).all())


async def dead_letters(session: AsyncSession, before: int, limit: int) -> list[OutboxMessage]:
    """What could not be delivered, newest first, older than `before`."""
    query = select(OutboxMessage).where(
        col(OutboxMessage.state) == Delivery.DEAD, col(OutboxMessage.id) < before
    )
    return list((await session.exec(query.order_by(col(OutboxMessage.id).desc()).limit(limit))).all())


async def waiting(session: AsyncSession) -> int:
    """How many messages are not delivered yet."""
    return (await session.exec(select(func.count()).select_from(OutboxMessage).where(_waits()))).one()


# Lanes


async def open_lanes(unit: Unit) -> None:
    """Make the lanes of new messages known; were that done with the messages, commands could block."""
    known = exists().where(col(Lane.lane) == col(OutboxMessage.lane))
    query = select(OutboxMessage.lane, OutboxMessage.channel, OutboxMessage.chat).where(_waits(), ~known)
    fresh = {"fence": 0, "leased_until": unit.now, "resume_at": unit.now, "failures": 0, "sends": []}
    lanes = [
        {"lane": lane, "channel": channel, "chat": chat, **fresh}
        for lane, channel, chat in await unit.session.exec(query.distinct())
    ]
    if lanes:
        await unit.session.exec(insert(Lane).values(lanes).on_conflict_do_nothing())


async def take_lanes(unit: Unit, until: datetime, limit: int) -> list[Lease]:
    """Lease lanes that have something to send and may, longest due first; skips what others just take."""
    query = (
        select(Lane)
        .where(col(Lane.resume_at) <= unit.now, col(Lane.leased_until) <= unit.now, _lane_waits())
        .order_by(col(Lane.resume_at))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    lanes = (await unit.session.exec(query)).all()
    for lane in lanes:
        lane.fence += 1
        lane.leased_until = until
    return [Lease(lane.lane, lane.channel, lane.fence) for lane in lanes]


async def held_lane(unit: Unit, lease: Lease) -> Lane | None:
    """The lane of a lease, locked; None if somebody else took it meanwhile."""
    query = select(Lane).where(col(Lane.lane) == lease.lane, col(Lane.fence) == lease.fence)
    return (await unit.session.exec(query.with_for_update())).first()


async def sender(unit: Unit, channel: str) -> Sender:
    """What the chats of a channel share, locked. Always lock the lane first: so nobody waits in a circle."""
    await unit.session.exec(insert(Sender).values(channel=channel, sends=[]).on_conflict_do_nothing())
    query = select(Sender).where(col(Sender.channel) == channel).with_for_update()
    return (await unit.session.exec(query)).one()


async def next_due(session: AsyncSession) -> datetime | None:
    """When the next lane with something to send may go on, or becomes free; None = nothing waits."""
    due = func.min(func.greatest(col(Lane.resume_at), col(Lane.leased_until)))
    found: datetime | None = (await session.exec(select(due).where(_lane_waits()))).one()
    return found
