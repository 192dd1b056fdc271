"""Items are filed with keys that have no gaps, and changed without losing anybody's change."""

import asyncio
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlmodel import col, select

from quarterdeck.board import store
from quarterdeck.board.cards import Changes, Draft, ProjectDraft, Wanted
from quarterdeck.board.model import State, WorkItem
from quarterdeck.board.service import Board
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, Forbidden, Invalid, NotFound, Stale
from quarterdeck.kernel.journal import Event
from tests.fakes.surroundings import MEMBER, OWNER, VIEWER, SmallCompany


@pytest.fixture
async def board(database: Database) -> Board:
    """A board with the project ET."""
    board = Board(database, SmallCompany())
    await board.create_project(MEMBER, ProjectDraft(key="ET", name="Enduro"))
    return board


async def file(board: Board, title: str = "A thing", **fields: object) -> str:
    return (await board.file(MEMBER, Draft(project="ET", title=title, **fields))).key


async def finish(board: Board, key: str, state: State = State.DONE) -> None:
    async with board.database.command("finish") as unit:
        item = (await unit.session.exec(select(WorkItem).where(WorkItem.key == key))).one()
        item.state = state


async def test_an_item_waits_in_the_first_stage_with_all_that_was_said(board: Board):
    first = await file(board)
    card = await board.file(
        MEMBER,
        Draft(
            project="ET",
            title="  Greet  ",
            description="By name.",
            priority="high",
            assignee="developer",
            labels=("b", "a", "b"),
            depends_on=(first,),
            parent=first,
        ),
    )
    assert (card.key, card.title, card.priority, card.labels) == ("ET-002", "Greet", "high", ("b", "a"))
    assert (card.stage, card.state, card.round, card.version) == ("analysis", "queued", 1, 1)
    assert (card.parent, card.depends_on, card.waiting_for) == (first, (first,), (first,))
    assert card.reporter == "anna"
    assert await board.item("ET-002") == card


async def test_fifty_items_filed_at_once_get_fifty_numbers_in_a_row(board: Board):
    keys = await asyncio.gather(*(file(board, f"Thing {n}") for n in range(50)))
    assert sorted(keys) == [f"ET-{n:03d}" for n in range(1, 51)]


async def test_a_refused_item_uses_up_no_number(board: Board):
    await file(board)
    with pytest.raises(NotFound):
        await file(board, depends_on=("ET-999",))
    assert await file(board) == "ET-002"


filings = st.lists(st.tuples(st.sampled_from(range(2)), st.booleans()), max_size=15)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filings)
async def test_numbers_have_no_gaps_whatever_is_refused_in_between(database: Database, filings):
    board = Board(database, SmallCompany())
    projects = ["P" + uuid4().hex[:9].upper() for _ in range(2)]
    for key in projects:
        await board.create_project(MEMBER, ProjectDraft(key=key, name="Numbers"))
    attempts = [
        Draft(project=projects[which], title="x", depends_on=() if is_good else ("ET-999",))
        for which, is_good in filings
    ]
    await asyncio.gather(*(board.file(MEMBER, draft) for draft in attempts), return_exceptions=True)
    for which, project in enumerate(projects):
        keys = {card.key for card in (await board.items(Wanted(project=project))).items}
        good = filings.count((which, True))
        assert keys == {f"{project}-{number:03d}" for number in range(1, good + 1)}


async def test_filing_is_told_to_the_journal(board: Board):
    key = await file(board, "Greet")
    [entry] = (await board.events(key)).items
    assert (entry.kind, entry.text) == ("item_filed", "ET-001: item_filed")
    assert entry.data == {"title": "Greet", "stage": "analysis", "by": "anna"}


async def test_only_the_owner_files_in_the_name_of_others(board: Board):
    draft = Draft(project="ET", title="A thing", by="viktor")
    assert (await board.file(OWNER, draft)).reporter == "viktor"
    assert (await board.file(MEMBER, draft)).reporter == "anna"


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"project": "XX"}, "unknown_project", "ET"),
        ({"assignee": "nobody"}, "unknown_agent_or_person", "analyst, anna, developer, viktor"),
        ({"depends_on": ("ET-777",)}, "unknown_item", "ET-001"),
        ({"parent": "ET-777"}, "unknown_item", "ET-001"),
        ({"parent": "nonsense"}, "unknown_item", "ET-007"),
    ],
)
async def test_what_is_unknown_is_answered_with_what_there_is(board: Board, fields, code, named):
    await file(board)
    with pytest.raises(NotFound) as refused:
        await board.file(MEMBER, Draft(**{"project": "ET", "title": "A thing", **fields}))
    assert refused.value.code == code
    assert named in refused.value.instruction


async def test_who_may_only_look_changes_nothing(board: Board):
    key = await file(board)
    for attempt in (
        board.create_project(VIEWER, ProjectDraft(key="XX", name="x")),
        board.file(VIEWER, Draft(project="ET", title="x")),
        board.edit(VIEWER, key, Changes(title="x")),
    ):
        with pytest.raises(Forbidden):
            await attempt
    assert [item.title for item in (await board.items(Wanted())).items] == ["A thing"]
    assert [project.key for project in (await board.projects()).items] == ["ET"]


async def test_an_edit_changes_what_it_names_and_nothing_else(board: Board):
    key = await file(board, "Old", description="Kept", labels=("kept",), assignee="anna")
    card = await board.edit(MEMBER, key, Changes(title="New", assignee=None))
    assert (card.title, card.assignee, card.description, card.labels) == ("New", None, "Kept", ("kept",))
    assert card.version == 2
    assert card == await board.item(key)
    assert (await board.events(key)).items[-1].data == {"by": "anna", "fields": ["assignee", "title"]}


async def test_an_edit_that_changes_nothing_leaves_no_trace(board: Board):
    key = await file(board, "Same", labels=("a",))
    card = await board.edit(MEMBER, key, Changes(title="Same", labels=("a",), depends_on=()))
    assert card.version == 1
    assert len((await board.events(key)).items) == 1


async def test_a_change_to_an_old_version_is_refused_and_says_which_is_new(board: Board):
    key = await file(board)
    await board.edit(MEMBER, key, Changes(title="First", version=1))
    with pytest.raises(Stale) as refused:
        await board.edit(MEMBER, key, Changes(title="Second", version=1))
    assert refused.value.data == {"version": 2}
    assert (await board.item(key)).title == "First"


async def test_of_many_edits_of_one_version_exactly_one_wins(board: Board):
    key = await file(board)
    edits = [board.edit(MEMBER, key, Changes(title=f"Edit {n}", version=1)) for n in range(10)]
    answers = await asyncio.gather(*edits, return_exceptions=True)
    winners = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(answer, Stale) for answer in answers if answer is not winners[0])
    assert (await board.item(key)).title == winners[0].title


async def test_a_project_key_is_taken_once(board: Board):
    drafts = [ProjectDraft(key="NEW", name=f"Number {n}") for n in range(5)]
    answers = await asyncio.gather(*(board.create_project(MEMBER, d) for d in drafts), return_exceptions=True)
    assert [type(a) for a in answers].count(Conflict) == 4
    assert (await board.project("NEW")).repository == "new"


async def test_a_project_of_an_unknown_pipeline_is_not_created(board: Board):
    with pytest.raises(NotFound, match="default"):
        await board.create_project(MEMBER, ProjectDraft(key="NEW", name="New", pipeline="nonsense"))


async def test_an_archived_project_takes_no_items(board: Board):
    async with board.database.command("archive") as unit:
        (await store.project(unit.session, "ET")).archived = True
    with pytest.raises(Conflict, match="archived"):
        await file(board)


async def test_a_repeated_request_has_one_effect_and_one_answer(board: Board):
    draft = Draft(project="ET", title="Once")
    answers = await asyncio.gather(*(board.file(MEMBER, draft, "key-1") for _ in range(8)))
    assert answers == [answers[0]] * 8
    assert len((await board.items(Wanted())).items) == 1
    await board.edit(MEMBER, answers[0].key, Changes(title="Twice"))
    assert await board.file(MEMBER, draft, "key-1") == answers[0]


async def test_a_request_key_with_another_body_or_another_request_is_refused(board: Board):
    await board.file(MEMBER, Draft(project="ET", title="Once"), "key-1")
    for attempt in (
        board.file(MEMBER, Draft(project="ET", title="Other"), "key-1"),
        board.create_project(MEMBER, ProjectDraft(key="NEW", name="New"), "key-1"),
    ):
        with pytest.raises(Invalid, match="Idempotency-Key"):
            await attempt


async def test_a_request_key_belongs_to_its_caller_and_stays_free_after_a_failure(board: Board):
    with pytest.raises(NotFound):
        await board.file(MEMBER, Draft(project="ET", title="x", parent="ET-001"), "key-1")
    first = await board.file(MEMBER, Draft(project="ET", title="Mine"), "key-1")
    second = await board.file(OWNER, Draft(project="ET", title="Theirs"), "key-1")
    assert (first.key, second.key) == ("ET-001", "ET-002")


async def test_pages_hold_every_item_once_newest_first(board: Board):
    keys = [await file(board, f"Thing {n}") for n in range(7)]
    found, after = [], None
    while True:
        page = await board.items(Wanted(), after, limit=3)
        found += [item.key for item in page.items]
        if not (after := page.next_cursor):
            break
    assert found == keys[::-1]


async def test_projects_come_in_pages_by_key(board: Board):
    await board.create_project(MEMBER, ProjectDraft(key="AA", name="First"))
    first = await board.projects(limit=1)
    second = await board.projects(first.next_cursor, limit=1)
    assert [p.key for p in first.items + second.items] == ["AA", "ET"]
    assert second.next_cursor is None


async def test_filters_add_up(board: Board):
    done = await file(board, "Say 100% hello", labels=("x", "y"), assignee="anna")
    await file(board, "Say 100 hello", labels=("x",))
    await file(board, "Other", labels=("y",), assignee="anna")
    await finish(board, done)

    async def found(**fields: object) -> list[str]:
        return sorted(item.key for item in (await board.items(Wanted(**fields))).items)

    assert await found(q="0% HEL") == [done]
    assert await found(label="x") == ["ET-001", "ET-002"]
    assert await found(label="y", assignee="anna", state=("queued", "running")) == ["ET-003"]
    assert await found(stage="merge") == []
    assert await found(project="ET", q="et-00") == ["ET-001", "ET-002", "ET-003"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"project": "XX"}, "ET"), ({"stage": "x"}, "analysis"), ({"assignee": "x"}, "anna")],
)
async def test_a_filter_for_what_does_not_exist_says_what_does(board: Board, fields, named):
    with pytest.raises(NotFound, match=named):
        await board.items(Wanted(**fields))


@pytest.mark.parametrize("cursor", ["x", "é", "WyJhIl0", "WyJhIiwiYiJd", "bnVsbA", "W" * 100])
async def test_a_cursor_that_was_not_given_out_is_refused(board: Board, cursor):
    with pytest.raises(Invalid, match="cursor"):
        await board.items(Wanted(), cursor)


async def test_events_go_on_after_the_last_one_seen(board: Board):
    key = await file(board)
    for title in ("One", "Two"):
        await board.edit(MEMBER, key, Changes(title=title))
    first = await board.events(key, limit=2)
    rest = await board.events(key, after=first.items[-1].id, limit=2)
    assert first.next_cursor == str(first.items[-1].id)
    assert [e.kind for e in first.items + rest.items] == ["item_filed", "item_edited", "item_edited"]
    assert rest.next_cursor is None
    assert (await board.events(key, after=rest.items[-1].id)).items == []


async def test_items_are_counted_by_state(board: Board):
    for _ in range(3):
        last = await file(board)
    await finish(board, last)
    assert await board.counts() == {State.QUEUED: 2, State.DONE: 1}


async def test_no_secret_field_hides_in_the_journal_of_an_edit(board: Board):
    key = await file(board)
    await board.edit(MEMBER, key, Changes(description="canary-description"))
    async with board.database.read() as session:
        rows = (await session.exec(select(Event).order_by(col(Event.id)))).all()
    assert "canary" not in str([row.data for row in rows])


async def test_whoever_follows_an_item_misses_nothing_of_commands_that_cross(board: Board):
    key = await file(board)
    told, go_on = asyncio.Event(), asyncio.Event()

    async def linger(unit: Unit, event: Event) -> None:
        if event.data.get("lingers"):
            told.set()
            await go_on.wait()

    async def remark(**data: object) -> None:
        async with board.database.command("remark") as unit:
            unit.record("item_remarked", item=key, **data)

    board.database.reactions.append(linger)
    slow = asyncio.create_task(remark(lingers=True))
    await told.wait()
    quick = asyncio.create_task(remark(lingers=False))
    async with asyncio.timeout(20):
        while not (quick.done() or await somebody_waits(board.database)):
            await asyncio.sleep(0.01)
    first = (await board.events(key)).items
    go_on.set()
    await asyncio.gather(slow, quick)
    rest = (await board.events(key, first[-1].id)).items
    assert [entry.data.get("lingers") for entry in [*first, *rest]] == [None, True, False]


async def somebody_waits(database: Database) -> bool:
    """For a lock that another command holds."""
    held_up = "select exists(select from pg_stat_activity where datname = current_database()"
    async with database.read() as session:
        connection = await session.connection()
        waits = text(f"{held_up} and wait_event_type = 'Lock')")
        return bool((await connection.execute(waits)).scalar_one())
