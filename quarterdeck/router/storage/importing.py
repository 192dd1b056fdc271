"""What earlier Sidecars left behind, taken over once: when the table of backends has never had a row.

V2: the SQLite file that `SIDECAR_DB_PATH` names, with its keys, history and settings (specification, section
3). V1: a key in `SIDECAR_API_KEY` becomes one backend at `SIDECAR_UPSTREAM` (section 2).
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError
from quarterdeck.kernel.words import counted
from quarterdeck.router import config
from quarterdeck.router.admin.forms import BackendForm, Document, MappingForm, Name, new_id, pico
from quarterdeck.router.backend import Pool, Source, Status
from quarterdeck.router.config import RouterSettings
from quarterdeck.router.ledger.booking import MOST_SUM
from quarterdeck.router.model import BackendRow, ConfigRow, CooldownEvent, DailyRow, UsageRow
from quarterdeck.router.storage.keys import BACKENDS, Seals
from quarterdeck.router.storage.store import stored_mappings

if TYPE_CHECKING:
    import sqlite3  # 2 MB, and a file is taken over once in a life

log = structlog.get_logger(__name__)

_LOCK = 0x5DEC0002
"""Key of the advisory lock that lets one process import at a time."""

_BATCH = 500

_MOST = 10**15
"""Of any count: thousands of such rows still have a sum that fits."""

_MOST_SMALL = 10**9
"""Of what lies in 32 bits: counts in a row, seconds."""

_YEARS = range(1970, 9000)
_NAME, _DOCUMENT = TypeAdapter[str](Name), TypeAdapter[dict[str, Any]](Document)

Row = Mapping[str, Any]


@dataclass
class Found:
    """Rows of a file, by table."""

    backends: list[dict[str, Any]] = field(default_factory=list)
    usage: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    days: list[dict[str, Any]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)


async def first_start(
    database: Database, seals: Seals, settings: RouterSettings, rows: Mapping[str, str]
) -> str:
    """Take over what there is, if this is the first start; what was done, in words, '' = nothing.

    Raises `Misconfigured` when the file is damaged or is none of Sidecar's: nothing was taken over then.
    """
    path = config.place(settings, rows).db_path
    async with database.command("take over an earlier sidecar") as unit:
        await unit.session.exec(select(func.pg_advisory_xact_lock(_LOCK)))
        if (await unit.session.exec(select(BackendRow.id).limit(1))).first() is not None:
            return ""
        if (file := _existing(path)) is not None:
            return await _take_file(unit, file, seals)
        if settings.api_key:
            rpm = config.tuning(settings, rows)
            return await _take_v1(unit, seals, settings.api_key.get_secret_value(), settings.upstream, rpm)
    return ""


def _existing(path: str) -> Path | None:
    if path and Path(path).exists():
        return Path(path)
    if path:
        log.warning("sidecar_file_missing", path=path, so="there is nothing to take over")
    return None


async def _take_v1(unit: Unit, seals: Seals, key: str, upstream: str, tuning: config.Tuning) -> str:
    try:
        form = BackendForm(name="Sidecar V1", api_base_url=upstream, api_key=key, source=Source.ENV)
    except ValidationError:
        raise Misconfigured(
            "SIDECAR_UPSTREAM is not an absolute http or https address, or SIDECAR_API_KEY is no key.",
            "Correct it, then start again.",
        ) from None
    identity = new_id("bkd")
    unit.session.add(
        BackendRow(
            id=identity,
            name=form.name,
            api_base_url=form.api_base_url,
            api_key_encrypted=seals.seal(BACKENDS, identity, form.api_key),
            rpm_limit=tuning.default_rpm_limit,
            timeout_seconds=tuning.default_request_timeout_seconds,
            source=Source.ENV,
            created_at=unit.now,
            updated_at=unit.now,
        )
    )
    log.warning("sidecar_v1_taken_over", backend=identity, to_do="add its model mappings")
    return "One backend was made from SIDECAR_API_KEY; add its model mappings."


async def _take_file(unit: Unit, path: Path, seals: Seals) -> str:
    found = read_file(path, seals, unit.now)
    await _insert(unit.session, BackendRow, found.backends)
    await _insert(unit.session, UsageRow, found.usage)
    await _insert(unit.session, CooldownEvent, found.events)
    await _insert(unit.session, DailyRow, found.days)
    await _insert(unit.session, ConfigRow, found.settings)
    log.info("sidecar_v2_taken_over", path=str(path), backends=len(found.backends), hours=len(found.usage))
    backends, hours = counted(len(found.backends), "backend"), counted(len(found.usage), "hour")
    return f"{backends} and {hours} of usage came from {path}."


async def _insert(session: AsyncSession, table: type[SQLModel], rows: Sequence[dict[str, Any]]) -> None:
    connection = await session.connection()
    for start in range(0, len(rows), _BATCH):
        some = insert(table.__table__).values(rows[start : start + _BATCH])  # type: ignore[attr-defined]
        await connection.execute(some.on_conflict_do_nothing())


def read_file(path: Path, seals: Seals, now: datetime) -> Found:
    """All that a Sidecar V2 file has for us. Raises `Misconfigured` when it is damaged or something else."""
    import sqlite3

    try:
        with closing(_opened(path)) as file:
            if (verdict := file.execute("pragma integrity_check").fetchone()[0]) != "ok":
                raise _damaged(path, str(verdict).splitlines()[0])
            tables = {row[0] for row in file.execute("select name from sqlite_master where type = 'table'")}
            if "backends" not in tables:
                raise _damaged(path, "it has no table of backends")
            stored = {name: _rows(file, name) if name in tables else [] for name in _TABLES}
    except sqlite3.Error as error:
        raise _damaged(path, str(error)) from None
    try:
        return _understood(stored, seals, now)
    except KeyError as error:
        raise _damaged(path, f"a table has no column {error}") from None


def _understood(stored: Mapping[str, Sequence[Row]], seals: Seals, now: datetime) -> Found:
    backends = [_backend(row, seals, now) for row in stored["backends"]]
    pools = {row["id"]: row["pool"] for row in backends}
    return Found(
        backends=backends,
        usage=_usage(stored["backend_usage_logs"], pools),
        events=[_event(row, now) for row in stored["cooldown_events"]],
        days=list(_days(stored["daily_stats"])),
        settings=list(_settings(stored["system_config"], now)),
    )


_TABLES = ("backends", "backend_usage_logs", "cooldown_events", "daily_stats", "system_config")


def _opened(path: Path) -> "sqlite3.Connection":
    """For reading only; works for a bare file name, too."""
    import sqlite3

    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    return connection


def _rows(file: "sqlite3.Connection", table: str) -> list[dict[str, Any]]:
    """Texts without what no text of PostgreSQL may have."""
    found = file.execute(f"select * from {table}")  # noqa: S608  a name of ours
    return [{key: _without_nul(value) for key, value in dict(row).items()} for row in found]


def _without_nul(value: Any) -> Any:
    return value.replace("\0", "") if isinstance(value, str) else value


def _damaged(path: Path, why: str) -> Misconfigured:
    return Misconfigured(
        f"{path} cannot be taken over: {why}.",
        "Restore it from a backup, or unset SIDECAR_DB_PATH to begin without it.",
        code="sidecar_file_damaged",
    )


def _backend(row: Row, seals: Seals, now: datetime) -> dict[str, Any]:
    status = _one_of(Status, row.get("status"), Status.HEALTHY)
    cooldown = _time(row.get("cooldown_until"))
    return {
        "id": str(row["id"]),
        "name": str(row.get("name") or row["id"]),
        "label": str(row.get("label") or ""),
        "api_base_url": str(row["api_base_url"]),
        "api_key_encrypted": _sealed_anew(str(row["id"]), str(row.get("api_key_encrypted") or ""), seals),
        "key_connection": "",
        "api": str(row.get("api") or "openai-completions"),
        "timeout_seconds": _within(row.get("timeout_seconds"), 10, 600, 120),
        "rpm_limit": _within(row.get("rpm_limit"), 1, 1000, 40),
        "pool": _one_of(Pool, row.get("pool"), Pool.PRIMARY),
        "enabled": bool(row.get("enabled", 1)) and status is not Status.DISABLED,
        "status": Status.COOLING if cooldown and cooldown > now else Status.HEALTHY,
        "status_reason": "",
        "model_mappings": _mappings(row),
        "source": _one_of(Source, row.get("source"), Source.IMPORT),
        "cooldown_until": cooldown,
        "consecutive_429_count": _within(row.get("consecutive_429_count"), 0, 10**6, 0),
        "metadata": _metadata(row),
        "created_at": _time(row.get("created_at")) or now,
        "updated_at": _time(row.get("updated_at")) or now,
        "deleted_at": None,
    }


def _sealed_anew(identity: str, sealed: str, seals: Seals) -> str:
    """Under our key if it opens; else untouched, so that the right key can still come."""
    try:
        return seals.seal(BACKENDS, identity, seals.open(BACKENDS, identity, sealed))
    except QuarterdeckError as error:
        log.error("backend_key_does_not_open", backend=identity, reason=error.detail)
        return sealed


def _metadata(row: Row) -> dict[str, Any]:
    try:
        return _DOCUMENT.validate_python(_object(row.get("metadata_json")))
    except ValidationError:
        log.warning("metadata_left_out", backend=row["id"])
        return {}


def _mappings(row: Row) -> dict[str, Any]:
    """Those that are valid. A cost of nothing but zeros was that program's way to say that none was known."""
    taken: dict[str, MappingForm] = {}
    for model, stored in _object(row.get("model_mappings_json")).items():
        try:
            known = {key: stored[key] for key in MappingForm.model_fields.keys() & dict(stored).keys()}
            if not any(dict(known.get("cost") or {}).values()):
                known.pop("cost", None)
            taken[_NAME.validate_python(model)] = MappingForm.model_validate(known)
        except (ValueError, TypeError):
            log.warning("mapping_left_out", backend=row["id"], model=model)
    return stored_mappings(taken)


def _usage(rows: Sequence[Row], pools: Mapping[str, Pool]) -> list[dict[str, Any]]:
    """Means become sums again; rows of one hour, model and pool become one."""
    sums: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        hour, backend = _time(row.get("hour_bucket")), str(row["backend_id"])
        if hour is None:
            continue
        hour = hour.replace(minute=0, second=0, microsecond=0)
        pool = _one_of(Pool, row.get("pool"), pools.get(backend, Pool.PRIMARY))
        place = (backend, str(row.get("model") or "unknown"), pool, hour)
        for name, value in _sums(row).items():
            sums[place][name] = min(sums[place][name] + value, _most(name))
    names = ("backend_id", "model", "pool", "hour_bucket")
    return [dict(zip(names, place, strict=True)) | dict(values) for place, values in sums.items()]


def _sums(row: Row) -> dict[str, int]:
    count = {name: _count(row.get(name)) for name in _COUNTED}
    requests, ttft = count["request_count"], _count(row.get("ttft_ms"))
    return count | {
        "cost_pico": _cost(row.get("cost")),
        "client_request_count": requests,
        "latency_ms_sum": _count(row.get("avg_latency_ms")) * requests,
        "ttft_ms_sum": ttft * requests,
        "ttft_count": requests if ttft else 0,
    }


_COUNTED = ("prompt_tokens", "completion_tokens", "total_tokens", "request_count", "error_count")


def _most(name: str) -> int:
    return MOST_SUM if name == "cost_pico" else _MOST


def _event(row: Row, now: datetime) -> dict[str, Any]:
    started = _time(row.get("started_at")) or now
    seconds = min(_count(row.get("cooldown_seconds")), _MOST_SMALL)
    until = started + timedelta(seconds=seconds)
    return {
        "id": str(row["id"]),
        "backend_id": str(row["backend_id"]),
        "kind": "rate",
        "consecutive_count": min(_count(row.get("consecutive_count")) or 1, _MOST_SMALL),
        "cooldown_seconds": seconds,
        "until": until,
        "response_summary": str(row.get("response_summary") or "")[:200],
        "started_at": started,
        "ended_at": _time(row.get("ended_at")) or until,
    }


def _days(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        moment = _time(str(row["date"])[:10])
        if moment is None:
            continue
        yield {
            "date": moment.date(),
            "pool": _one_of(Pool, row.get("pool"), Pool.PRIMARY),
            "total_requests": _count(row.get("total_requests")),
            "total_errors": _count(row.get("total_errors")),
            "total_tokens": _count(row.get("total_tokens")),
            "cost_pico": _cost(row.get("total_cost")),
            "unique_backends": min(_count(row.get("unique_backends")), _MOST_SMALL),
        }


def _settings(rows: Sequence[Row], now: datetime) -> Iterator[dict[str, Any]]:
    """Known keys with good values, and not where this program listens: that is for its own start to say."""
    for row in rows:
        key, value = str(row["key"]), str(row["value"])
        try:
            config.parse(key, value)
        except QuarterdeckError as error:
            log.warning("setting_left_out", key=key, reason=error.detail)
            continue
        if key not in (*config.RESTART, "backup_dir"):
            description = str(row.get("description") or "")
            yield {"key": key, "value": value, "description": description, "updated_at": now}


def _time(stored: object) -> datetime | None:
    """Either form in which Sidecar wrote times; both are UTC. None for what is none, or of no sane year."""
    try:
        found = datetime.fromisoformat(str(stored))
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found if found.year in _YEARS else None


def _object(stored: object) -> dict[str, Any]:
    try:
        found = json.loads(str(stored))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _one_of(kind: Any, stored: object, otherwise: Any) -> Any:
    return kind(stored) if stored in set(kind) else otherwise


def _within(stored: object, least: int, most: int, otherwise: int) -> int:
    return min(max(stored, least), most) if isinstance(stored, int) else otherwise


def _count(stored: object) -> int:
    """A count that fits into its column, however absurd; 0 for what is none."""
    return int(min(max(_number(stored), 0), _MOST))


def _cost(stored: object) -> int:
    """Pico-dollars of an amount in USD, nine million of them at most."""
    return min(pico(min(max(_number(stored), 0), _MOST)), MOST_SUM)


def _number(stored: object) -> float:
    """SQLite keeps anything in any column. Whole numbers stay exact."""
    if isinstance(stored, int):
        return stored
    try:
        found = float(str(stored))
    except ValueError:
        return 0
    return 0 if isnan(found) else found
