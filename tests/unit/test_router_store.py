"""The store: what is entered is what routing gets, history stays, only what is asked for changes."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import (
    Conflict,
    Invalid,
    Misconfigured,
    NotFound,
    QuarterdeckError,
    Unavailable,
)
from quarterdeck.router.admin.forms import BackendChange, ClientChange, ClientForm
from quarterdeck.router.backend import Pool, Status
from quarterdeck.router.config import Tuning
from quarterdeck.router.limits.standing import State
from quarterdeck.router.model import Job
from quarterdeck.router.storage.keys import Seals, digest
from quarterdeck.router.upkeep.jobs import Result
from tests.fakes.router_parts import LIST_PRICE, PLAIN_KEY, form, hex_key, keyring, store

TUNING = Tuning()


def change(**fields: Any) -> BackendChange:
    return BackendChange.model_validate(fields)


async def execute(database: Database, statement: str, **values: object) -> list[Any]:
    """Straight SQL, as somebody beside us would do it."""
    async with database.command("do something beside the store") as unit:
        result = await unit.session.connection()
        done = await result.execute(text(statement), values)
        return list(done.all()) if done.returns_rows else []


async def test_what_is_entered_is_what_routing_gets(database: Database) -> None:
    rooms = store(database)
    row = await rooms.add_backend(form(pool="fallback", rpm_limit=7, label="x"), TUNING)
    (backend,) = (await rooms.snapshot()).backends
    assert row.id.startswith("bkd_") and len(row.id) == 16
    assert (backend.id, backend.api_key, backend.pool, backend.rpm_limit) == (
        row.id,
        PLAIN_KEY,
        Pool.FALLBACK,
        7,
    )
    assert backend.mappings["gpt"].native_id == "gpt-native"
    assert backend.fault == ""


async def test_what_the_form_leaves_out_is_as_the_tuning_says(database: Database) -> None:
    row = await store(database).add_backend(
        form(), Tuning(default_rpm_limit=11, default_request_timeout_seconds=99)
    )
    assert (row.rpm_limit, row.timeout_seconds) == (11, 99)


async def test_a_key_is_never_stored_in_plain(database: Database) -> None:
    await store(database).add_backend(form(), TUNING)
    ((kept,),) = await execute(database, "select cast(b as text) from backends b")
    assert PLAIN_KEY not in kept


async def test_a_backend_that_did_not_change_is_the_same_object_in_the_next_snapshot(
    database: Database,
) -> None:
    opened: list[str] = []

    class Counting(Seals):
        def open(self, purpose: str, identity: str, sealed: str) -> str:
            opened.append(identity)
            return super().open(purpose, identity, sealed)

    rooms = store(database, Counting(keyring()))
    kept = await rooms.add_backend(form(), TUNING)
    changed = await rooms.add_backend(form(name="Two"), TUNING)
    first = (await rooms.snapshot()).backends
    await rooms.change_backend(changed.id, change(rpm_limit=9))
    second = (await rooms.snapshot()).backends
    assert second[0] is first[0] and second[1] is not first[1]
    assert opened == [kept.id, changed.id]  # once each, not at every refresh (D-19)


async def test_a_price_that_was_entered_wins_over_the_table_even_when_it_is_nothing(
    database: Database,
) -> None:
    rooms = store(database)
    mappings = {
        "listed": {"native_id": "listed"},
        "free": {"native_id": "listed", "cost": {"input": 0}},
        "paid": {"native_id": "listed", "cost": {"input": 0.0000025, "cacheRead": 1.25e-8}},
        "unknown": {"native_id": "nobody-knows"},
    }
    await rooms.add_backend(form(model_mappings=mappings), TUNING)
    (backend,) = (await rooms.snapshot()).backends
    assert backend.mappings["listed"].prices == LIST_PRICE
    assert not backend.mappings["free"].prices.is_known
    assert (backend.mappings["paid"].prices.input, backend.mappings["paid"].prices.cache_read) == (
        2_500_000,
        12_500,
    )
    assert not backend.mappings["unknown"].prices.is_known


async def test_a_mapping_written_past_us_that_is_none_is_left_out(database: Database) -> None:
    rooms = store(database)
    await rooms.add_backend(form(), TUNING)
    broken = """update backends set model_mappings = model_mappings || '{"bad": {"native_id": ""}}'"""
    await execute(database, broken)
    (backend,) = (await rooms.snapshot()).backends
    assert set(backend.mappings) == {"gpt"}


async def test_a_change_writes_the_given_columns_and_no_others(database: Database) -> None:
    rooms = store(database)
    row = await rooms.add_backend(form(label="old"), TUNING)
    cooling = "update backends set status = 'cooling', consecutive_429_count = 3, cooldown_until = now()"
    await execute(database, cooling)
    after = await rooms.change_backend(row.id, change(name="New", api_key=""))
    assert (after.name, after.label, after.status, after.consecutive_429_count) == (
        "New",
        "old",
        "cooling",
        3,
    )
    assert after.cooldown_until is not None
    assert (await rooms.snapshot()).backends[0].api_key == PLAIN_KEY


@pytest.mark.parametrize(
    "reset", [{"status": "healthy"}, {"cooldown_until": None}, {"consecutive_429_count": 0}]
)
async def test_a_reset_ends_the_cooldown_its_event_and_the_count(
    database: Database, reset: dict[str, Any]
) -> None:
    rooms = store(database)
    row = await rooms.add_backend(form(), TUNING)
    await execute(
        database,
        "update backends set status = 'cooling', status_reason = 'r', consecutive_429_count = 3, "
        "cooldown_until = now()",
    )
    await execute(
        database,
        "insert into cooldown_events (id, backend_id, kind, consecutive_count, cooldown_seconds, until, "
        "response_summary, started_at) values ('cev_1', :id, 'quota', 3, 120, now(), '', now())",
        id=row.id,
    )
    after = await rooms.change_backend(row.id, change(**reset))
    assert (after.status, after.status_reason, after.consecutive_429_count, after.cooldown_until) == (
        Status.HEALTHY,
        "",
        0,
        None,
    )
    assert await execute(database, "select 1 from cooldown_events where ended_at is null") == []


async def test_a_restart_finds_cooldowns_counts_and_health_again(database: Database) -> None:
    rooms = store(database)
    row = await rooms.add_backend(form(), TUNING)
    await execute(
        database,
        "update backends set status = 'cooling', status_reason = 'slow down', consecutive_429_count = 2, "
        "cooldown_until = to_timestamp(2000000000)",
    )
    await execute(
        database,
        "insert into cooldown_events (id, backend_id, kind, consecutive_count, cooldown_seconds, until, "
        "response_summary, started_at) values ('cev_1', :id, 'quota', 2, 60, now(), '', now())",
        id=row.id,
    )
    await execute(
        database,
        "insert into backend_health (backend_id, state, last_latency_ms, last_status_code, success_rate_5m, "
        "consecutive_failures, last_check_at) values (:id, 'down', 0, 503, 1, 4, now())",
        id=row.id,
    )
    assert (await store(database).snapshot()).states[row.id] == State(
        status=Status.COOLING,
        reason="slow down",
        cooldown_until=2_000_000_000.0,
        kind="quota",  # type: ignore[arg-type]
        count=2,
        health="down",  # type: ignore[arg-type]
        failures=4,
    )


async def test_a_deleted_backend_leaves_routing_and_its_key_but_keeps_its_history(database: Database) -> None:
    rooms = store(database)
    row = await rooms.add_backend(form(), TUNING)
    usage = (
        "insert into backend_usage_logs (backend_id, model, pool, hour_bucket, request_count) "
        "values (:id, 'gpt', 'primary', now(), 1)"
    )
    await execute(database, usage, id=row.id)
    await rooms.delete_backend(row.id)
    assert (await rooms.snapshot()).backends == ()
    assert await rooms.backends() == []
    assert await rooms.names() == {row.id: "One"}
    assert await execute(database, "select request_count from backend_usage_logs") == [(1,)]
    assert await execute(database, "select api_key_encrypted from backends") == [("",)]
    with pytest.raises(NotFound):
        await rooms.delete_backend(row.id)


async def test_setting_the_status_disabled_takes_a_backend_out(database: Database) -> None:
    rooms = store(database)
    row = await rooms.add_backend(form(), TUNING)
    assert not (await rooms.change_backend(row.id, change(status="disabled"))).enabled


@dataclass
class FewConnections:
    """Connections in a dict."""

    values: dict[str, dict[str, Any]]

    async def get(self, kind: str, name: str = "default") -> dict[str, Any] | None:
        assert kind == "provider_key"
        return self.values.get(name)


async def test_a_key_may_lie_in_a_connection_and_follows_its_changes(database: Database) -> None:
    connections = FewConnections({"openai": {"api_key": "key-of-a-block"}})
    rooms = store(database, connections=connections)
    row = await rooms.add_backend(form(api_key="", key_connection="openai"), TUNING)
    assert (await rooms.snapshot()).backends[0].api_key == "key-of-a-block"
    connections.values["openai"] = {"api_key": "another"}
    assert (await rooms.snapshot()).backends[0].api_key == "another"
    connections.values.clear()
    (without,) = (await rooms.snapshot()).backends
    assert "provider_key/openai" in without.fault and without.api_key == ""
    await rooms.change_backend(row.id, change(api_key="typed in"))
    assert (await rooms.snapshot()).backends[0].api_key == "typed in"


async def test_a_backend_whose_connection_was_taken_away_does_not_go_on_with_its_key(
    database: Database,
) -> None:
    rooms = store(database, connections=FewConnections({"openai": {"api_key": "key-of-a-block"}}))
    await rooms.add_backend(form(api_key="", key_connection="openai"), TUNING)
    await rooms.snapshot()
    await execute(database, "update backends set key_connection = ''")
    (without,) = (await rooms.snapshot()).backends
    assert (without.api_key, without.fault) == ("", "It has no key.")


@dataclass
class FailingConnections(FewConnections):
    """Connections that can fail, as they do when the database goes away between two reads."""

    error: QuarterdeckError | None = None

    async def get(self, kind: str, name: str = "default") -> dict[str, Any] | None:
        if self.error is not None:
            raise self.error
        return await super().get(kind, name)


async def test_a_database_that_goes_away_in_the_middle_of_a_refresh_takes_no_key_away(
    database: Database,
) -> None:
    connections = FailingConnections({"openai": {"api_key": "key-of-a-block"}})
    rooms = store(database, connections=connections)
    await rooms.add_backend(form(api_key="", key_connection="openai"), TUNING)
    (before,) = (await rooms.snapshot()).backends
    connections.error = Unavailable("The database does not answer.", "Start it.")
    with pytest.raises(Unavailable):  # so that the router goes on from memory
        await rooms.snapshot()
    connections.error = None
    assert (await rooms.snapshot()).backends[0] is before


async def test_a_connection_that_does_not_open_is_a_fault_of_its_backend_alone(database: Database) -> None:
    connections = FailingConnections({}, Misconfigured("It does not open.", "Enter it again."))
    rooms = store(database, connections=connections)
    await rooms.add_backend(form(api_key="", key_connection="openai"), TUNING)
    await rooms.add_backend(form(name="Two"), TUNING)
    assert [backend.fault for backend in (await rooms.snapshot()).backends] == ["It does not open.", ""]


async def test_snapshots_that_are_taken_at_the_same_time_are_all_whole(database: Database) -> None:
    class SlowConnections(FewConnections):
        async def get(self, kind: str, name: str = "default") -> dict[str, Any] | None:
            await asyncio.sleep(0)
            return await super().get(kind, name)

    rooms = store(database, connections=SlowConnections({"openai": {"api_key": "key-of-a-block"}}))
    rows = [await rooms.add_backend(form(api_key="", key_connection="openai"), TUNING) for _ in range(5)]

    async def delete() -> None:
        for row in rows[1:]:
            await rooms.delete_backend(row.id)

    taken = await asyncio.gather(*(rooms.snapshot() for _ in range(10)), delete())
    assert all(backend.api_key for snapshot in taken[:-1] for backend in snapshot.backends)
    assert len((await rooms.snapshot()).backends) == 1


async def test_only_known_keys_with_fitting_values_become_settings(database: Database) -> None:
    rooms = store(database)
    await rooms.put_setting("queue_max_depth", "7", "for a while")
    await rooms.put_setting("queue_max_depth", "8", None)
    (row,) = await rooms.settings()
    assert (row.value, row.description) == ("8", "for a while")
    assert (await rooms.snapshot()).config == {"queue_max_depth": "8"}
    for secret in ("admin_token", "proxy_token", "encryption_key", "encryption_keys_previous", "no_such"):
        with pytest.raises(NotFound):
            await rooms.put_setting(secret, "x", None)
    with pytest.raises(Invalid):
        await rooms.put_setting("queue_max_depth", "many", None)
    await rooms.delete_setting("queue_max_depth")
    with pytest.raises(NotFound):
        await rooms.delete_setting("queue_max_depth")


async def test_a_secret_that_somebody_wrote_into_the_settings_is_not_read(database: Database) -> None:
    await execute(
        database,
        "insert into system_config (key, value, description, updated_at) "
        "values ('admin_token', 'x', '', now())",
    )
    assert (await store(database).snapshot()).config == {}
    assert await store(database).settings() == []


async def test_a_client_key_is_shown_once_found_by_its_hash_and_can_be_changed(database: Database) -> None:
    clients = store(database).clients
    client, key = await clients.add(ClientForm(name="anna", agent="developer", cost_per_day=0.5))
    assert key.startswith("qr_") and len(key) >= 46
    assert (client.key_hash, client.cost_per_day) == (digest(key), 500_000_000_000)
    assert client.key_hint.startswith("qr_") and key not in client.key_hint
    changed, new = await clients.new_key(client.id)
    assert new != key and changed.key_hash == digest(new)
    assert not (await clients.change(client.id, ClientChange(enabled=False))).enabled
    assert (await clients.all())[0].cost_per_day == 500_000_000_000
    with pytest.raises(Conflict):
        await clients.add(ClientForm(name="anna"))
    await clients.delete(client.id)
    with pytest.raises(NotFound):
        await clients.new_key(client.id)


async def test_an_agent_is_handed_the_same_key_again(database: Database) -> None:
    key = hex_key()
    first = await store(database, Seals.of(keyring(), key)).clients.key_of_agent("developer")
    assert await store(database, Seals.of(keyring(), key)).clients.key_of_agent("developer") == first
    assert await store(database).clients.key_of_agent("reviewer") != first


async def test_an_agent_whose_name_another_client_has_says_what_to_do(database: Database) -> None:
    """Its agent was taken from a client that was made by itself: that is one edit on the dashboard."""
    clients = store(database).clients
    key = await clients.key_of_agent("developer")
    (client,) = await clients.all()
    await clients.change(client.id, ClientChange(agent=""))
    with pytest.raises(Conflict, match="The agent developer has no client"):
        await clients.key_of_agent("developer")
    await clients.change(client.id, ClientChange(agent="developer"))
    assert await clients.key_of_agent("developer") == key


async def test_the_last_result_of_each_job_is_kept(database: Database) -> None:
    rooms = store(database)
    for text_ in ("first", "second"):
        await rooms.keep_upkeep(Result(Job.BACKUP, 1_800_000_000.0, "api", ok=True, text=text_))
    assert await rooms.upkeep() == [Result(Job.BACKUP, 1_800_000_000.0, "api", ok=True, text="second")]
