"""The roster file becomes the tables: who is new, who changed, who left."""

from collections.abc import Mapping
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.crew import rules, store
from quarterdeck.crew.model import Agent, Person, Role
from quarterdeck.crew.roster import ENGINE, OWNER, AgentEntry, Roster
from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.errors import Conflict, Misconfigured, NotFound


async def differences(session: AsyncSession, roster: Roster) -> list[str]:
    """How file and tables differ, in sentences. The owner need not be in the file."""
    agents = {entry.slug: entry.columns() for entry in roster.agents}
    people = {entry.slug: entry.columns() for entry in roster.people}
    stored_agents = {row.slug: row.model_dump() for row in await store.agents(session)}
    stored_people = {row.slug: row.model_dump() for row in await store.people(session)}
    if OWNER not in people:
        stored_people.pop(OWNER, None)
    return [*rules.drift("Agent", agents, stored_agents), *rules.drift("Person", people, stored_people)]


async def enrol(unit: Unit, roster: Roster, given: Mapping[str, str]) -> list[str]:
    """Make the tables equal to the file; returns what was different, and which tokens are not set."""
    await store.lock_people(unit.session)
    told = await differences(unit.session, roster)
    await _enrol_agents(unit, roster)
    return told + await _enrol_people(unit, roster, given)


async def create(unit: Unit, entry: AgentEntry) -> Agent:
    """A new agent. Raises `Conflict` when an agent or a person has this name."""
    await store.lock_people(unit.session)
    taken = await store.agent(unit.session, entry.slug) or await store.person(unit.session, entry.slug)
    if taken or entry.slug in (OWNER, ENGINE):
        raise Conflict(f"The name {entry.slug} is taken.", "Choose another slug.", code="slug_taken")
    row = Agent(slug=entry.slug, name="", created_at=unit.now, updated_at=unit.now)
    _change(unit, row, entry.columns())
    await unit.session.flush()
    return row


async def change(unit: Unit, slug: str, entry: AgentEntry) -> Agent:
    """Make an agent as an entry says; its slug stays. Raises `NotFound`, `Conflict` for another slug."""
    row = await store.locked_agent(unit.session, slug)
    if row is None:
        raise NotFound.among("agent", slug, [agent.slug for agent in await store.agents(unit.session)])
    if entry.slug != slug:
        raise Conflict(
            f"Agent {slug} cannot be renamed: its runs and pipelines know it by this name.",
            "Create another agent, and disable this one.",
            code="slug_fixed",
        )
    _change(unit, row, entry.columns())
    return row


async def _enrol_agents(unit: Unit, roster: Roster) -> None:
    stored = {row.slug: row for row in await store.agents(unit.session)}
    for entry in roster.agents:
        row = stored.pop(entry.slug, None) or Agent(
            slug=entry.slug, name="", created_at=unit.now, updated_at=unit.now
        )
        _change(unit, row, entry.columns())
    for row in stored.values():
        await unit.session.delete(row)


async def _enrol_people(unit: Unit, roster: Roster, given: Mapping[str, str]) -> list[str]:
    stored = {row.slug: row for row in await store.people(unit.session)}
    await _end_tokens(unit, stored, roster, given)
    for entry in roster.people:
        row = stored.get(entry.slug) or _new_person(unit, entry.slug)
        _change(unit, row, entry.columns())
        if entry.slug in given:
            await take_token(unit, row, given[entry.slug])
    return [
        f"{entry.slug} gets no token now: {entry.token_env} is not set."
        for entry in roster.people
        if entry.token_env and entry.slug not in given
    ]


async def _end_tokens(
    unit: Unit, stored: Mapping[str, Person], roster: Roster, given: Mapping[str, str]
) -> None:
    """Take people out who left, and tokens that are replaced or no longer named; others may get them."""
    entries = {entry.slug: entry for entry in roster.people}
    for slug, row in stored.items():
        entry = entries.get(slug)
        if entry is None and slug != OWNER:
            await unit.session.delete(row)
        elif slug in given or (slug != OWNER and entry and not entry.token_env):
            row.token_hash = None
    await unit.session.flush()


async def the_owner(unit: Unit) -> Person:
    """The owner's row, made if it is not there."""
    await store.lock_people(unit.session)
    if owner := await store.person(unit.session, OWNER):
        return owner
    owner = _new_person(unit, OWNER)
    _change(unit, owner, {"name": "Owner", "role": Role.OWNER})
    return owner


def _new_person(unit: Unit, slug: str) -> Person:
    return Person(slug=slug, name="", created_at=unit.now, updated_at=unit.now)


def _change(unit: Unit, row: Agent | Person, columns: Mapping[str, Any]) -> None:
    if any(getattr(row, name) != value for name, value in columns.items()):
        for name, value in columns.items():
            setattr(row, name, value)
        row.updated_at = unit.now
    unit.session.add(row)


async def take_token(unit: Unit, person: Person, token: str) -> None:
    """Give a person this token instead of the former. Raises `Misconfigured` if it is somebody else's."""
    digest = rules.digest(token)
    for other in await store.people_with_token(unit.session):
        if other.token_hash == digest and other.slug != person.slug:
            raise Misconfigured(
                f"{person.slug} would get the token that {other.slug} has.", "Give each a token of their own."
            )
    person.token_hash = digest
    unit.session.add(person)
