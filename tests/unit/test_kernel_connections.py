"""Connections: encrypted, the environment never overrules a person, and rotation loses nothing."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quarterdeck.kernel import connections as room
from quarterdeck.kernel.bus import PostgresBus
from quarterdeck.kernel.connections import MAX_AGE, Connections, Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Misconfigured, NotFound
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.kernel.settings import Settings
from tests.fakes.clock import ManualClock

VALUE = {"bot_token": "canary-token", "chat_id": "-1001"}


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys", {})


@pytest.fixture
def watch(database: Database) -> ManualClock:
    database.clock = ManualClock()
    return database.clock


@pytest.fixture
def connections(database: Database, keyring: Keyring, watch: ManualClock) -> Connections:
    return Connections(database, keyring)


async def put(
    connections: Connections,
    database: Database,
    value: dict[str, Any],
    source: Source = Source.API,
    name: str = "default",
    version: str = "",
) -> bool:
    async with database.command("put") as unit:
        return await connections.put(unit, "telegram", name, value, source, version)


async def stored(database: Database) -> str:
    async with database.read() as session:
        return str(
            (
                await (await session.connection()).execute(
                    text("select * from connections order by kind, name")
                )
            ).all()
        )


async def events(database: Database) -> list[Any]:
    async with database.read() as session:
        return list(
            (
                await (await session.connection()).execute(text("select kind, data from events order by id"))
            ).all()
        )


def environment(monkeypatch: pytest.MonkeyPatch, token: str = "canary-environment") -> Settings:
    monkeypatch.setenv("ORCH_TELEGRAM_BOT_TOKEN", token)
    monkeypatch.setenv("ORCH_TELEGRAM_CHAT_ID", "42")
    return Settings()


async def test_a_connection_is_read_as_it_was_put_and_none_where_there_is_none(
    connections: Connections, database: Database
) -> None:
    assert await connections.get("telegram") is None
    assert await put(connections, database, VALUE)
    assert await connections.get("telegram") == VALUE
    assert await connections.get("telegram", "other") is None


async def test_neither_the_table_nor_the_journal_holds_a_value_in_clear(
    connections: Connections, database: Database
) -> None:
    await put(connections, database, VALUE)
    told = await events(database)

    assert "canary" not in await stored(database)
    assert told == [("connection_changed", {"connection": "telegram/default", "source": "api"})]
    (info,) = await connections.all()
    assert (info.kind, info.name, info.source) == ("telegram", "default", Source.API)
    assert "canary" not in repr(info)


async def test_putting_the_same_again_changes_and_tells_nothing(
    connections: Connections, database: Database
) -> None:
    await put(connections, database, VALUE)
    before = await stored(database)

    assert not await put(connections, database, dict(reversed(VALUE.items())))
    assert await stored(database) == before
    assert len(await events(database)) == 1


async def test_a_new_version_of_the_same_value_is_noted_but_is_no_change(
    connections: Connections, database: Database
) -> None:
    await put(connections, database, VALUE, Source.ENVIRONMENT)

    assert not await put(connections, database, VALUE, Source.BLOCK, version="v2")
    (info,) = await connections.all()
    assert (info.source, info.source_version) == (Source.BLOCK, "v2")
    assert await connections.get("telegram") == VALUE


async def test_another_process_sees_a_change_within_seconds(
    connections: Connections, database: Database, keyring: Keyring, watch: ManualClock
) -> None:
    other = Connections(database, keyring)
    await put(connections, database, VALUE)
    assert await other.get("telegram") == VALUE
    await put(connections, database, {"chat_id": "new"})

    watch.time += MAX_AGE - timedelta(milliseconds=1)
    assert await other.get("telegram") == VALUE
    watch.time += timedelta(milliseconds=1)
    assert await other.get("telegram") == {"chat_id": "new"}


async def test_a_clock_that_is_set_back_does_not_keep_old_values(
    connections: Connections, database: Database, keyring: Keyring, watch: ManualClock
) -> None:
    other = Connections(database, keyring)
    assert await other.get("telegram") is None
    await put(connections, database, VALUE)
    watch.time -= timedelta(hours=1)
    assert await other.get("telegram") == VALUE


async def test_a_follower_sees_a_change_at_once(
    connections: Connections, database: Database, keyring: Keyring, watch: ManualClock
) -> None:
    other = Connections(database, keyring)
    following = asyncio.create_task(other.follow(PostgresBus(database.url)))
    try:
        async with asyncio.timeout(20):
            assert await other.get("telegram") is None
            await put(connections, database, VALUE)
            while True:
                if await other.get("telegram") == VALUE:  # the clock stands still: only a wake-up helps
                    break
                await asyncio.sleep(0.01)
    finally:
        following.cancel()


async def test_a_value_that_was_read_can_be_changed_without_changing_what_others_read(
    connections: Connections, database: Database
) -> None:
    await put(connections, database, VALUE)
    first = await connections.get("telegram")
    assert first is not None
    first["chat_id"] = "spoiled"
    assert await connections.get("telegram") == VALUE


async def test_the_environment_fills_what_is_missing_and_follows_itself(
    connections: Connections, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await connections.fill_from_environment(Settings()) == []
    assert await connections.fill_from_environment(environment(monkeypatch)) == ["telegram"]
    assert await connections.fill_from_environment(environment(monkeypatch)) == []
    assert await connections.fill_from_environment(environment(monkeypatch, "canary-newer")) == ["telegram"]
    value = await connections.get("telegram") or {}
    assert value["bot_token"] == "canary-newer"
    assert "api_base" not in value, "the address would stay when TELEGRAM_API_BASE changes"


async def test_what_was_forgotten_is_gone_for_everybody_and_can_be_entered_again(
    connections: Connections, database: Database, keyring: Keyring, watch: ManualClock
) -> None:
    other = Connections(database, keyring)
    await put(connections, database, VALUE)
    assert await other.get("telegram") == VALUE
    async with database.command("forget") as unit:
        await connections.forget(unit, "telegram")
    watch.go(MAX_AGE.total_seconds())
    assert (await connections.get("telegram"), await other.get("telegram")) == (None, None)
    assert await stored(database) == "[]"
    assert await put(connections, database, VALUE)


async def test_what_is_not_there_cannot_be_forgotten_and_what_is_there_is_named(
    connections: Connections, database: Database
) -> None:
    await put(connections, database, VALUE)
    with pytest.raises(NotFound) as refusal:
        async with database.command("forget") as unit:
            await connections.forget(unit, "plane")
    assert "telegram/default" in refusal.value.instruction


@pytest.mark.parametrize("source", [Source.BLOCK, Source.API])
async def test_the_environment_never_overrules_a_person(
    connections: Connections, database: Database, monkeypatch: pytest.MonkeyPatch, source: Source
) -> None:
    await put(connections, database, VALUE, source)
    assert await connections.fill_from_environment(environment(monkeypatch)) == []
    assert await connections.get("telegram") == VALUE


async def test_a_half_configured_environment_fills_nothing(
    connections: Connections, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_TELEGRAM_BOT_TOKEN", "canary")
    assert await connections.fill_from_environment(Settings()) == []
    assert await connections.get("telegram") is None


async def test_the_address_of_websocket_agents_is_taken_under_its_former_name_too(
    connections: Connections, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, url in (("AGENT_WS_URL", "ws://old/agent_ws/"), ("AGENT_BASE_URL", "http://new/")):
        monkeypatch.setenv(variable, url)
        assert await connections.fill_from_environment(Settings()) == ["agent_api"]
        assert await connections.get("agent_api") == {"url": url}


async def test_two_writers_of_a_new_connection_both_succeed(
    connections: Connections, database: Database
) -> None:
    async with asyncio.timeout(30):
        await asyncio.gather(*(put(connections, database, {"n": n}) for n in range(4)))
    assert await connections.get("telegram") in [{"n": n} for n in range(4)]


async def test_a_row_moved_to_another_name_does_not_open(
    connections: Connections, database: Database
) -> None:
    await put(connections, database, VALUE)
    async with database.command("swap rows") as unit:
        await (await unit.session.connection()).execute(text("update connections set name = 'other'"))

    with pytest.raises(Misconfigured) as caught:
        await connections.get("telegram", "other")
    assert "telegram/other" in caught.value.detail
    assert "canary" not in str(caught.value)


async def test_a_rotation_seals_every_row_anew_and_changes_no_value(
    connections: Connections, database: Database, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH", 2)
    for n in range(5):
        await put(connections, database, {"n": n}, name=f"c{n}")
    keyring.rotate()

    assert await keyring.reencrypt() == {"connections": 5}
    assert await keyring.reencrypt() == {"connections": 0}
    assert (await stored(database)).count(keyring.current_prefix) == 5
    reader = Connections(database, keyring)
    assert [await reader.get("telegram", f"c{n}") for n in range(5)] == [{"n": n} for n in range(5)]


async def test_a_rotation_that_was_cut_short_is_finished_by_the_next(
    connections: Connections, database: Database, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH", 2)
    for n in range(5):
        await put(connections, database, {"n": n}, name=f"c{n}")
    keyring.rotate()
    seal, sealed = keyring.seal, []

    def breaking(*row: Any) -> str:
        sealed.append(row)
        if len(sealed) == 4:
            raise RuntimeError("the power is gone")
        return seal(*row)

    monkeypatch.setattr(keyring, "seal", breaking)
    with pytest.raises(RuntimeError):
        await keyring.reencrypt()
    assert (await stored(database)).count(keyring.current_prefix) == 2  # the first batch, and only that
    assert await keyring.reencrypt() == {"connections": 3}
    assert [await Connections(database, keyring).get("telegram", f"c{n}") for n in range(5)] == [
        {"n": n} for n in range(5)
    ]


async def test_a_broken_row_is_named_and_does_not_hold_up_the_others(
    connections: Connections, database: Database, keyring: Keyring
) -> None:
    for name in ("a", "b", "c"):
        await put(connections, database, VALUE, name=name)
    async with database.command("break a row") as unit:
        await (await unit.session.connection()).execute(
            text("update connections set sealed = 'broken' where name = 'b'")
        )
    keyring.rotate()

    with pytest.raises(Misconfigured) as caught:
        await keyring.reencrypt()
    assert "telegram/b" in caught.value.detail
    assert (await stored(database)).count(keyring.current_prefix) == 2
    assert await put(connections, database, VALUE, name="b")
    assert await connections.get("telegram", "b") == VALUE
