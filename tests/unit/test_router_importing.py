"""The first start: what an earlier Sidecar left is taken over once, whole or not at all."""

import os
import secrets
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import text

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.router import config
from quarterdeck.router.backend import Limit, Pool, Source, Status
from quarterdeck.router.config import RouterSettings, Tuning
from quarterdeck.router.ledger.booking import MOST_SUM
from quarterdeck.router.ledger.stats import Stats
from quarterdeck.router.ledger.writer import Ledger
from quarterdeck.router.storage.importing import first_start
from quarterdeck.router.storage.keys import Seals
from tests.fakes.router_parts import LIST_PRICE, form, hex_key, keyring, store

KEY = hex_key()
RING = keyring()
SEALS = Seals.of(RING, KEY)

SCHEMA = """
create table backends (id text primary key, name text not null, label text default '',
    api_base_url text not null, api_key_encrypted text not null,
    api text not null default 'openai-completions', timeout_seconds integer not null default 120,
    rpm_limit integer not null default 40, pool text not null default 'primary',
    enabled integer not null default 1, status text not null default 'healthy',
    model_mappings_json text default '{}', source text not null default 'webui', cooldown_until text,
    consecutive_429_count integer default 0, metadata_json text default '{}',
    created_at text not null, updated_at text not null);
create table backend_usage_logs (id text primary key, backend_id text not null, model text default 'unknown',
    prompt_tokens integer default 0, completion_tokens integer default 0, total_tokens integer default 0,
    cost real default 0.0, request_count integer default 0, error_count integer default 0,
    avg_latency_ms integer default 0, ttft_ms integer default 0, hour_bucket text not null, created_at text);
create table cooldown_events (id text primary key, backend_id text not null,
    consecutive_count integer not null default 1, cooldown_seconds integer not null,
    response_summary text default '', started_at text not null, ended_at text);
create table backend_health (backend_id text primary key, state text not null default 'healthy',
    last_check_at text not null);
create table system_config (key text primary key, value text not null, description text default '',
    updated_at text not null);
create table daily_stats (id text primary key, date text not null, pool text not null,
    total_requests integer default 0, total_errors integer default 0, total_tokens integer default 0,
    total_cost real default 0.0, unique_backends integer default 0, created_at text);
"""


def sealed(plain: str) -> str:
    nonce = secrets.token_bytes(12)
    return f"{nonce.hex()}:{AESGCM(bytes.fromhex(KEY)).encrypt(nonce, plain.encode(), None).hex()}"


MAPPINGS = """{
    "free": {"native_id": "listed", "cost": {"input": 0.0, "output": 0.0, "cacheRead": 0.0, "cacheWrite": 0}},
    "paid": {"native_id": "p", "cost": {"input": 1e-6}, "reasoning": true, "from_the_future": 1},
    "bad": {"native_id": ""}, "worse": null}"""


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    path = tmp_path / "sidecar_v2.db"
    with closing(sqlite3.connect(path)) as file:
        file.executescript(SCHEMA)
        file.execute(
            "insert into backends (id, name, label, api_base_url, api_key_encrypted, pool, rpm_limit, status,"
            " cooldown_until, consecutive_429_count, model_mappings_json, metadata_json, created_at,"
            " updated_at) values ('bkd_0123456789ab', 'NVIDIA', 'l', 'https://x.example/v1', ?, 'fallback',"
            " 20, 'cooling', '2999-01-01T00:00:00Z', 4, ?, '{\"a\": 1}', '2026-01-02 03:04:05',"
            " '2026-01-02T03:04:05Z')",
            (sealed("nvapi-canary"), MAPPINGS),
        )
        file.execute(
            "insert into backends (id, name, api_base_url, api_key_encrypted, rpm_limit, timeout_seconds,"
            " enabled, created_at, updated_at) values ('bkd_ffffffffffff', 'Lost', 'https://y.example', ?,"
            " 5000, 1, 0, '', '')",
            (f"{'0' * 24}:{'0' * 64}",),
        )
        for number, hour in enumerate(
            ("2026-03-01T10:00:00Z", "2026-03-01 10:00:00", "2026-03-01T11:00:00Z")
        ):
            file.execute(
                "insert into backend_usage_logs values (?, 'bkd_0123456789ab', 'm', 10, 5, 15, 0.0015, 4, 1,"
                " 100, 20, ?, '')",
                (f"use_{number}", hour),
            )
        file.execute(
            "insert into cooldown_events values ('cev_1', 'bkd_0123456789ab', 2, 60, 'slow',"
            " '2026-03-01 10:00:00', null)"
        )
        file.execute("insert into daily_stats values ('day_1', '2025-12-31', 'primary', 7, 1, 9, 0.5, 2, '')")
        file.executemany(
            "insert into system_config values (?, ?, 'd', '')",
            [("queue_max_depth", "9"), ("max_pool_retries", "x"), ("admin_token", "canary"), ("port", "1")],
        )
        file.commit()
    return path


def settings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> RouterSettings:
    for name in RouterSettings.model_fields:
        monkeypatch.delenv(config.variable(name), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return config.load()


async def rows(database: Database, query: str) -> list[Any]:
    async with database.read() as session:
        return [tuple(row) for row in await (await session.connection()).execute(text(query))]


async def test_a_sidecar_v2_file_is_taken_over_with_keys_history_and_settings(
    database: Database, sidecar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(monkeypatch, SIDECAR_DB_PATH=str(sidecar))
    assert "2 backends" in await first_start(database, SEALS, given, {})
    snapshot = await store(database, SEALS).snapshot()
    lost, nvidia = sorted(snapshot.backends, key=lambda backend: backend.name)
    assert (nvidia.id, nvidia.api_key, nvidia.pool, nvidia.rpm_limit, nvidia.label) == (
        "bkd_0123456789ab",
        "nvapi-canary",
        Pool.FALLBACK,
        20,
        "l",
    )
    assert set(nvidia.mappings) == {"free", "paid"}
    assert nvidia.mappings["free"].prices == LIST_PRICE  # its zeros meant "not known"
    assert nvidia.mappings["paid"].prices.input == 1_000_000 and nvidia.mappings["paid"].reasoning
    assert (lost.fault != "", lost.enabled, lost.rpm_limit, lost.timeout_seconds) == (True, False, 1000, 10)
    state = snapshot.states[nvidia.id]
    assert (state.status, state.count, state.kind) == (Status.COOLING, 4, Limit.RATE)
    assert state.cooldown_until == datetime(2999, 1, 1, tzinfo=UTC).timestamp()
    assert snapshot.config == {"queue_max_depth": "9"}
    usage = "select model, pool, request_count, total_tokens, cost_pico, latency_ms_sum, ttft_count from "
    assert await rows(database, usage + "backend_usage_logs order by hour_bucket") == [
        ("m", "fallback", 8, 30, 3_000_000_000, 800, 8),
        ("m", "fallback", 4, 15, 1_500_000_000, 400, 4),
    ]
    assert await rows(
        database, "select extract(epoch from ended_at - started_at)::int from cooldown_events"
    ) == [(60,)]
    assert await rows(database, "select date::text, total_requests, cost_pico from daily_stats") == [
        ("2025-12-31", 7, 500_000_000_000)
    ]
    assert (await store(database, SEALS).backend(nvidia.id)).extra == {"a": 1}


ABSURD = [2**63 - 1, -5, 1e300, 9e999, "many", "", "\0", b"\xff", None]


@pytest.mark.parametrize("odd", ABSURD, ids=repr)
async def test_absurd_values_keep_nothing_else_from_being_taken_over(
    database: Database, sidecar: Path, monkeypatch: pytest.MonkeyPatch, odd: object
) -> None:
    """SQLite takes anything into any column."""
    with closing(sqlite3.connect(sidecar)) as file:
        for column in ("consecutive_429_count", "timeout_seconds", "metadata_json", "cooldown_until"):
            file.execute(f"update or ignore backends set {column} = ?", (odd,))
        file.execute(
            "insert into backend_usage_logs values ('odd', 'bkd_0123456789ab', 'm', ?1, ?1, ?1, ?1, ?1, ?1,"
            " ?1, ?1, '2026-03-01T12:00:00Z', '')",
            (odd,),
        )
        for hour in ("0001-01-01T00:00:00+05:00", "9999-12-31T23:00:00Z", "soon"):
            file.execute(
                "insert into backend_usage_logs values (?1, 'bkd_0123456789ab', 'm', 1, 1, 1, 1, 1, 1, 1, 1,"
                " ?1, '')",
                (hour,),
            )
            file.execute(
                "insert or ignore into cooldown_events values ('odd' || ?2, 'bkd_0123456789ab', ?1, ?1, ?1,"
                " ?2, ?1)",
                (odd, hour),
            )
            file.execute(
                "insert into daily_stats values (?2, ?2, 'primary', ?1, ?1, ?1, ?1, ?1, '')", (odd, hour)
            )
        file.execute("insert into daily_stats values ('d', '2026-01-01', '', ?1, ?1, ?1, ?1, ?1, '')", (odd,))
        file.commit()
    given = settings(monkeypatch, SIDECAR_DB_PATH=str(sidecar))
    assert await first_start(database, SEALS, given, {})
    count = "select count(*) filter (where hour_bucket < '2026-03-01 12:00Z'), count(*)"
    assert await rows(database, f"{count} from backend_usage_logs") == [(2, 3)]
    assert await rows(database, "select date::text from daily_stats order by 1") == [
        ("2025-12-31",),
        ("2026-01-01",),
    ]
    async with Ledger(database, sidecar.parent / "spool", lambda: 0.0) as ledger:
        assert ledger.totals.requests >= 12
        await Stats(database, lambda: 0.0, lambda: ledger.totals).aggregate()


async def test_of_several_absurd_hours_the_sums_still_fit(
    database: Database, sidecar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 2**63 - 1
    with closing(sqlite3.connect(sidecar)) as file:
        for number in range(3):
            file.execute(
                "insert into backend_usage_logs values (?2, 'bkd_0123456789ab', 'm', ?1, ?1, ?1, ?1, ?1, ?1,"
                " ?1, ?1, '2026-03-01T12:00:00Z', '')",
                (most, f"odd{number}"),
            )
        file.commit()
    given = settings(monkeypatch, SIDECAR_DB_PATH=str(sidecar))
    await first_start(database, SEALS, given, {})
    async with Ledger(database, sidecar.parent / "spool", lambda: 0.0) as ledger:
        assert ledger.totals.cost == MOST_SUM
        assert await Stats(database, lambda: 0.0, lambda: ledger.totals).aggregate() == "1 sum of a day"


async def test_a_table_without_a_column_that_is_needed_is_named(
    database: Database, sidecar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(sidecar)) as file:
        file.execute("alter table daily_stats rename column date to day")
        file.commit()
    given = settings(monkeypatch, SIDECAR_DB_PATH=str(sidecar))
    with pytest.raises(Misconfigured, match="no column 'date'"):
        await first_start(database, SEALS, given, {})


async def test_a_key_that_does_not_open_now_opens_when_its_key_comes(
    database: Database, sidecar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(monkeypatch, SIDECAR_DB_PATH=str(sidecar))
    await first_start(database, Seals(RING), given, {})
    assert all(backend.fault for backend in (await store(database, Seals(RING)).snapshot()).backends)
    later = {b.name: b for b in (await store(database, SEALS).snapshot()).backends}
    assert later["NVIDIA"].api_key == "nvapi-canary"


async def test_it_is_taken_over_once_even_after_everything_was_deleted(
    database: Database, sidecar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(monkeypatch, SIDECAR_DB_PATH=str(sidecar))
    await first_start(database, SEALS, given, {})
    rooms = store(database, SEALS)
    for row in await rooms.backends():
        await rooms.delete_backend(row.id)
    assert await first_start(database, SEALS, given, {}) == ""
    assert await rooms.backends() == []


async def test_a_router_with_backends_takes_nothing_over(
    database: Database, sidecar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(database).add_backend(form(), Tuning())
    given = settings(monkeypatch, SIDECAR_DB_PATH=str(sidecar), SIDECAR_API_KEY="nvapi-1")
    assert await first_start(database, SEALS, given, {}) == ""


async def test_a_file_name_without_a_folder_works(
    database: Database, sidecar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sidecar.parent)
    given = settings(monkeypatch, SIDECAR_DB_PATH=sidecar.name)
    assert await first_start(database, SEALS, given, {})


async def test_a_file_that_is_not_there_is_no_reason_not_to_start(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(monkeypatch, SIDECAR_DB_PATH=str(tmp_path / "none.db"))
    assert await first_start(database, SEALS, given, {}) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["text", "other", "pages", "byte"])
async def test_a_damaged_file_or_another_one_stops_the_start_and_nothing_is_taken_over(
    database: Database, sidecar: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    raw = sidecar.read_bytes()
    if damage == "text":
        sidecar.write_text("this is no database" * 100)
    elif damage == "other":
        sidecar.unlink()
        with closing(sqlite3.connect(sidecar)) as file:
            file.execute("create table other (x)")
    elif damage == "byte":  # everything can be read, but one index says something else than its table
        sidecar.write_bytes(raw.replace(b"bkd_ffffffffffff", b"bkd_fffffffffffX", 1))
    else:
        sidecar.write_bytes(raw[:4096] + secrets.token_bytes(len(raw) - 4096))
    given = settings(monkeypatch, SIDECAR_DB_PATH=str(sidecar))
    with pytest.raises(Misconfigured, match="cannot be taken over"):
        await first_start(database, SEALS, given, {})
    assert await store(database).backends() == []


async def test_a_v1_key_becomes_one_backend_once_and_goes_nowhere_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(monkeypatch, SIDECAR_API_KEY="nvapi-canary-of-v1", SIDECAR_RATE_RPM="33")
    before = dict(os.environ)
    assert "mappings" in await first_start(database, SEALS, given, {})
    assert await first_start(database, SEALS, given, {}) == ""
    assert dict(os.environ) == before
    rooms = store(database, SEALS)
    (row,) = await rooms.backends()
    assert (row.source, row.pool, row.rpm_limit, row.api_base_url) == (
        Source.ENV,
        Pool.PRIMARY,
        33,
        "https://integrate.api.nvidia.com/v1",
    )
    assert (await rooms.snapshot()).backends[0].api_key == "nvapi-canary-of-v1"
    await rooms.delete_backend(row.id)
    assert await first_start(database, SEALS, given, {}) == ""


async def test_a_wrong_v1_address_is_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(monkeypatch, SIDECAR_API_KEY="nvapi-1", SIDECAR_UPSTREAM="integrate")
    with pytest.raises(Misconfigured, match="SIDECAR_UPSTREAM"):
        await first_start(database, SEALS, given, {})
