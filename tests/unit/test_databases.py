"""A database that was lent to one test is as good as new for the next."""

from collections.abc import Iterator

import psycopg
import pytest

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.board.service import Board
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.postgres import EmbeddedPostgres
from tests.conftest import TEMPLATE
from tests.databases import Connection, Databases, connect
from tests.fakes.surroundings import MEMBER, SmallCompany

EVENT = "insert into events (kind, at, data) values ('tested', now(), '{}') returning id"


@pytest.fixture
def databases(postgres: EmbeddedPostgres, admin: Connection, worker_id: str) -> Iterator[Databases]:
    made = Databases(postgres, admin, TEMPLATE, f"lent_{worker_id}")
    yield made
    made.close()


def answer(url: str, query: str) -> object:
    """The only value that a statement yields; `None` when it yields nothing."""
    with connect(url) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall()[0][0] if cursor.description else None


async def test_rows_of_all_rooms_are_taken_back_whatever_refers_to_them(databases: Databases) -> None:
    with databases.lend() as url:
        database = Database(url)
        board = Board(database, SmallCompany())
        await board.create_project(MEMBER, ProjectDraft(key="ET", name="Enduro"))
        first = await board.file(MEMBER, Draft(project="ET", title="A thing"))
        await board.file(
            MEMBER, Draft(project="ET", title="Another", parent=first.key, depends_on=(first.key,))
        )
        await database.close()
    with databases.lend() as again:
        assert again == url
        for table in ("projects", "items", "item_dependencies", "events", "outbox"):
            assert answer(url, f"select count(*) from {table}") == 0


def test_numbers_begin_at_one_again(databases: Databases) -> None:
    for _ in range(2):
        with databases.lend() as url:
            assert [answer(url, EVENT), answer(url, EVENT)] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        "alter table events drop column data",
        "create index left_behind on events (kind)",
        "create function left_behind() returns int language sql return 1",
        "update alembic_version set version_num = '9999'",
        "drop table alembic_version",
    ],
)
def test_one_whose_tables_were_changed_is_not_lent_again(databases: Databases, change: str) -> None:
    with databases.lend() as url:
        answer(url, change)
    with databases.lend() as other:
        assert other != url


def test_who_is_still_connected_is_sent_away(databases: Databases) -> None:
    with databases.lend() as url:
        left = connect(url)
        left.execute("begin; lock table events")
    with databases.lend() as again:
        assert again == url
    with pytest.raises(psycopg.errors.AdminShutdown):
        left.execute("select 1")
    left.close()


def test_two_borrowers_at_once_have_two(databases: Databases) -> None:
    with databases.lend() as one, databases.lend() as other:
        assert one != other


def test_after_some_loans_it_is_made_anew(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.databases.LOANS", 2)
    lent = []
    for _ in range(3):
        with databases.lend() as url:
            lent.append(url)
    assert lent[0] == lent[1] != lent[2]
