"""The unit of work: state, events, outbox rows and wake-ups of a command happen together or not at all."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel, col, select, update

from quarterdeck.kernel.bus import PostgresBus, Wake
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, Misconfigured, Unavailable
from quarterdeck.kernel.journal import Event, OutboxMessage
from quarterdeck.kernel.postgres import EmbeddedPostgres, core_url, libpq, network
from tests.fakes.forking import Forks

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Noon:
    """A clock that stands still."""

    def now(self) -> datetime:
        return NOON


def message(text: str, event: int | None = None) -> OutboxMessage:
    return OutboxMessage(
        event_id=event, kind="note", channel="log", chat="-", lane="log", text=text, created_at=NOON
    )


async def kinds(database: Database) -> list[str]:
    async with database.read() as session:
        return list((await session.exec(select(Event.kind).order_by(col(Event.id)))).all())


async def texts(database: Database) -> list[str]:
    async with database.read() as session:
        return list((await session.exec(select(OutboxMessage.text).order_by(col(OutboxMessage.id)))).all())


async def test_a_command_commits_its_state_and_its_events(database: Database) -> None:
    database.clock = Noon()
    async with database.command("try") as unit:
        unit.session.add(message("hello"))
        unit.record("item_done", item="ET-001", run=7, stage="done")
    async with database.read() as session:
        event = (await session.exec(select(Event))).one()
    assert (event.kind, event.item_key, event.run_id, event.data) == (
        "item_done",
        "ET-001",
        7,
        {"stage": "done"},
    )
    assert event.at == NOON
    assert await texts(database) == ["hello"]


async def test_a_command_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(Conflict):
        async with database.command("try") as unit:
            unit.session.add(message("hello"))
            await unit.session.flush()
            unit.record("item_done")
            unit.wake("items")
            raise Conflict("not now")
    assert await kinds(database) == []
    assert await texts(database) == []


async def test_a_cancelled_command_leaves_nothing(database: Database) -> None:
    inside = asyncio.Event()

    async def command() -> None:
        async with database.command("try") as unit:
            unit.session.add(message("hello"))
            await unit.session.flush()
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(command())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await texts(database) == []


async def test_the_ids_of_events_follow_the_order_of_recording(database: Database) -> None:
    async with database.command("try") as unit:
        for number in range(20):
            unit.record(f"kind_{number}", item="ET-001" if number % 2 else None)
    assert await kinds(database) == [f"kind_{number}" for number in range(20)]


async def test_rooms_add_rows_to_the_command_that_recorded_an_event(database: Database) -> None:
    async def tell(unit: Unit, event: Event) -> None:
        unit.session.add(message(f"{event.kind} of {event.item_key}", event.id))

    database.reactions.append(tell)
    async with database.command("try") as unit:
        unit.record("item_done", item="ET-001")
        unit.record("error", item="ET-002", reason="no money")
    assert await texts(database) == ["item_done of ET-001", "error of ET-002"]
    async with database.read() as session:
        pairs = select(OutboxMessage.text, Event.kind).join(Event, col(OutboxMessage.event_id) == Event.id)
        assert all(text.startswith(kind) for text, kind in (await session.exec(pairs)).all())
        assert len((await session.exec(pairs)).all()) == 2


async def test_a_reaction_that_fails_takes_the_whole_command_with_it(database: Database) -> None:
    async def fail(unit: Unit, event: Event) -> None:
        raise Conflict(f"{event.kind} cannot be told")

    database.reactions.append(fail)
    with pytest.raises(Conflict):
        async with database.command("try") as unit:
            unit.session.add(message("hello"))
            unit.record("item_done")
    assert await kinds(database) == []
    assert await texts(database) == []


async def test_events_that_a_reaction_records_are_told_too(database: Database) -> None:
    async def follow(unit: Unit, event: Event) -> None:
        if event.kind == "first":
            unit.record("second")

    database.reactions.append(follow)
    async with database.command("try") as unit:
        unit.record("first")
    assert await kinds(database) == ["first", "second"]


async def test_what_a_reader_changes_is_thrown_away(database: Database) -> None:
    async with database.read() as session:
        session.add(message("hello"))
        await session.flush()
    assert await texts(database) == []


async def test_a_broken_rule_of_the_tables_is_not_an_outage(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.command("try") as unit:
            unit.session.add(message("hello", event=404))
    assert await texts(database) == []


CRASHING = """
import asyncio, sys
from quarterdeck.kernel.database import Database

async def main():
    database = Database(sys.argv[1])
    async with database.command("try") as unit:
        unit.record("item_done")
        unit.wake("items", 1)

asyncio.run(main())
"""


@pytest.mark.parametrize(("point", "left"), [("before try", []), ("after try", ["item_done"])])
async def test_a_process_killed_at_the_commit_did_all_or_nothing(
    forks: Forks, database: Database, point: str, left: list[str]
) -> None:
    woken: list[str] = []
    async with await psycopg.AsyncConnection.connect(
        database.url.replace("+psycopg", "", 1), autocommit=True
    ) as listener:
        await listener.execute("listen quarterdeck")
        killed = await forks.run(CRASHING, database.url, QUARTERDECK_CRASH_AT=point)
        assert killed.code == -signal.SIGKILL
        assert await kinds(database) == left
        await listener.execute("select pg_notify('quarterdeck', 'end:')")
        async for notice in listener.notifies():
            if notice.payload == "end:":
                break
            woken.append(notice.payload)
    assert woken == ["items:1" for _ in left]


@pytest.fixture
async def wakes(database: Database) -> AsyncIterator["asyncio.Queue[Wake]"]:
    """Wake-ups of the topics `items` and `outbox`, from when somebody listens."""
    heard: asyncio.Queue[Wake] = asyncio.Queue()
    task = asyncio.create_task(hear(PostgresBus(database.url), heard))
    assert {await next_of(heard), await next_of(heard)} == {Wake("items"), Wake("outbox")}
    yield heard
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_libpq_is_told_of_a_home_whose_path_has_spaces() -> None:
    server = EmbeddedPostgres(Path("/home/anna/My Desk + 100%"))
    told = conninfo_to_dict(libpq(server.url(), connect_timeout=3))
    assert told["host"] == str(server.socket_folder)
    assert told["connect_timeout"] == "3"


async def test_connections_give_up_a_network_that_swallows_what_is_sent(database: Database) -> None:
    """Each side of a command: waiting for an answer, and sending what nobody takes."""
    async with database.read() as session:
        raw = await (await session.connection()).get_raw_connection()
        told = raw.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    silent = int(told["keepalives_idle"]) + int(told["keepalives_interval"]) * int(told["keepalives_count"])
    assert silent <= 60 and 0 < int(told["tcp_user_timeout"]) <= 60_000


def test_what_a_url_says_about_its_network_counts() -> None:
    url = "postgresql+psycopg://db/desk?tcp_user_timeout=5000&connect_timeout=3"
    told = network(url)
    assert "keepalives_idle" in told and not {"tcp_user_timeout", "connect_timeout"} & set(told)


def test_libpq_reads_what_your_own_url_says_as_sqlalchemy_does() -> None:
    url = core_url("postgres://anna:p%40+s%20s@db:6543/desk?application_name=my%20desk&sslmode=require")
    assert conninfo_to_dict(libpq(url.render_as_string(hide_password=False))) == {
        "user": "anna",
        "password": "p@+s s",
        "host": "db",
        "port": "6543",
        "dbname": "desk",
        "application_name": "my desk",
        "sslmode": "require",
    }


@pytest.mark.parametrize(
    "text", ["postgresql://anna:secret@db:port/desk", "postgresql://anna:p@x:secret/y@db/desk"]
)
def test_a_url_whose_port_is_no_number_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(Misconfigured, match="port is not a number") as caught:
        core_url(text)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "secret" not in str(caught.value)


async def test_an_own_url_may_name_the_schema_and_times_stay_utc(database_url: str) -> None:
    database = Database(f"{database_url}&options=-csearch_path%3Ddesk%20-ctimezone%3DAsia/Tokyo")
    async with database.read() as session:
        row = (await session.exec(text("show search_path"))).scalar_one()  # type: ignore[call-overload]
        assert row == "desk"
        assert (await session.exec(text("show timezone"))).scalar_one() == "UTC"  # type: ignore[call-overload]
    await database.close()


async def hear(bus: PostgresBus, heard: "asyncio.Queue[Wake]") -> None:
    async for wake in bus.listen("items", "outbox"):
        heard.put_nowait(wake)


async def next_of(heard: "asyncio.Queue[Wake]") -> Wake:
    return await asyncio.wait_for(heard.get(), 20)


async def test_a_wake_up_leaves_with_the_commit_and_never_before(
    database: Database, wakes: "asyncio.Queue[Wake]"
) -> None:
    async with database.command("first") as unit:
        unit.wake("items", 1)
        await unit.session.exec(select(1))
        async with database.command("second") as other:
            other.wake("items", 2)
        assert await next_of(wakes) == Wake("items", "2")
        assert wakes.empty()
    assert await next_of(wakes) == Wake("items", "1")


async def test_a_command_that_fails_wakes_nobody(database: Database, wakes: "asyncio.Queue[Wake]") -> None:
    with pytest.raises(Conflict):
        async with database.command("first") as unit:
            unit.wake("items", 1)
            raise Conflict("not now")
    async with database.command("second") as unit:
        unit.wake("items", 2)
    assert await next_of(wakes) == Wake("items", "2")


async def test_listeners_hear_their_topics_only_and_each_wake_up_once(
    database: Database, wakes: "asyncio.Queue[Wake]"
) -> None:
    async with database.command("try") as unit:
        unit.wake("agents", 1)
        unit.wake("outbox")
        unit.wake("outbox")
        unit.wake("items", "a:b")
    assert [await next_of(wakes), await next_of(wakes)] == [Wake("outbox"), Wake("items", "a:b")]
    assert wakes.empty()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server that this test may kill."""
    with EmbeddedPostgres(tmp_path / "home", fast=True).running() as server:
        yield server


@pytest.fixture
async def mortal(own_server: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A database on that server."""
    made = Database(own_server.url())
    async with made.engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    yield made
    await made.close()


def kill(server: EmbeddedPostgres) -> None:
    """All of it: a backend that outlives its server for a moment could still finish what it was asked."""
    postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))
    backends = postmaster.children()
    for process in (postmaster, *backends):
        process.kill()
    while server.is_running() or any(
        one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in backends
    ):
        pass


async def test_a_database_that_is_down_is_unavailable_and_then_works_again(
    mortal: Database, own_server: EmbeddedPostgres
) -> None:
    async with mortal.command("before") as unit:
        unit.record("before")
    kill(own_server)
    with pytest.raises(Unavailable) as caught:
        async with mortal.command("during") as unit:
            unit.record("during")
    with pytest.raises(Unavailable):
        await kinds(mortal)
    assert caught.value.code == "database_unavailable"
    assert caught.value.instruction
    await asyncio.to_thread(own_server.ensure_running)
    async with mortal.command("after") as unit:
        unit.record("after")
    assert await kinds(mortal) == ["before", "after"]


async def test_a_server_that_dies_within_a_command_is_unavailable_and_nothing_happened(
    mortal: Database, own_server: EmbeddedPostgres
) -> None:
    with pytest.raises(Unavailable):
        async with mortal.command("during") as unit:
            unit.session.add(message("hello"))
            await unit.session.flush()
            kill(own_server)
    await asyncio.to_thread(own_server.ensure_running)
    assert await texts(mortal) == []


async def test_a_listener_reconnects_and_looks_again_after_a_restart(
    mortal: Database, own_server: EmbeddedPostgres
) -> None:
    heard: asyncio.Queue[Wake] = asyncio.Queue()
    task = asyncio.create_task(hear(PostgresBus(mortal.url), heard))
    await next_of(heard), await next_of(heard)
    kill(own_server)
    await asyncio.to_thread(own_server.ensure_running)
    assert {await next_of(heard), await next_of(heard)} == {Wake("items"), Wake("outbox")}
    async with mortal.command("after") as unit:
        unit.wake("items", 9)
    assert await next_of(heard) == Wake("items", "9")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_pool_that_has_no_connection_left_is_unavailable(database_url: str) -> None:
    small = Database(database_url, connections=1, patience=0.1)
    async with small.read() as session:
        await session.exec(select(1))
        with pytest.raises(Unavailable) as caught:
            await kinds(small)
    await small.close()
    assert caught.value.code == "database_busy"


async def attempt(unit: Unit, text: str) -> None:
    await unit.session.exec(update(OutboxMessage).where(col(OutboxMessage.text) == text).values(attempts=1))


async def test_a_deadlock_says_so_and_may_be_tried_again(database: Database) -> None:
    async with database.command("rows") as unit:
        unit.session.add(message("one"))
        unit.session.add(message("two"))

    async def change(first: str, second: str, mine: asyncio.Event, theirs: asyncio.Event) -> None:
        async with database.command("both") as unit:
            await attempt(unit, first)
            mine.set()
            await theirs.wait()
            await attempt(unit, second)

    one, two = asyncio.Event(), asyncio.Event()
    ends = await asyncio.gather(
        change("one", "two", one, two), change("two", "one", two, one), return_exceptions=True
    )
    lost = [end for end in ends if end is not None]
    assert len(lost) == 1
    assert isinstance(lost[0], Unavailable)
    assert "deadlock" in lost[0].detail
