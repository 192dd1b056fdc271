"""Backups of the router: complete, verified, private, and able to come back."""

import sqlite3
import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlmodel import SQLModel, select

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound, Unavailable
from quarterdeck.router import model
from quarterdeck.router.backend import Limit, Pool, Status
from quarterdeck.router.storage import backup
from quarterdeck.router.storage.lease import LEASE
from quarterdeck.router.upkeep.backing_up import back_up

NOW = datetime(2026, 11, 22, 3, 15, tzinfo=UTC)
NAMED = "sidecar_v2_20261122_031500.db"


def rows() -> list[SQLModel]:
    """One row of every table, with values that a careless copy would change."""
    return [
        model.BackendRow(
            id="bkd_000000000001",
            name="Ärger, \"quoted\" 'n' all",
            api_base_url="https://one.example/v1",
            api_key_encrypted="v1.key.sealed",
            pool=Pool.FALLBACK,
            status=Status.COOLING,
            model_mappings={"m": {"native_id": "n", "cost": {"input": 1e-07}}},
            extra={"a": [1, None, True]},
            cooldown_until=NOW + timedelta(seconds=30, microseconds=1),
            created_at=NOW,
            updated_at=NOW,
        ),
        model.HealthRow(backend_id="bkd_000000000001", success_rate_5m=0.25, last_check_at=NOW),
        model.CooldownEvent(
            id="cev_000000000001",
            backend_id="bkd_000000000001",
            kind=Limit.QUOTA,
            cooldown_seconds=30,
            until=NOW,
            started_at=NOW,
        ),
        model.UsageRow(
            backend_id="bkd_000000000001",
            model="m",
            pool=Pool.PRIMARY,
            hour_bucket=NOW,
            cost_pico=2**62,
            request_count=7,
        ),
        model.DailyRow(day=date(2026, 11, 21), pool=Pool.PRIMARY, total_requests=7),
        model.ConfigRow(key="queue_max_depth", value="7", updated_at=NOW),
        model.ClientRow(
            id="cli_000000000001",
            name="scout",
            key_hash="h",
            key_encrypted="s",
            key_hint="qr_",
            cost_pico_per_day=5,
            created_at=NOW,
            updated_at=NOW,
        ),
        model.ClientUsageRow(client_id="cli_000000000001", day=date(2026, 11, 21), tokens=3),
        model.CallRow(
            id="use_1",
            at=NOW,
            request="r",
            attempt=1,
            is_answer=True,
            backend_id="bkd_000000000001",
            pool=Pool.PRIMARY,
            model="m",
            outcome="ok",
            status=200,
            is_stream=False,
            ttft_ms=None,
        ),
    ]


@pytest.fixture
async def filled(database: Database) -> Database:
    for row in rows():
        async with database.command("fill") as unit:
            unit.session.add(row)
    return database


async def contents(database: Database) -> dict[str, list[dict[str, object]]]:
    async with database.read() as session:
        return {
            str(kind.__tablename__): [row.model_dump() for row in await session.exec(select(kind))]
            for kind in model.KINDS
        }


def test_every_table_that_keeps_something_is_backed_up() -> None:
    kept = {str(kind.__tablename__) for kind in model.KINDS}
    there = {str(kind.__tablename__) for kind in vars(model).values() if hasattr(kind, "__table__")}
    assert there - kept == {"router_upkeep"}  # when jobs ran is of no use elsewhere


async def test_what_is_restored_equals_what_was_backed_up(filled: Database, tmp_path: Path) -> None:
    before = await contents(filled)
    made = backup.make(filled.url, tmp_path, NOW)
    async with filled.command("change") as unit:
        unit.session.add(model.ConfigRow(key="log_level", value="DEBUG", updated_at=NOW))
        await unit.session.delete(await unit.session.get_one(model.CallRow, "use_1"))
    backup.restore(filled.url, made.path)
    assert await contents(filled) == before
    assert all(len(found) == 1 for found in before.values())


async def test_the_file_carries_its_time_and_is_private(filled: Database, tmp_path: Path) -> None:
    made = backup.make(filled.url, tmp_path / "new", NOW)
    assert made.path.name == NAMED
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert [path.name for path in made.path.parent.iterdir()] == [made.path.name]


async def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="connection"):
        backup.make("postgresql+psycopg://nobody@127.0.0.1:1/none", tmp_path, NOW)
    assert list(tmp_path.iterdir()) == []


async def test_a_process_of_its_own_writes_it_retires_old_ones_and_clears_up_after_one_that_was_killed(
    filled: Database, tmp_path: Path
) -> None:
    old = backup.make(filled.url, tmp_path, NOW - timedelta(days=8)).path
    (tmp_path / "sidecar_v2_20261121_031500.partial").write_bytes(b"half of it")
    said = await back_up(filled.url, tmp_path, NOW, days=7)
    assert said == f"{NAMED} with {len(model.KINDS)} rows; 1 old one retired"
    assert [path.name for path in tmp_path.iterdir()] == [NAMED] != [old.name]
    assert backup.verify(tmp_path / NAMED)


async def test_why_it_could_not_be_written_is_told_without_the_password(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nobody = "postgresql+psycopg://nobody:canary@127.0.0.1:1/none"
    with pytest.raises(Unavailable, match="not written: Not a directory"):
        await back_up(nobody, tmp_path / "file" / "backups", NOW, days=7)
    with pytest.raises(Unavailable, match=r"not written: .*Connection refused") as told:
        await back_up(nobody, tmp_path, NOW, days=7)
    with pytest.raises(Unavailable, match="ended with code 1"):
        await back_up("no address at all", tmp_path, NOW, days=7)
    assert "canary" not in str(told.value) and list(tmp_path.iterdir()) == [tmp_path / "file"]


async def test_a_damaged_file_is_refused_and_changes_nothing(filled: Database, tmp_path: Path) -> None:
    before = await contents(filled)
    path = backup.make(filled.url, tmp_path, NOW).path
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Invalid, match="no backup that can be used"):
        backup.restore(filled.url, path)
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(Invalid, match="no backup that can be used"):
        backup.restore(filled.url, path)
    assert await contents(filled) == before


async def test_a_backup_with_rows_missing_is_refused(filled: Database, tmp_path: Path) -> None:
    path = backup.make(filled.url, tmp_path, NOW).path
    with sqlite3.connect(path) as file:
        file.execute("delete from model_calls")
    file.close()
    with pytest.raises(Invalid, match="rows are missing"):
        backup.verify(path)


def test_a_backup_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nothing\.db"):
        backup.verify(tmp_path / "nothing.db")


async def test_nothing_is_restored_under_a_running_router(filled: Database, tmp_path: Path) -> None:
    path = backup.make(filled.url, tmp_path, NOW).path
    plain = filled.url.replace("+psycopg", "", 1)
    with psycopg.connect(plain) as running:
        running.execute("select pg_advisory_lock(%s)", [LEASE])
        with pytest.raises(Conflict, match="A router runs"):
            backup.restore(filled.url, path)


def test_only_old_backups_of_ours_are_retired_and_never_the_newest(tmp_path: Path) -> None:
    names = [
        "sidecar_v2_20261101_000000.db",
        "sidecar_v2_20261113_000000.db",
        "sidecar_v2_20261121_000000.db",
    ]
    others = ["sidecar_v2_mine.db", "notes.db", "sidecar_v2_20261101_000000.db.keep"]
    for name in names + others:
        (tmp_path / name).touch()
    retired = backup.retire(tmp_path, 7, NOW)
    assert [path.name for path in retired] == names[:2]
    assert {path.name for path in tmp_path.iterdir()} == {names[2], *others}
    assert backup.retire(tmp_path, 7, NOW + timedelta(days=100)) == []
