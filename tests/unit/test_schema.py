"""The migrations: they make exactly the tables of the models, once, from any number of processes."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import sql
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

import quarterdeck
from deployments import schema, tables
from quarterdeck.kernel.errors import Misconfigured, Unavailable
from quarterdeck.kernel.postgres import EmbeddedPostgres

_numbers = count(1)


@pytest.fixture
def empty_url(
    postgres: EmbeddedPostgres, admin: "psycopg.Connection[tuple[object, ...]]", worker_id: str
) -> Iterator[str]:
    """The URL of a database without any table."""
    name = f"empty_{worker_id}_{next(_numbers)}"
    admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    yield postgres.url(name)
    admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def connection(empty_url: str) -> Iterator[Connection]:
    engine = create_engine(empty_url, poolclass=NullPool)
    with engine.begin() as opened:
        yield opened
    engine.dispose()


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, tables.metadata))


def test_migrations_make_exactly_the_tables_of_the_models(empty_url: str, connection: Connection) -> None:
    schema.migrate(empty_url)
    assert differences(connection) == []


def test_no_step_is_written_when_none_is_needed() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "deployments.migrations", "Nothing"], capture_output=True, text=True
    )
    assert "The steps make all tables already." in said.stdout


def test_a_missing_column_would_be_noticed(empty_url: str, connection: Connection) -> None:
    schema.migrate(empty_url)
    connection.execute(text("alter table events drop column kind"))
    assert differences(connection) != []


def test_every_table_of_every_room_is_known() -> None:
    core = Path(quarterdeck.__file__).parent
    declaring = {str(file) for file in core.rglob("*.py") if "table=True" in file.read_text(encoding="utf-8")}
    assert {module.__file__ for module in tables.MODULES} == declaring


def test_a_step_down_and_up_again_leads_to_the_same_tables(empty_url: str, connection: Connection) -> None:
    schema.migrate(empty_url)
    configuration = schema.config(connection)
    command.downgrade(configuration, "-1")
    assert differences(connection) != []
    command.upgrade(configuration, "head")
    assert differences(connection) == []


def test_all_the_way_down_leaves_nothing(empty_url: str, connection: Connection) -> None:
    schema.migrate(empty_url)
    command.downgrade(schema.config(connection), "base")
    assert inspect(connection).get_table_names() == ["alembic_version"]


def test_it_may_be_repeated_and_says_where_it_stands(empty_url: str) -> None:
    assert schema.current_revision(empty_url) is None
    assert not schema.is_current(empty_url)
    schema.migrate(empty_url)
    schema.migrate(empty_url)
    assert schema.current_revision(empty_url) == schema.newest()
    assert schema.is_current(empty_url)


def test_many_may_migrate_at_once(empty_url: str, connection: Connection) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(schema.migrate, [empty_url] * 4))
    assert differences(connection) == []


def test_tables_of_a_newer_version_are_refused(empty_url: str, connection: Connection) -> None:
    schema.migrate(empty_url)
    connection.execute(text("update alembic_version set version_num = '9999'"))
    connection.commit()
    with pytest.raises(Misconfigured, match="9999"):
        schema.migrate(empty_url)


def test_a_database_that_does_not_answer_is_unavailable(empty_url: str) -> None:
    with pytest.raises(Unavailable) as caught:
        schema.migrate(empty_url.replace("empty_", "missing_"))
    assert caught.value.code == "database_unavailable"


def test_a_database_that_is_missing_is_made_once(
    empty_url: str, admin: "psycopg.Connection[tuple[object, ...]]", worker_id: str
) -> None:
    name = f"made-for_{worker_id}_{next(_numbers)}"
    url = make_url(empty_url).set(database=name).render_as_string(hide_password=False)
    schema.ensure_database(url)
    schema.ensure_database(url)
    assert schema.current_revision(url) is None
    admin.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))


def test_a_database_that_may_not_be_made_says_who_must_make_it(
    empty_url: str, admin: "psycopg.Connection[tuple[object, ...]]", worker_id: str
) -> None:
    role = f"clerk_{worker_id}"
    admin.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    url = make_url(empty_url).set(database="wanted", username=role).render_as_string(hide_password=False)
    with pytest.raises(Misconfigured) as caught:
        schema.ensure_database(url)
    admin.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
    assert 'create database "wanted" owner' in caught.value.instruction
