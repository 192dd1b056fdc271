"""All queries of the telegram room but those of `moves`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, DateTime, Text, bindparam, delete, func, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel.database import Unit
from quarterdeck.telegram.model import (
    BOTS_TOPIC,
    Bot,
    BotState,
    Lease,
    Standing,
    StoredSend,
    StoredUpdate,
    Told,
)
from quarterdeck.telegram.wire import SendState, Update

_PUBLISHER = 7_140_006
"""The advisory lock of whoever publishes, so that the bus gets everything in order."""

_REGISTRAR = 7_140_007
"""The advisory lock of whoever registers a bot: two that find none would both make one."""

# Bots


async def only_registrar(unit: Unit) -> None:
    """Nobody else registers a bot until this command ends."""
    await unit.session.exec(select(func.pg_advisory_xact_lock(_REGISTRAR)))


async def bots(session: AsyncSession) -> Sequence[Bot]:
    """All of them, in the order of their names."""
    return (await session.exec(select(Bot).order_by(col(Bot.agent_id)))).all()


async def bot(session: AsyncSession, agent_id: str, *, for_update: bool = False) -> Bot | None:
    """The bot of an agent."""
    return await session.get(Bot, agent_id, with_for_update=for_update or None)


async def bot_of(session: AsyncSession, bot_id: str) -> Bot | None:
    """The bot with that number."""
    return (await session.exec(select(Bot).where(col(Bot.bot_id) == bot_id))).first()


async def queue_lengths(session: AsyncSession) -> dict[str, int]:
    """How many messages wait, by agent."""
    query = select(StoredSend.agent_id, func.count()).where(_waits()).group_by(col(StoredSend.agent_id))
    return dict((await session.exec(query)).all())


async def sealed_before(session: AsyncSession, prefix: str, after: str, limit: int) -> Sequence[Bot]:
    """Bots whose token is sealed under a key that is not the present one, locked."""
    query = select(Bot).where(col(Bot.agent_id) > after, col(Bot.sealed) != "")
    older = query.where(~col(Bot.sealed).startswith(prefix, autoescape=True))
    ordered = older.order_by(col(Bot.agent_id)).limit(limit).with_for_update()
    return (await session.exec(ordered)).all()


# Leases


async def hold(unit: Unit, served: Mapping[str, Standing], until: datetime) -> list[Bot]:
    """Hold bots longer and write down how they fare; those that are still ours."""
    ours = []
    for row in await _locked(unit, served):
        standing = served[row.agent_id]
        if standing.fence == row.fence and row.state is BotState.ACTIVE:
            row.leased_until = until
            row.last_poll_at = standing.polled_at or row.last_poll_at
            row.last_routed_at = standing.routed_at or row.last_routed_at
            ours.append(row)
    return ours


async def _locked(unit: Unit, agents: Iterable[str]) -> Sequence[Bot]:
    query = select(Bot).where(col(Bot.agent_id).in_(list(agents))).order_by(col(Bot.agent_id))
    return (await unit.session.exec(query.with_for_update())).all()


async def take_free(unit: Unit, until: datetime) -> Sequence[Bot]:
    """Take every bot that nobody serves; skips what others just take."""
    free = col(Bot.leased_until) <= unit.now, col(Bot.state) == BotState.ACTIVE
    query = select(Bot).where(*free).order_by(col(Bot.agent_id)).with_for_update(skip_locked=True)
    found = (await unit.session.exec(query)).all()
    for row in found:
        row.fence += 1
        row.leased_until = until
    return found


async def release(unit: Unit, served: Mapping[str, Standing]) -> None:
    """Let others take these bots at once."""
    for row in await hold(unit, served, unit.now):
        unit.wake(BOTS_TOPIC, row.agent_id)


async def held(unit: Unit, lease: Lease) -> Bot | None:
    """The bot of a lease, locked; None if somebody else took it meanwhile."""
    query = select(Bot).where(col(Bot.agent_id) == lease.agent_id, col(Bot.fence) == lease.fence)
    return (await unit.session.exec(query.with_for_update())).first()


async def count_active(session: AsyncSession, now: datetime) -> tuple[int, int]:
    """How many bots there are to be polled, and how many of them somebody serves."""
    active = select(func.count()).select_from(Bot).where(col(Bot.state) == BotState.ACTIVE)
    all_of_them = (await session.exec(active)).one()
    served = (await session.exec(active.where(col(Bot.leased_until) > now))).one()
    return all_of_them, served


# Updates

_KEEP = text(
    """
    with held as (
      select b.agent_id from unnest(:agents, :fences) as t (agent_id, fence)
      join telegram_bots b on b.agent_id = t.agent_id and b.fence = t.fence
    ), kept as (
      insert into telegram_updates (event_id, agent_id, bot_id, update_id, kind, chat_id, user_id, ts, text,
                                    message_id, message_thread_id, raw_update, received_at, published_at)
      select u.event_id, u.agent_id, u.bot_id, u.update_id, u.kind, u.chat_id, u.user_id, u.ts, u.text,
             u.message_id, u.message_thread_id, u.raw_update, :now, :published_at
      from jsonb_to_recordset(cast(:updates as jsonb))
           as u (place int, event_id text, agent_id text, bot_id text, update_id bigint,
                 kind text, chat_id bigint, user_id bigint, ts timestamptz, text text, message_id bigint,
                 message_thread_id bigint, raw_update jsonb)
      join held using (agent_id)
      order by u.place
      on conflict (event_id) do nothing
      returning id, event_id
    )
    select agent_id, null as event_id, null as id from held
    union all select null, event_id, id from kept
    """
).bindparams(
    bindparam("agents", type_=ARRAY(Text)),
    bindparam("fences", type_=ARRAY(BigInteger)),
    bindparam("published_at", type_=DateTime(timezone=True)),
)


async def keep_updates(
    unit: Unit, fences: Mapping[str, int], updates: Sequence[Update], published_at: datetime | None
) -> tuple[set[str], dict[str, int]]:
    """Store updates of agents in their order: those that are new, of bots that nobody took meanwhile.

    The agents whose bots are held with these fences, and the row of each new update by its event id.
    """
    said = [{"place": place, **_columns(one)} for place, one in enumerate(updates)]
    connection = await unit.session.connection()
    values = {"updates": json.dumps(said), "now": unit.now, "published_at": published_at}
    values |= {"agents": list(fences), "fences": list(fences.values())}
    rows = (await connection.execute(_KEEP, values)).all()
    held = {row.agent_id for row in rows if row.agent_id is not None}
    return held, {row.event_id: row.id for row in rows if row.event_id is not None}


def _columns(one: Update) -> dict[str, Any]:
    return {
        "event_id": one.event_id,
        "agent_id": one.agent_id,
        "bot_id": one.bot_id,
        "update_id": one.update_id,
        "kind": one.kind,
        "chat_id": one.chat_id,
        "user_id": one.user_id,
        "ts": one.ts.isoformat(),
        "text": one.text,
        "message_id": one.message_id,
        "message_thread_id": one.message_thread_id,
        "raw_update": one.raw_update,
    }


def update_of(row: StoredUpdate) -> Update:
    """A row as it is told."""
    return Update(
        event_id=row.event_id,
        agent_id=row.agent_id,
        bot_id=row.bot_id,
        update_id=row.update_id,
        kind=row.kind,
        chat_id=row.chat_id,
        user_id=row.user_id,
        ts=row.ts,
        text=row.text,
        message_id=row.message_id,
        message_thread_id=row.message_thread_id,
        raw_update=row.raw_update,
    )


async def by_event(session: AsyncSession, event_id: str) -> StoredUpdate | None:
    """One update."""
    return (await session.exec(select(StoredUpdate).where(col(StoredUpdate.event_id) == event_id))).first()


_UNPUBLISHED = text(
    """
    with recursive agents as (
      (select agent_id from telegram_updates where published_at is null order by agent_id limit 1)
      union all
      select (select u.agent_id from telegram_updates u
              where u.published_at is null and u.agent_id > a.agent_id order by u.agent_id limit 1)
      from agents a where a.agent_id is not null
    )
    select u.id
    from agents a
    cross join lateral (
      select id, row_number() over (order by id) as place from (
        select id from telegram_updates
        where agent_id = a.agent_id and published_at is null
          and (:until is null or received_at <= :until)
        order by id limit :of_one
      ) first
    ) u
    order by u.place, u.id limit :most
    """
).bindparams(bindparam("until", type_=DateTime(timezone=True)))
"""Jumps from agent to agent in the index: what waits of one may be millions."""


async def unpublished(
    session: AsyncSession, until: datetime | None, of_one: int, most: int
) -> Sequence[StoredUpdate]:
    """What was stored (until then) and the bus has not got: the oldest of each agent, the second, ..."""
    connection = await session.connection()
    found = await connection.execute(_UNPUBLISHED, {"until": until, "of_one": of_one, "most": most})
    query = select(StoredUpdate).where(col(StoredUpdate.id).in_([row.id for row in found]))
    return (await session.exec(query.order_by(col(StoredUpdate.id)))).all()


async def mark_published(unit: Unit, ids: Sequence[int]) -> None:
    """The bus has them."""
    named = col(StoredUpdate.id).in_(ids)
    await unit.session.exec(update(StoredUpdate).where(named).values(published_at=unit.now))


async def unannounced(session: AsyncSession) -> Sequence[Bot]:
    """Bots whose registration the bus does not know of."""
    return (await session.exec(select(Bot).where(~col(Bot.announced)).order_by(col(Bot.registered_at)))).all()


async def mark_announced(unit: Unit, agent_id: str, registered_at: datetime) -> None:
    """The bus knows of that registration."""
    same = col(Bot.agent_id) == agent_id, col(Bot.registered_at) == registered_at
    await unit.session.exec(update(Bot).where(*same).values(announced=True))


async def forget(unit: Unit, before: datetime, limit: int) -> int:
    """Drop updates and finished messages from before, and places in chats that are empty now; how many."""
    told = (
        select(StoredUpdate.id)
        .where(col(StoredUpdate.received_at) < before, col(StoredUpdate.published_at).is_not(None))
        .limit(limit)
    )
    done = select(StoredSend.id).where(col(StoredSend.finished_at) < before).limit(limit)
    count = (await unit.session.exec(delete(StoredUpdate).where(col(StoredUpdate.id).in_(told)))).rowcount
    count += (await unit.session.exec(delete(StoredSend).where(col(StoredSend.id).in_(done)))).rowcount
    connection = await unit.session.connection()
    return count + (await connection.execute(_FORGET_PLACES, {"limit": limit})).rowcount


_FORGET_PLACES = text(
    """
    delete from telegram_told here using (
      select t.consumer, t.agent_id, t.chat_id, t.update from telegram_told t
      where t.agent_id <> '' and not exists (
        select from telegram_updates u where u.agent_id = t.agent_id and u.chat_id = t.chat_id
      )
      limit :limit
    ) seen
    where here.consumer = seen.consumer and here.agent_id = seen.agent_id and here.chat_id = seen.chat_id
      and here.update = seen.update
    """
)
"""How far was told of chats of which nothing is left to be told; what moves meanwhile stays."""


# Telling

_PENDING = text(
    """
    select distinct u.agent_id, u.chat_id
    from telegram_updates u
    left join telegram_told t
      on t.consumer = :consumer and t.agent_id = u.agent_id and t.chat_id = u.chat_id
    where u.agent_id = any(:agents) and u.id > greatest(coalesce(t.update, 0), :since)
    """
).bindparams(bindparam("agents", type_=ARRAY(Text)))


async def begin_telling(unit: Unit, consumer: str) -> int:
    """Where a consumer began: a new one is told of what comes from now on."""
    newest = select(func.coalesce(func.max(col(StoredUpdate.id)), 0)).scalar_subquery()
    first = insert(Told).values(consumer=consumer, agent_id="", chat_id=0, update=newest)
    await unit.session.exec(first.on_conflict_do_nothing())
    row = await unit.session.get(Told, (consumer, "", 0))
    assert row is not None
    return row.update


async def chats_to_tell(
    session: AsyncSession, consumer: str, agents: Sequence[str], since: int
) -> list[tuple[str, int]]:
    """Agent and chat of everything that a consumer was not told of."""
    connection = await session.connection()
    values = {"consumer": consumer, "agents": list(agents), "since": since}
    return [(row.agent_id, row.chat_id) for row in await connection.execute(_PENDING, values)]


async def told(session: AsyncSession, consumer: str, agent_id: str, chat_id: int) -> int:
    """The last update of a chat that a consumer was told of; 0 = none."""
    row = await session.get(Told, (consumer, agent_id, chat_id))
    return row.update if row else 0


async def to_tell(
    session: AsyncSession, agent_id: str, chat_id: int, after: int, limit: int
) -> Sequence[StoredUpdate]:
    """The next updates of a chat."""
    of_chat = col(StoredUpdate.agent_id) == agent_id, col(StoredUpdate.chat_id) == chat_id
    query = select(StoredUpdate).where(*of_chat, col(StoredUpdate.id) > after)
    return (await session.exec(query.order_by(col(StoredUpdate.id)).limit(limit))).all()


async def move_told(unit: Unit, told: Mapping[tuple[str, str, int], int]) -> None:
    """Consumers were told of chats as far as that."""
    rows = [
        {"consumer": consumer, "agent_id": agent_id, "chat_id": chat_id, "update": place}
        for (consumer, agent_id, chat_id), place in sorted(told.items())
    ]
    moved = insert(Told).values(rows)
    farther = func.greatest(col(Told.update), moved.excluded["update"])
    await unit.session.exec(
        moved.on_conflict_do_update(
            index_elements=["consumer", "agent_id", "chat_id"], set_={"update": farther}
        )
    )


# The queue


def _waits() -> Any:
    return text("telegram_sends.state = 'queued'")  # written out: a parameter would not fit the index


async def add_send(unit: Unit, row: StoredSend) -> StoredSend:
    """Queue a message; the one that is there already under its idempotency key."""
    values = row.model_dump(exclude={"id"})
    added = insert(StoredSend).values(values).on_conflict_do_nothing().returning(col(StoredSend.id))
    number = (await unit.session.exec(added)).scalar()
    if number is None:
        earlier = await send_of_key(unit.session, row.agent_id, str(row.idempotency_key))
        assert earlier is not None
        return earlier
    row.id = number
    return row


async def send_of_key(session: AsyncSession, agent_id: str, key: str) -> StoredSend | None:
    """The message with that idempotency key."""
    same = col(StoredSend.agent_id) == agent_id, col(StoredSend.idempotency_key) == key
    return (await session.exec(select(StoredSend).where(*same))).first()


async def send(session: AsyncSession, number: int) -> StoredSend | None:
    """One message."""
    return await session.get(StoredSend, number)


async def sends(session: AsyncSession, numbers: Sequence[int]) -> Sequence[StoredSend]:
    """Several messages."""
    return (await session.exec(select(StoredSend).where(col(StoredSend.id).in_(numbers)))).all()


_CHATS_TO_SEND = text(
    """
    select s.chat
    from (select distinct chat from telegram_sends where agent_id = :agent and state = 'queued') s
    where not exists (
      select from telegram_moved_chats m
      join telegram_sends o on o.chat = cast(m.old_chat as text)
      and o.agent_id = :agent and o.state = 'queued'
      where cast(m.new_chat as text) = s.chat
    )
    """
)


async def chats_to_send(session: AsyncSession, agent_id: str) -> Sequence[str]:
    """The chats for which something waits, but a chat that another became only after what is being sent
    there: it was said before.
    """
    connection = await session.connection()
    return [row.chat for row in await connection.execute(_CHATS_TO_SEND, {"agent": agent_id})]


async def to_send(
    session: AsyncSession, agent_id: str, chat: str, after: int, limit: int
) -> Sequence[StoredSend]:
    """The next messages for a chat."""
    of_chat = col(StoredSend.agent_id) == agent_id, col(StoredSend.chat) == chat, _waits()
    query = select(StoredSend).where(*of_chat, col(StoredSend.id) > after)
    return (await session.exec(query.order_by(col(StoredSend.id)).limit(limit))).all()


_BEGIN = text(
    """
    update telegram_sends s
    set possibly_twice = s.possibly_twice or s.begun, begun = true, attempts = s.attempts + 1
    from unnest(:ids, :agents, :fences, :chats) as t (id, agent_id, fence, chat)
    join telegram_bots b on b.agent_id = t.agent_id and b.fence = t.fence
    where s.id = t.id and s.agent_id = t.agent_id and s.chat = t.chat and s.state = 'queued'
    returning s.id, s.possibly_twice
    """
).bindparams(
    bindparam("ids", type_=ARRAY(BigInteger)),
    bindparam("agents", type_=ARRAY(Text)),
    bindparam("fences", type_=ARRAY(BigInteger)),
    bindparam("chats", type_=ARRAY(Text)),
)


async def begin_sends(unit: Unit, sends: Sequence[tuple[Lease, int, str]]) -> dict[int, bool]:
    """Requests of these messages are about to leave; those still ours, and whether each may be a second."""
    connection = await unit.session.connection()
    values = {
        "ids": [number for _, number, _ in sends],
        "agents": [lease.agent_id for lease, _, _ in sends],
        "fences": [lease.fence for lease, _, _ in sends],
        "chats": [chat for _, _, chat in sends],
    }
    return {row.id: row.possibly_twice for row in await connection.execute(_BEGIN, values)}


async def recorded(unit: Unit, numbers: Sequence[int]) -> dict[int, StoredSend]:
    """Messages whose outcome is to be recorded, locked."""
    query = select(StoredSend).where(col(StoredSend.id).in_(numbers)).order_by(col(StoredSend.id))
    found = (await unit.session.exec(query.with_for_update())).all()
    return {row.id: row for row in found if row.id is not None}


async def sent_lately(
    session: AsyncSession, agent_id: str, since: datetime
) -> Sequence[tuple[str, datetime]]:
    """Chats that were sent to since then, and when."""
    query = select(StoredSend.chat, StoredSend.finished_at).where(
        col(StoredSend.agent_id) == agent_id,
        col(StoredSend.finished_at) > since,
        col(StoredSend.state) != SendState.REFUSED,
    )
    return [(chat, at) for chat, at in await session.exec(query) if at is not None]


async def refuse_waiting(unit: Unit, agent_id: str, reason: str) -> int:
    """Nothing that waits will be sent; how many that were."""
    waiting = update(StoredSend).where(col(StoredSend.agent_id) == agent_id, _waits())
    ended = waiting.values(state=SendState.REFUSED, reason=reason, finished_at=unit.now)
    return (await unit.session.exec(ended)).rowcount


async def only_publisher(unit: Unit) -> bool:
    """Whether nobody else publishes until this command ends."""
    return bool((await unit.session.exec(select(func.pg_try_advisory_xact_lock(_PUBLISHER)))).one())
