"""Parents and dependencies never form a cycle, whoever changes them and however many at once."""

import asyncio
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import select

from quarterdeck.board import rules, store
from quarterdeck.board.cards import Changes, Draft, ProjectDraft, Wanted
from quarterdeck.board.model import State, WorkItem
from quarterdeck.board.service import Board
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound
from tests.fakes.surroundings import MEMBER, SmallCompany


@pytest.fixture
async def board(database: Database) -> Board:
    """A board with the project A and its items A-001 to A-004."""
    board = Board(database, SmallCompany())
    await board.create_project(MEMBER, ProjectDraft(key="AA", name="Links"))
    for number in range(4):
        await board.file(MEMBER, Draft(project="AA", title=f"Item {number}"))
    return board


async def depend(board: Board, key: str, *needs: str) -> None:
    await board.edit(MEMBER, key, Changes(depends_on=needs))


async def put_under(board: Board, key: str, parent: str | None) -> None:
    await board.edit(MEMBER, key, Changes(parent=parent))


async def ready(database: Database) -> list[str]:
    async with database.read() as session:
        rows = select(WorkItem.key).where(store.dependencies_done()).order_by(WorkItem.key)
        return list((await session.exec(rows)).all())


async def test_a_cycle_of_dependencies_is_refused_and_named(board: Board):
    await depend(board, "AA-001", "AA-002")
    await depend(board, "AA-002", "AA-003")
    with pytest.raises(Conflict) as refused:
        await depend(board, "AA-003", "AA-004", "AA-001")
    assert "AA-003 → AA-001 → AA-002 → AA-003" in refused.value.detail
    assert refused.value.code == "dependency_cycle"
    assert (await board.item("AA-003")).depends_on == ()


async def test_an_item_cannot_wait_for_itself(board: Board):
    with pytest.raises(Conflict, match="AA-001 → AA-001"):
        await depend(board, "AA-001", "AA-001")


async def test_a_cycle_of_parents_is_refused_and_named(board: Board):
    await put_under(board, "AA-002", "AA-001")
    await put_under(board, "AA-003", "AA-002")
    with pytest.raises(Conflict, match="AA-001 → AA-003 → AA-002 → AA-001") as refused:
        await put_under(board, "AA-001", "AA-003")
    assert refused.value.code == "parent_cycle"
    with pytest.raises(Conflict, match="AA-004 → AA-004"):
        await put_under(board, "AA-004", "AA-004")


async def test_links_can_be_taken_away_again(board: Board):
    await depend(board, "AA-001", "AA-002", "AA-003")
    await put_under(board, "AA-001", "AA-004")
    await depend(board, "AA-001", "AA-003")
    await put_under(board, "AA-001", None)
    card = await board.item("AA-001")
    assert (card.depends_on, card.parent) == (("AA-003",), None)
    await depend(board, "AA-002", "AA-001")


async def test_unknown_links_are_answered_with_what_there_is(board: Board):
    for change in (Changes(depends_on=("AA-002", "AA-099")), Changes(parent="AA-099")):
        with pytest.raises(NotFound, match="AA-004"):
            await board.edit(MEMBER, "AA-001", change)


async def test_two_edits_at_once_cannot_close_a_cycle_together(board: Board):
    for _ in range(10):
        await depend(board, "AA-001")
        await depend(board, "AA-002")
        answers = await asyncio.gather(
            depend(board, "AA-001", "AA-002"), depend(board, "AA-002", "AA-001"), return_exceptions=True
        )
        assert sorted(type(a) for a in answers if a is not None) == [Conflict]


edges = st.lists(
    st.tuples(st.sampled_from(range(5)), st.sets(st.sampled_from(range(5)), max_size=3), st.booleans()),
    max_size=12,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edges)
async def test_any_edits_at_once_leave_no_cycle(database: Database, edges):
    board = Board(database, SmallCompany())
    name = "P" + uuid4().hex[:9].upper()
    await board.create_project(MEMBER, ProjectDraft(key=name, name="Links"))
    keys = [(await board.file(MEMBER, Draft(project=name, title="x"))).key for _ in range(5)]

    async def link(source: int, targets: set[int], is_parent: bool) -> None:
        if is_parent:
            await put_under(board, keys[source], keys[min(targets)] if targets else None)
        else:
            await depend(board, keys[source], *(keys[target] for target in targets))

    answers = await asyncio.gather(*(link(*edge) for edge in edges), return_exceptions=True)
    assert {type(answer) for answer in answers} <= {type(None), Conflict}
    cards = (await board.items(Wanted(project=name))).items
    needs = {card.key: set(card.depends_on) for card in cards}
    parents = {card.key: {card.parent} if card.parent else set() for card in cards}
    for key in keys:
        assert rules.cycle(needs, key) == rules.cycle(parents, key) == ()


async def test_an_item_is_ready_when_all_it_depends_on_is_done(board: Board, database: Database):
    await depend(board, "AA-001", "AA-002", "AA-003")

    async def end(key: str, state: State) -> None:
        async with database.command("end") as unit:
            (await store.item(unit.session, key)).state = state

    assert await ready(database) == ["AA-002", "AA-003", "AA-004"]
    await end("AA-002", State.DONE)
    await end("AA-003", State.CANCELLED)
    assert "AA-001" not in await ready(database)
    assert (await board.item("AA-001")).waiting_for == ("AA-003",)
    await end("AA-003", State.DONE)
    assert "AA-001" in await ready(database)
    assert (await board.item("AA-001")).waiting_for == ()
