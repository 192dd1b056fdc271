"""All queries of the notify room."""

from collections.abc import Sequence

from sqlalchemy import and_, delete, exists, func, or_
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.journal import Delivery, OutboxMessage
from quarterdeck.notify.model import Subscription

_RELAY = 7_140_008
"""The advisory lock of whoever hands messages over."""

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


async def only_one_relay(unit: Unit) -> None:
    """Wait until no other desk hands messages over, and keep them away until the command ends."""
    await unit.session.exec(select(func.pg_advisory_xact_lock(_RELAY)))


async def queued(unit: Unit, after: int, limit: int) -> list[OutboxMessage]:
    """The next messages that no channel has, in order, locked.

    One that was about to be sent when an earlier version ended is among them, marked `possibly_twice`.
    """
    nobodys = or_(
        col(OutboxMessage.state) == Delivery.QUEUED,
        and_(col(OutboxMessage.state) == Delivery.SENDING, col(OutboxMessage.external_id) == ""),
    )
    query = select(OutboxMessage).where(nobodys, col(OutboxMessage.id) > after)
    found = (
        await unit.session.exec(query.order_by(col(OutboxMessage.id)).limit(limit).with_for_update())
    ).all()
    for message in found:
        message.possibly_twice |= message.state is Delivery.SENDING
        message.state = Delivery.QUEUED
    return list(found)


async def originals(session: AsyncSession, messages: Sequence[OutboxMessage]) -> dict[int, OutboxMessage]:
    """The messages in whose place some of these are to stand, by number."""
    numbers = [message.replaces for message in messages if message.replaces is not None]
    if not numbers:
        return {}
    found = (await session.exec(select(OutboxMessage).where(col(OutboxMessage.id).in_(numbers)))).all()
    return {message.id: message for message in found if message.id is not None}


async def under_way(session: AsyncSession, channel: str, after: int, limit: int) -> dict[int, str]:
    """The next messages that a channel has, each with the channel's name for it."""
    query = select(OutboxMessage.id, OutboxMessage.external_id).where(
        col(OutboxMessage.channel) == channel,
        col(OutboxMessage.state) == Delivery.SENDING,
        col(OutboxMessage.external_id) != "",
        col(OutboxMessage.id) > after,
    )
    query = query.order_by(col(OutboxMessage.id)).limit(limit)
    return {number: receipt for number, receipt in await session.exec(query) if number is not None}


async def sending(unit: Unit, numbers: Sequence[int]) -> Sequence[OutboxMessage]:
    """Those of these messages whose outcome is not recorded yet, locked."""
    query = select(OutboxMessage).where(
        col(OutboxMessage.id).in_(numbers), col(OutboxMessage.state) == Delivery.SENDING
    )
    return (await unit.session.exec(query.order_by(col(OutboxMessage.id)).with_for_update())).all()


async def asking(unit: Unit, item_key: str) -> Sequence[OutboxMessage]:
    """The messages with buttons about an item, whose buttons nobody has taken away."""
    rewrite = aliased(OutboxMessage)
    is_rewritten = exists().where(col(rewrite.replaces) == col(OutboxMessage.id))
    query = select(OutboxMessage).where(
        col(OutboxMessage.item_key) == item_key,
        col(OutboxMessage.choices) != [],
        col(OutboxMessage.state).not_in([Delivery.DEAD, Delivery.DISMISSED]),
        ~is_rewritten,
    )
    return (await unit.session.exec(query.order_by(col(OutboxMessage.id)))).all()


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


async def waiting(session: AsyncSession, channel: str = "") -> tuple[int, int]:
    """How many messages (for one channel) no channel has yet, and how many are with their channels."""
    query = select(OutboxMessage.state, func.count()).where(
        col(OutboxMessage.state).in_([Delivery.QUEUED, Delivery.SENDING])
    )
    if channel:
        query = query.where(col(OutboxMessage.channel) == channel)
    counts = dict((await session.exec(query.group_by(col(OutboxMessage.state)))).all())
    return counts.get(Delivery.QUEUED, 0), counts.get(Delivery.SENDING, 0)
