"""What the board can do: open projects, file items, change and show them."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Protocol
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.board import rules, store
from quarterdeck.board.cards import (
    Card,
    Changes,
    Draft,
    Entry,
    ProjectCard,
    ProjectChanges,
    ProjectDraft,
    Wanted,
)
from quarterdeck.board.model import Project, State, WorkItem
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, NotFound, Stale
from quarterdeck.kernel.idempotency import once, request
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.ids import item_key
from quarterdeck.kernel.journal import Event
from quarterdeck.kernel.paging import Page, bad_cursor, cursor, place

_PLACE = frozenset({"repository", "default_branch"})
"""Where the work of open items lies and goes."""


class Surroundings(Protocol):
    """What the board must ask of rooms that it does not know; bound by whoever puts the house together."""

    async def first_stage(self, pipeline: str) -> str:
        """Where an item begins. Raises `NotFound` naming the pipelines there are."""
        ...

    async def stages(self) -> Collection[str]:
        """The names of all stages of all pipelines."""
        ...

    async def workers(self) -> Collection[str]:
        """Everyone an item can be given to: agents and people."""
        ...

    async def check_repository(self, repository: str) -> None:
        """Raises `Invalid` for what no code host could hold, `Conflict` where none is connected."""
        ...

    def check_branch(self, branch: str) -> None:
        """Raises `Invalid` for what cannot be a project's default branch."""
        ...

    def text(self, event: Event) -> str:
        """An event in words for people."""
        ...


class Board:
    """Projects and work items. Where an item stands in its pipeline is not decided here."""

    def __init__(self, database: Database, surroundings: Surroundings) -> None:
        self.database = database
        self.surroundings = surroundings

    async def create_project(self, caller: Caller, draft: ProjectDraft, request_key: str = "") -> ProjectCard:
        """Open a line of work.

        Raises `Conflict` when the key is taken, `NotFound` for an unknown pipeline, `Invalid` for an
        impossible repository or branch.
        """
        caller.must_write()
        draft = draft.model_copy(update={"repository": draft.repository or draft.key.lower()})
        await self.surroundings.check_repository(draft.repository)
        self.surroundings.check_branch(draft.default_branch)
        await self.surroundings.first_stage(draft.pipeline)
        asked = request(caller.name, request_key, "create project", draft.model_dump(mode="json"))
        async with self.database.command("create project") as unit:
            return await once(unit, asked, ProjectCard, lambda: _create_project(unit, caller, draft))

    async def edit_project(
        self, caller: Caller, key: str, changes: ProjectChanges, version: int | None = None
    ) -> ProjectCard:
        """Change a project, put it away or take it back. Changing nothing leaves its version as it is.

        Raises `Stale` when it has changed since `version`, `NotFound` for an unknown project or pipeline,
        `Conflict` for another repository or branch while items are open, `Invalid` for an impossible one.
        """
        caller.must_write()
        wanted = changes.model_dump(exclude_unset=True, exclude={"version"})
        if "repository" in wanted:
            wanted["repository"] = wanted["repository"] or key.lower()
            await self.surroundings.check_repository(wanted["repository"])
        if "default_branch" in wanted:
            self.surroundings.check_branch(wanted["default_branch"])
        if "pipeline" in wanted:
            await self.surroundings.first_stage(wanted["pipeline"])
        async with self.database.command("edit project") as unit:
            row = await _project(unit.session, key, lock=True)
            must_be_current(row, version or changes.version)
            changed = sorted(field for field, value in wanted.items() if getattr(row, field) != value)
            if set(changed) & _PLACE:
                await _must_be_at_rest(unit.session, row)
            if changed:
                row.sqlmodel_update(
                    {field: wanted[field] for field in changed} | {"version": row.version + 1}
                )
                unit.record("project_edited", project=key, by=caller.name, fields=changed)
            return ProjectCard.model_validate(row)

    async def projects(self, after: str | None = None, limit: int = 50) -> Page[ProjectCard]:
        """All projects, by key."""
        start = place(after, 1)[0] if after else ""
        async with self.database.read() as session:
            rows = await store.projects(session, start, limit + 1)
        cards = [ProjectCard.model_validate(row) for row in rows[:limit]]
        return Page(items=cards, next_cursor=cursor(cards[-1].key) if len(rows) > limit else None)

    async def project(self, key: str) -> ProjectCard:
        """One project. Raises `NotFound`."""
        async with self.database.read() as session:
            return ProjectCard.model_validate(await _project(session, key))

    async def file(self, caller: Caller, draft: Draft, request_key: str = "") -> Card:
        """File a work item: it gets the project's next key and waits in its first stage.

        Raises `NotFound` for an unknown project, assignee, parent or dependency.
        """
        caller.must_write()
        reporter = caller.acting_for(draft.by)
        await self._must_know(draft.assignee, draft.by)
        stage = await self.surroundings.first_stage((await self.project(draft.project)).pipeline)
        asked = request(caller.name, request_key, "file item", draft.model_dump(mode="json"))
        async with self.database.command("file item") as unit:
            return await once(unit, asked, Card, lambda: self.file_within(unit, draft, reporter, stage))

    async def file_within(self, unit: Unit, draft: Draft, reporter: str, stage: str) -> Card:
        """File an item as part of a larger command; who may do so and its first stage are settled."""
        item = await _add_item(unit, draft, reporter, stage)
        unit.record("item_filed", item=item.key, title=item.title, stage=stage, by=reporter)
        unit.wake("items", item.key)
        [card] = await store.cards(unit.session, [item])
        return card

    async def edit(self, caller: Caller, key: str, changes: Changes, version: int | None = None) -> Card:
        """Change what an item says. Changing nothing leaves its version as it is.

        Raises `Stale` when the item has moved on since `version`, `Conflict` when a parent or a dependency
        would close a cycle, `NotFound` for an unknown item, assignee, parent or dependency.
        """
        caller.must_write()
        await self._must_know(changes.assignee)
        async with self.database.command("edit item") as unit:
            return await self.edit_within(unit, caller.name, key, changes, version)

    async def edit_within(
        self, unit: Unit, by: str, key: str, changes: Changes, version: int | None = None
    ) -> Card:
        """Change an item as part of a larger command; see `edit`."""
        fields = changes.model_fields_set - {"version"}
        if fields & {"depends_on", "parent"}:
            await store.lock_links(unit.session)
        item = await _item(unit.session, key, lock=True)
        must_be_current(item, version or changes.version)
        [before] = await store.cards(unit.session, [item])
        await _change(unit.session, item, changes, fields)
        [after] = await store.cards(unit.session, [item])
        changed = sorted(f for f in fields if getattr(after, f) != getattr(before, f))
        if not changed:
            return after
        item.version += 1
        item.updated_at = unit.now
        unit.record("item_edited", item=key, by=by, fields=changed)
        unit.wake("items", key)
        return after.model_copy(update={"version": item.version, "updated_at": item.updated_at})

    async def item(self, key: str) -> Card:
        """One item. Raises `NotFound`."""
        async with self.database.read() as session:
            [card] = await store.cards(session, [await _item(session, key)])
        return card

    async def items(self, wanted: Wanted, after: str | None = None, limit: int = 50) -> Page[Card]:
        """The items that are wanted, newest first.

        Raises `NotFound` when the project, stage or assignee asked for does not exist.
        """
        await self._must_exist(wanted)
        async with self.database.read() as session:
            rows = await store.items(session, wanted, _age(after) if after else None, limit + 1)
            cards = await store.cards(session, rows[:limit])
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(
            items=cards, next_cursor=cursor(last.created_at.isoformat(), str(last.id)) if last else None
        )

    async def counts(self) -> Mapping[State, int]:
        """How many items are in each state."""
        async with self.database.read() as session:
            return await store.counts(session)

    async def events(self, key: str, after: int = 0, limit: int = 100) -> Page[Entry]:
        """What happened to an item, oldest first; `after` is the id of the last event seen."""
        async with self.database.read() as session:
            await _item(session, key)
            rows = await store.events(session, key, after, limit + 1)
        entries = [self._entry(row) for row in rows[:limit]]
        return Page(items=entries, next_cursor=str(entries[-1].id) if len(rows) > limit else None)

    def _entry(self, event: Event) -> Entry:
        return Entry.model_validate(event.model_dump() | {"text": self.surroundings.text(event)})

    async def _must_know(self, *names: str | None) -> None:
        if asked := [name for name in names if name]:
            known = await self.surroundings.workers()
            for name in asked:
                if name not in known:
                    raise NotFound.among("agent or person", name, known)

    async def _must_exist(self, wanted: Wanted) -> None:
        await self._must_know(wanted.assignee)
        if wanted.project:
            await self.project(wanted.project)
        if wanted.stage and wanted.stage not in (known := await self.surroundings.stages()):
            raise NotFound.among("stage", wanted.stage, known)


async def card_within(unit: Unit, item: WorkItem) -> Card:
    """An item as it stands inside a larger command."""
    await unit.session.flush()
    [card] = await store.cards(unit.session, [item])
    return card


async def _create_project(unit: Unit, caller: Caller, draft: ProjectDraft) -> ProjectCard:
    if not await store.add_project(unit.session, _new_project(draft, unit.now)):
        raise Conflict(
            f"There is a project {draft.key} already.",
            "Choose another key, or use the project that exists.",
            code="project_exists",
        )
    card = ProjectCard.model_validate(await _project(unit.session, draft.key))
    unit.record("project_created", project=card.key, by=caller.name)
    return card


def _new_project(draft: ProjectDraft, now: datetime) -> Project:
    return Project(**draft.model_dump(), created_at=now)


async def _must_be_at_rest(session: AsyncSession, project: Project) -> None:
    if keys := await store.open_keys(session, project.id):
        raise Conflict(
            f"{project.key} has open items: {', '.join(keys[:5])}{', …' if len(keys) > 5 else ''}.",
            "Their work lies in the repository and goes into the branch that are known now: finish or cancel"
            " them first.",
            code="items_open",
        )


async def _project(session: AsyncSession, key: str, *, lock: bool = False) -> Project:
    row = await store.project(session, key, lock=lock)
    if row is None:
        raise NotFound.among("project", key, await store.project_keys(session))
    return row


async def _item(session: AsyncSession, key: str, *, lock: bool = False) -> WorkItem:
    row = await store.item(session, key, lock=lock)
    if row is None:
        raise await _unknown_item(session, key)
    return row


async def _unknown_item(session: AsyncSession, key: str) -> NotFound:
    of, dash, _ = key.rpartition("-")
    if not dash:
        return NotFound(f"There is no item {key!r}.", "Keys of items look like ET-007.", code="unknown_item")
    project = await store.project(session, of)
    if project is None:
        return NotFound.among("project", of, await store.project_keys(session))
    return NotFound.among("item", key, await store.item_keys(session, project.key))


async def _ids(session: AsyncSession, keys: Collection[str]) -> dict[str, UUID]:
    found = await store.ids_of(session, keys)
    for key in keys:
        if key not in found:
            raise await _unknown_item(session, key)
    return found


async def _add_item(unit: Unit, draft: Draft, reporter: str, stage: str) -> WorkItem:
    linked = await _ids(unit.session, [*draft.depends_on, *([draft.parent] if draft.parent else [])])
    project = await _project(unit.session, draft.project, lock=True)
    if project.archived:
        raise Conflict(
            f"The project {project.key} is archived.",
            "File the item in another project, or take this one back:"
            f" `quarterdeck project unarchive {project.key}`.",
            code="archived",
        )
    number = await store.take_number(unit.session, project.id)
    item = WorkItem(
        project_id=project.id,
        number=number,
        key=item_key(project.key, number),
        **draft.model_dump(include={"title", "description", "priority", "assignee"}),
        labels=list(dict.fromkeys(draft.labels)),
        reporter=reporter,
        parent_id=linked[draft.parent] if draft.parent else None,
        created_at=unit.now,
        updated_at=unit.now,
        pipeline=project.pipeline,
        stage=stage,
    )
    unit.session.add(item)
    await unit.session.flush()
    await store.set_needs(unit.session, item.id, {linked[key] for key in draft.depends_on})
    return item


def must_be_current(row: WorkItem | Project, version: int | None) -> None:
    """Raises `Stale` when somebody changed it since this version was read; None = whatever it is."""
    if version is not None and version != row.version:
        raise Stale(
            f"{row.key} is at version {row.version} now; the change was made to version {version}.",
            "Read it again, look at what changed, and repeat the change if it still fits.",
            version=row.version,
        )


async def _change(session: AsyncSession, item: WorkItem, changes: Changes, fields: Collection[str]) -> None:
    for field in {"title", "description", "priority", "assignee"} & set(fields):
        setattr(item, field, getattr(changes, field))
    if "labels" in fields:
        item.labels = list(dict.fromkeys(changes.labels))
    if "depends_on" in fields:
        await _set_dependencies(session, item, changes.depends_on)
    if "parent" in fields:
        await _set_parent(session, item, changes.parent)


async def _set_dependencies(session: AsyncSession, item: WorkItem, keys: Collection[str]) -> None:
    needed = await _ids(session, keys)
    await store.set_needs(session, item.id, set(needed.values()))
    way = rules.cycle(await store.needs_from(session, item.id), item.key)
    if way:
        raise Conflict(
            f"{item.key} would wait for itself: {' → '.join(way)}.",
            "Leave out one of these dependencies.",
            code="dependency_cycle",
            cycle=way,
        )


async def _set_parent(session: AsyncSession, item: WorkItem, key: str | None) -> None:
    item.parent_id = (await _ids(session, [key]))[key] if key else None
    await session.flush()
    way = rules.cycle(await store.parents_from(session, item.id), item.key)
    if way:
        raise Conflict(
            f"{item.key} would be its own ancestor: {' → '.join(way)}.",
            "Choose a parent that is not below the item.",
            code="parent_cycle",
            cycle=way,
        )


def _age(after: str) -> tuple[datetime, UUID]:
    created, identity = place(after, 2)
    try:
        return datetime.fromisoformat(created), UUID(identity)
    except ValueError:
        raise bad_cursor() from None
