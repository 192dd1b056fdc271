"""All queries of the board."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Subquery, delete, exists, func, or_, tuple_, update
from sqlalchemy import select as sql_select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.board.cards import Card, Wanted
from quarterdeck.board.model import FINAL, OUTSIDE, ItemDependency, Project, State, WorkItem
from quarterdeck.kernel.journal import Event

SHOWN = 21
"""How many names an error looks up: twenty are shown, one more says that there are others."""


async def project(session: AsyncSession, key: str, *, lock: bool = False) -> Project | None:
    """One project; with `lock` nobody changes it or files an item in it until the transaction ends."""
    rows = select(Project).where(Project.key == key)
    return (await session.exec(rows.with_for_update(key_share=True) if lock else rows)).first()


async def open_keys(session: AsyncSession, project_id: UUID) -> Sequence[str]:
    """The oldest items of a project that are neither done nor cancelled."""
    rows = select(WorkItem.key).where(WorkItem.project_id == project_id, col(WorkItem.state).not_in(FINAL))
    return (await session.exec(rows.order_by(col(WorkItem.number)).limit(SHOWN))).all()


async def projects(session: AsyncSession, after: str, limit: int) -> Sequence[Project]:
    """In the order of their keys."""
    rows = select(Project).where(col(Project.key) > after).order_by(col(Project.key)).limit(limit)
    return (await session.exec(rows)).all()


async def project_keys(session: AsyncSession) -> Sequence[str]:
    return (await session.exec(select(Project.key).order_by(Project.key).limit(SHOWN))).all()


async def add_project(session: AsyncSession, row: Project) -> bool:
    """Whether the key was free."""
    added = insert(Project).values(row.model_dump()).on_conflict_do_nothing().returning(col(Project.id))
    return (await session.exec(added)).first() is not None


async def take_number(session: AsyncSession, project_id: UUID) -> int:
    """The project's next number. Its row stays locked until the transaction ends, so none is ever lost."""
    taken = (
        update(Project)
        .where(col(Project.id) == project_id)
        .values(next_number=col(Project.next_number) + 1)
        .returning(col(Project.next_number) - 1)
    )
    return int((await session.exec(taken)).scalar_one())


async def item(session: AsyncSession, key: str, *, lock: bool = False) -> WorkItem | None:
    """One item; with `lock` nobody else changes it until the transaction ends."""
    rows = select(WorkItem).where(WorkItem.key == key)
    return (await session.exec(rows.with_for_update(key_share=True) if lock else rows)).first()


async def item_keys(session: AsyncSession, project_key: str) -> Sequence[str]:
    """The newest keys of a project."""
    rows = select(WorkItem.key).join(Project).where(Project.key == project_key)
    return (await session.exec(rows.order_by(col(WorkItem.number).desc()).limit(SHOWN))).all()


async def ids_of(session: AsyncSession, keys: Iterable[str]) -> dict[str, UUID]:
    """The identities of those keys that exist."""
    rows = select(WorkItem.key, WorkItem.id).where(col(WorkItem.key).in_(list(keys)))
    return dict((await session.exec(rows)).all())


async def states_of(session: AsyncSession, keys: Iterable[str]) -> dict[str, State]:
    """Where those items stand that exist."""
    rows = select(WorkItem.key, WorkItem.state).where(col(WorkItem.key).in_(list(keys)))
    return {key: State(state) for key, state in (await session.exec(rows)).all()}


async def titles_since(session: AsyncSession, moment: datetime) -> Sequence[str]:
    """The titles of open items of ours that were filed since."""
    ours = (col(WorkItem.pipeline) != OUTSIDE, col(WorkItem.state).not_in(FINAL))
    rows = select(WorkItem.title).where(col(WorkItem.created_at) >= moment, *ours)
    return (await session.exec(rows)).all()


async def items(
    session: AsyncSession, wanted: Wanted, before: tuple[datetime, UUID] | None, limit: int
) -> Sequence[WorkItem]:
    """Newest first."""
    age = tuple_(col(WorkItem.created_at), col(WorkItem.id))
    rows = select(WorkItem).where(*_filters(wanted))
    if before:
        rows = rows.where(age < before)
    rows = rows.order_by(col(WorkItem.created_at).desc(), col(WorkItem.id).desc()).limit(limit)
    return (await session.exec(rows)).all()


def _filters(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.project:
        of_project = select(Project.id).where(Project.key == wanted.project)
        found.append(col(WorkItem.project_id).in_(of_project))
    if wanted.state:
        found.append(col(WorkItem.state).in_(wanted.state))
    if wanted.stage:
        found.append(col(WorkItem.stage) == wanted.stage)
    if wanted.assignee:
        found.append(col(WorkItem.assignee) == wanted.assignee)
    if wanted.label:
        found.append(col(WorkItem.labels).contains([wanted.label]))
    if wanted.q:
        columns = (WorkItem.key, WorkItem.title, WorkItem.description)
        found.append(or_(*(col(c).icontains(wanted.q, autoescape=True) for c in columns)))
    return found


async def counts(session: AsyncSession) -> dict[State, int]:
    """How many items are in each state."""
    rows = select(WorkItem.state, func.count()).group_by(col(WorkItem.state))
    return {State(state): count for state, count in (await session.exec(rows)).all()}


async def cards(session: AsyncSession, rows: Sequence[WorkItem]) -> list[Card]:
    """The items as they are shown, with the keys of what they are linked to."""
    project_ids = {row.project_id for row in rows}
    found = await session.exec(select(Project.id, Project.key).where(col(Project.id).in_(project_ids)))
    project_key = dict(found.all())
    parent_ids = {row.parent_id for row in rows if row.parent_id}
    parents = await session.exec(select(WorkItem.id, WorkItem.key).where(col(WorkItem.id).in_(parent_ids)))
    parent_key = dict(parents.all())
    needs = await _needs(session, [row.id for row in rows])
    return [
        Card(
            **row.model_dump(include=set(Card.model_fields)),
            project=project_key[row.project_id],
            parent=parent_key.get(row.parent_id) if row.parent_id else None,
            depends_on=tuple(key for key, _ in needs[row.id]),
            waiting_for=tuple(key for key, state in needs[row.id] if state != State.DONE),
        )
        for row in rows
    ]


async def _needs(
    session: AsyncSession, item_ids: Collection[UUID]
) -> defaultdict[UUID, list[tuple[str, State]]]:
    rows = (
        select(ItemDependency.item_id, WorkItem.key, WorkItem.state)
        .join(WorkItem, col(WorkItem.id) == col(ItemDependency.needs_id))
        .where(col(ItemDependency.item_id).in_(item_ids))
        .order_by(WorkItem.key)
    )
    needs: defaultdict[UUID, list[tuple[str, State]]] = defaultdict(list)
    for item_id, key, state in (await session.exec(rows)).all():
        needs[item_id].append((key, State(state)))
    return needs


def dependencies_done() -> ColumnElement[bool]:
    """A condition on `WorkItem`: all that the item depends on is done.

    What was cancelled is not done: who depends on it waits until a person takes the dependency away.
    """
    needed = aliased(WorkItem)
    waits = (
        select(ItemDependency.item_id)
        .join(needed, col(needed.id) == col(ItemDependency.needs_id))
        .where(col(ItemDependency.item_id) == col(WorkItem.id), col(needed.state) != State.DONE)
        .correlate(WorkItem)
    )
    return ~exists(waits.subquery())


async def lock_links(session: AsyncSession) -> None:
    """From here to the end of the transaction nobody else changes parents or dependencies.

    Two changes that are harmless alone can close a cycle together. Taken before any item is locked.
    """
    await session.exec(select(func.pg_advisory_xact_lock(func.hashtext("quarterdeck items links"))))


async def set_needs(session: AsyncSession, item_id: UUID, needs: Iterable[UUID]) -> None:
    """Replace what an item depends on."""
    await session.exec(delete(ItemDependency).where(col(ItemDependency.item_id) == item_id))
    session.add_all(ItemDependency(item_id=item_id, needs_id=needed) for needed in needs)
    await session.flush()


async def needs_from(session: AsyncSession, item_id: UUID) -> dict[str, set[str]]:
    """Who depends on whom, as far as it can be reached from an item."""
    links = select(ItemDependency.item_id, ItemDependency.needs_id).subquery()
    return await _reach(session, links, item_id)


async def parents_from(session: AsyncSession, item_id: UUID) -> dict[str, set[str]]:
    """Who is whose child, upwards from an item."""
    has_parent = col(WorkItem.parent_id).is_not(None)
    links = select(WorkItem.id, WorkItem.parent_id).where(has_parent).subquery()
    return await _reach(session, links, item_id)


async def _reach(session: AsyncSession, links: Subquery, start: UUID) -> dict[str, set[str]]:
    """The part of `links` (from, to) that begins at `start`, with keys for identities."""
    source, target = links.c
    reached = sql_select(source, target).where(source == start).cte("reached", recursive=True)
    reached = reached.union(sql_select(source, target).join(reached, source == reached.c[1]))
    here, there = aliased(WorkItem), aliased(WorkItem)
    rows = (
        select(here.key, there.key)
        .join(reached, reached.c[0] == col(here.id))
        .join(there, col(there.id) == reached.c[1])
    )
    edges: defaultdict[str, set[str]] = defaultdict(set)
    for one, other in (await session.exec(rows)).all():
        edges[one].add(other)
    return edges


async def events(session: AsyncSession, key: str, after: int, limit: int) -> Sequence[Event]:
    """The events of an item, in the order in which they were committed."""
    rows = select(Event).where(Event.item_key == key, col(Event.id) > after)
    return (await session.exec(rows.order_by(col(Event.id)).limit(limit))).all()
