"""Projects are changed without losing anybody's change, and put away and taken back."""

import pytest
from sqlmodel import select

from quarterdeck.board.cards import Draft, ProjectChanges, ProjectDraft
from quarterdeck.board.model import State
from quarterdeck.board.service import Board
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Forbidden, NotFound, Stale
from quarterdeck.kernel.journal import Event
from tests.fakes.surroundings import MEMBER, VIEWER, SmallCompany
from tests.unit.test_board_items import finish

FILED = Draft(project="ET", title="A thing")


@pytest.fixture
async def board(database: Database) -> Board:
    board = Board(database, SmallCompany())
    await board.create_project(MEMBER, ProjectDraft(key="ET", name="Enduro"))
    return board


async def edit(board: Board, **named: object):
    return await board.edit_project(MEMBER, "ET", ProjectChanges.model_validate(named))


async def test_only_what_is_named_changes_and_is_told_once(board: Board):
    before = await board.project("ET")
    after = await edit(board, name="Trails", repository="/srv/trails", default_branch="trunk")
    assert after == await board.project("ET")
    told = {"name": "Trails", "repository": "/srv/trails", "default_branch": "trunk", "version": 2}
    assert after == before.model_copy(update=told)
    assert await edit(board, name="Trails") == after, "nothing changed, so the version stays"
    async with board.database.read() as session:
        events = (await session.exec(select(Event).where(Event.kind == "project_edited"))).all()
    assert [event.data["fields"] for event in events] == [["default_branch", "name", "repository"]]
    assert (await edit(board, repository="")).repository == "et"


async def test_a_change_to_an_old_version_is_refused(board: Board):
    await edit(board, name="One", version=1)
    with pytest.raises(Stale, match="at version 2 now"):
        await edit(board, name="Two", version=1)
    with pytest.raises(Stale):
        await board.edit_project(MEMBER, "ET", ProjectChanges(name="Two"), 1)
    assert (await board.project("ET")).name == "One"


async def test_another_repository_or_branch_waits_until_no_item_is_open(board: Board):
    key = (await board.file(MEMBER, FILED)).key
    for named in ({"repository": "/srv/other"}, {"default_branch": "trunk"}):
        with pytest.raises(Conflict, match=key) as refused:
            await edit(board, **named)
        assert refused.value.code == "items_open"
    assert (await edit(board, name="Trails", repository="et")).name == "Trails", "it is the one it has"
    await finish(board, key, State.CANCELLED)
    assert (await edit(board, default_branch="trunk")).default_branch == "trunk"


async def test_nothing_is_filed_in_an_archived_project_until_it_is_taken_back(board: Board):
    assert (await edit(board, archived=True)).archived
    with pytest.raises(Conflict, match="archived") as refused:
        await board.file(MEMBER, FILED)
    assert "project unarchive ET" in refused.value.instruction
    await edit(board, archived=False)
    assert (await board.file(MEMBER, FILED)).key == "ET-001"


async def test_a_project_is_changed_only_to_what_there_is_and_by_whoever_may(board: Board):
    with pytest.raises(NotFound, match="pipeline"):
        await edit(board, pipeline="nonsense")
    with pytest.raises(NotFound, match="There is: ET"):
        await board.edit_project(MEMBER, "XX", ProjectChanges(name="x"))
    with pytest.raises(Forbidden):
        await board.edit_project(VIEWER, "ET", ProjectChanges(name="x"))
    assert (await board.project("ET")).version == 1
