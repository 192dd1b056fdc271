"""All queries of the crew room."""

from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.crew.model import Agent, AgentRun, Person, RunState


async def agents(session: AsyncSession) -> list[Agent]:
    return list((await session.exec(select(Agent).order_by(col(Agent.slug)))).all())


async def agent(session: AsyncSession, slug: str) -> Agent | None:
    return (await session.exec(select(Agent).where(col(Agent.slug) == slug))).one_or_none()


async def agent_named(session: AsyncSession, name: str) -> Agent | None:
    """By slug, or by id."""
    with suppress(ValueError):
        return await session.get(Agent, UUID(name))
    return await agent(session, name)


async def locked_agent(session: AsyncSession, slug: str) -> Agent | None:
    """The agent, and the right to decide about its slots until the transaction ends."""
    statement = select(Agent).where(col(Agent.slug) == slug).with_for_update()
    return (await session.exec(statement)).one_or_none()


async def open_counts(session: AsyncSession) -> dict[str, int]:
    """How many runs of each agent have not ended; agents without any are left out."""
    statement = select(AgentRun.agent, func.count()).where(_is_open()).group_by(col(AgentRun.agent))
    return dict((await session.exec(statement)).all())


async def open_count(session: AsyncSession, slug: str) -> int:
    statement = select(func.count()).select_from(AgentRun).where(col(AgentRun.agent) == slug, _is_open())
    return (await session.exec(statement)).one()


async def lock_people(session: AsyncSession) -> None:
    """Only one transaction at a time changes who works here; readers go on."""
    await session.exec(select(func.pg_advisory_xact_lock(func.hashtext("quarterdeck people"))))


async def people(session: AsyncSession) -> list[Person]:
    return list((await session.exec(select(Person).order_by(col(Person.slug)))).all())


async def people_with_token(session: AsyncSession) -> list[Person]:
    return list((await session.exec(select(Person).where(col(Person.token_hash).is_not(None)))).all())


async def person(session: AsyncSession, slug: str) -> Person | None:
    return (await session.exec(select(Person).where(col(Person.slug) == slug))).one_or_none()


async def person_by_handle(session: AsyncSession, door: str, handle: str) -> Person | None:
    statement = select(Person).where(col(Person.handles)[door].as_string() == handle)
    return (await session.exec(statement)).first()


async def run(session: AsyncSession, run_id: int) -> AgentRun | None:
    return (await session.exec(select(AgentRun).where(col(AgentRun.id) == run_id))).one_or_none()


async def locked_run(session: AsyncSession, run_id: int) -> AgentRun:
    """One run; nobody else changes it until the transaction ends."""
    statement = select(AgentRun).where(col(AgentRun.id) == run_id).with_for_update()
    return (await session.exec(statement)).one()


async def given_up_runs(session: AsyncSession, host: str) -> list[AgentRun]:
    """Runs of a host that was declared gone, and did not see them ended since."""
    statement = select(AgentRun).where(col(AgentRun.given_up), col(AgentRun.host) == host)
    return list((await session.exec(statement.order_by(col(AgentRun.id)))).all())


async def run_by_key(session: AsyncSession, idempotency_key: str) -> AgentRun | None:
    statement = select(AgentRun).where(col(AgentRun.idempotency_key) == idempotency_key)
    return (await session.exec(statement)).one_or_none()


async def runs_of(session: AsyncSession, item_key: str) -> list[AgentRun]:
    statement = select(AgentRun).where(col(AgentRun.item_key) == item_key).order_by(col(AgentRun.id))
    return list((await session.exec(statement)).all())


async def newest_runs(session: AsyncSession, limit: int) -> list[AgentRun]:
    statement = select(AgentRun).order_by(col(AgentRun.id).desc()).limit(limit)
    return list((await session.exec(statement)).all())


async def open_runs(session: AsyncSession, host: str | None = None) -> list[AgentRun]:
    """Runs that have not ended, oldest first; of one host, or of all."""
    statement = select(AgentRun).where(_is_open()).order_by(col(AgentRun.id))
    if host is not None:
        statement = statement.where(col(AgentRun.host) == host)
    return list((await session.exec(statement)).all())


async def change_run(session: AsyncSession, run_id: int, *, unless: set[RunState], **values: Any) -> bool:
    """Set columns of a run, unless it is in one of these states. True: it was not, and they are set."""
    statement = (
        update(AgentRun)
        .where(col(AgentRun.id) == run_id, col(AgentRun.state).not_in(unless))
        .values(**values)
        .returning(col(AgentRun.id))
    )
    return (await session.exec(statement)).first() is not None


def _is_open() -> Any:
    return col(AgentRun.state) != RunState.ENDED
