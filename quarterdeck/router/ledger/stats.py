"""What was used, told to people: by hour, by day, by call, by agent; and the sums and deletions that keep it.

Everything is bounded by time, newest first, in USD; names of backends stand beside their ids, also of those
that are gone.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import text

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.words import counted
from quarterdeck.router.admin.forms import usd
from quarterdeck.router.ledger.booking import HOURLY, MOST_SUM, added, fitting
from quarterdeck.router.ledger.writer import Totals
from quarterdeck.router.limits.rules import sentence_of

log = structlog.get_logger(__name__)

MOST_HOURS = 9_600
MOST_DAYS = 3_660
MOST_ROWS = 1_000

PAGE = 2_000
"""Rows read at a time: a year of hours never lies in memory as a whole."""

_DELETED_AT_ONCE = 20_000

_HOURS = """
select u.hour_bucket, u.backend_id, u.model, u.pool, coalesce(b.name, '') as backend_name, u.prompt_tokens,
    u.completion_tokens, u.total_tokens, u.cost_pico, u.request_count, u.error_count, u.client_request_count,
    u.latency_ms_sum, u.ttft_ms_sum, u.ttft_count
from backend_usage_logs u left join backends b on b.id = u.backend_id
where u.hour_bucket >= :since and (:backend_id = '' or u.backend_id = :backend_id)
    and (u.hour_bucket, u.backend_id, u.model, u.pool) < (:hour, :backend, :model, :pool)
order by u.hour_bucket desc, u.backend_id desc, u.model desc, u.pool desc limit :page
"""
_DAYS = """
select date, pool, total_requests, total_errors, total_tokens, cost_pico, unique_backends
from daily_stats where date >= :since order by date desc, pool desc
"""
_COOLDOWNS = """
select e.id, e.backend_id, coalesce(b.name, '') as backend_name, e.kind, e.consecutive_count,
    e.cooldown_seconds, e.until, e.response_summary, e.started_at, e.ended_at
from cooldown_events e left join backends b on b.id = e.backend_id
where :backend_id = '' or e.backend_id = :backend_id order by e.started_at desc, e.id limit :limit
"""
_AGGREGATE = f"""
insert into daily_stats (date, pool, total_requests, total_errors, total_tokens, cost_pico, unique_backends)
select (hour_bucket at time zone 'UTC')::date, pool, sum(request_count), sum(error_count),
    {fitting("sum(total_tokens)")}, {fitting("sum(cost_pico)")}, count(distinct backend_id)
from backend_usage_logs where hour_bucket >= :since group by 1, 2
on conflict (date, pool) do update set total_requests = excluded.total_requests,
    total_errors = excluded.total_errors, total_tokens = excluded.total_tokens,
    cost_pico = excluded.cost_pico, unique_backends = excluded.unique_backends
"""  # noqa: S608  nothing of it comes from outside
_SPEND = """
select count(*) filter (where is_answer) as requests, count(*) as attempts,
    coalesce(sum(total_tokens), 0) as tokens, coalesce(sum(prompt_tokens), 0) as prompt_tokens,
    coalesce(sum(completion_tokens), 0) as completion_tokens, coalesce(sum(cost_pico), 0) as cost
from model_calls where {where}
"""
_CALLS = """
select c.*, coalesce(b.name, '') as backend_name, coalesce(k.name, '') as client_name
from model_calls c left join backends b on b.id = c.backend_id left join client_keys k on k.id = c.client_id
where {where} order by c.at desc, c.id limit :limit
"""
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""The hour into which hours go that are deleted: totals are summed over all hours, and must not fall."""

_HOURS_GONE = f"""
with gone as (
    delete from backend_usage_logs where ctid = any(array(
        select ctid from backend_usage_logs where hour_bucket > :beginning and hour_bucket < :usage
        limit :most
    ))
    returning *
), kept as (
    insert into backend_usage_logs (backend_id, model, pool, hour_bucket, {", ".join(HOURLY)})
    select backend_id, model, pool, :beginning, {", ".join(fitting(f"sum({name})") for name in HOURLY)}
    from gone group by 1, 2, 3 order by 1, 2, 3
    on conflict (backend_id, model, pool, hour_bucket) do update set {added("backend_usage_logs", HOURLY)}
)
select count(*) from gone
"""  # noqa: S608  nothing of it comes from outside
_OLD = {
    "client_usage": "date < (:usage at time zone 'UTC')::date",
    "model_calls": "at < :calls",
    "cooldown_events": "coalesce(ended_at, until) < :calls",  # nobody ends those of who is long gone
}
_FILTERS = ("backend_id", "client_id", "agent", "item")


@dataclass(frozen=True)
class Narrow:
    """Which calls are meant; '' = any."""

    backend_id: str = ""
    client_id: str = ""
    agent: str = ""
    item: str = ""
    since: datetime | None = None

    def where(self, prefix: str = "") -> tuple[str, dict[str, Any]]:
        """As a condition, and its values."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _FILTERS if getattr(self, name)}
        conditions = [f"{prefix}{name} = :{name}" for name in values]
        if self.since is not None:
            values["since"] = self.since
            conditions.append(f"{prefix}at >= :since")
        return " and ".join(conditions) or "true", values


class Stats:
    """Reads what the ledger wrote. `now` gives epoch seconds; `totals` are those of the ledger."""

    def __init__(self, database: Database, now: Callable[[], float], totals: Callable[[], Totals]) -> None:
        self._database = database
        self._now = now
        self._totals = totals
        self._aggregated: datetime | None = None

    def total(self) -> dict[str, Any]:
        """Everything since the beginning, from memory; zeros, never null. `total_requests` are attempts."""
        totals = self._totals()
        return {
            "total_requests": totals.requests,
            "total_client_requests": totals.client_requests,
            "total_errors": totals.errors,
            "total_tokens": totals.tokens,
            "total_prompt_tokens": totals.prompt_tokens,
            "total_completion_tokens": totals.completion_tokens,
            "total_cost": usd(totals.cost),
        }

    async def hourly(self, backend_id: str = "", hours: int = 168) -> AsyncIterator[list[dict[str, Any]]]:
        """Hours that began in the last `hours` hours or touch them, in pages of rows."""
        since = self._moment(hours=hours).replace(minute=0, second=0, microsecond=0)
        end = datetime(9999, 1, 1, tzinfo=UTC)
        last = {"hour": end, "backend": "", "model": "", "pool": ""}
        while True:
            values = {"since": since, "backend_id": backend_id, "page": PAGE} | last
            rows = await self._rows(_HOURS, values)
            if rows:
                yield [_hour(row) for row in rows]
            if len(rows) < PAGE:
                return
            names = ("hour_bucket", "backend_id", "model", "pool")
            last = dict(zip(last, (rows[-1][name] for name in names), strict=True))

    async def daily(self, days: int = 30) -> list[dict[str, Any]]:
        """The last `days` UTC days, today included, one row per pool."""
        since = self._moment(days=days - 1).date()
        return [
            {key: value for key, value in row.items() if key != "cost_pico"}
            | {"date": row["date"].isoformat(), "total_cost": usd(row["cost_pico"])}
            for row in await self._rows(_DAYS, {"since": since})
        ]

    async def cooldowns(self, backend_id: str = "", limit: int = 50) -> list[dict[str, Any]]:
        """Cooldowns as they began; `reason` is the sentence in the summary."""
        rows = await self._rows(_COOLDOWNS, {"backend_id": backend_id, "limit": limit})
        return [
            dict(row)
            | {key: _iso(row[key]) for key in ("until", "started_at", "ended_at")}
            | {"reason": sentence_of(row["response_summary"])}
            for row in rows
        ]

    async def calls(self, narrow: Narrow, limit: int = 100) -> list[dict[str, Any]]:
        """Single attempts."""
        where, values = narrow.where("c.")
        rows = await self._rows(_CALLS.format(where=where), values | {"limit": limit})
        return [
            {key: value for key, value in row.items() if key != "cost_pico"}
            | {"at": _iso(row["at"]), "cost": usd(row["cost_pico"])}
            for row in rows
        ]

    async def spend(self, narrow: Narrow) -> dict[str, Any]:
        """What such calls used, as far back as single calls are kept."""
        where, values = narrow.where()
        (row,) = await self._rows(_SPEND.format(where=where), values)
        counts = {key: min(int(value), MOST_SUM) for key, value in row.items()}
        return counts | {"cost": usd(int(row["cost"]))}

    async def aggregate(self) -> str:
        """Make the days from the hours: all of them the first time, then those since the day before the last.

        A day is made anew as long as something may still be booked into it, also after an outage.
        """
        now = self._moment()
        since = _BEGINNING + timedelta(hours=1)
        if self._aggregated is not None:
            since = _midnight(self._aggregated - timedelta(days=1))
        async with self._database.command("sum up days") as unit:
            connection = await unit.session.connection()
            done = await connection.execute(text(_AGGREGATE), {"since": since})
        self._aggregated = now
        return counted(done.rowcount, "sum of a day", "sums of days")

    async def retain(self, usage_days: int, calls_days: int) -> str:
        """Delete what is older, by whole UTC days and in small commands; totals stay, over restarts, too."""
        values = {
            "usage": _midnight(self._moment(days=usage_days)),
            "calls": _midnight(self._moment(days=calls_days)),
        }
        deleted = {"backend_usage_logs": await self._fold(values["usage"])}
        deleted |= {table: await self._delete(table, condition, values) for table, condition in _OLD.items()}
        return ", ".join(f"{count} of {table}" for table, count in deleted.items())

    async def _fold(self, usage: datetime) -> int:
        """Delete hours; what they counted is kept in one row per backend, model and pool."""
        values = {"beginning": _BEGINNING, "usage": usage, "most": _DELETED_AT_ONCE}
        count = 0
        while True:
            async with self._database.command("fold old hours") as unit:
                done: int = await (await unit.session.connection()).scalar(text(_HOURS_GONE), values)
            count += done
            if done < _DELETED_AT_ONCE:
                return count

    async def _delete(self, table: str, condition: str, values: Mapping[str, Any]) -> int:
        some = f"select ctid from {table} where {condition} limit {_DELETED_AT_ONCE}"  # noqa: S608
        statement = text(f"delete from {table} where ctid = any(array({some}))")  # noqa: S608
        mine = {name: value for name, value in values.items() if f":{name}" in condition}
        count = 0
        while True:
            async with self._database.command("delete old rows") as unit:
                done = await (await unit.session.connection()).execute(statement, mine)
            count += done.rowcount
            if done.rowcount < _DELETED_AT_ONCE:
                return count

    async def _rows(self, query: str, values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        async with self._database.read() as session:
            found = await (await session.connection()).execute(text(query), values)
            return [dict(row) for row in found.mappings()]

    def _moment(self, **ago: int) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC) - timedelta(**ago)


def _hour(row: Mapping[str, Any]) -> dict[str, Any]:
    sums = ("cost_pico", "latency_ms_sum", "ttft_ms_sum", "ttft_count")
    return {key: value for key, value in row.items() if key not in sums} | {
        "hour_bucket": _iso(row["hour_bucket"]),
        "cost": usd(row["cost_pico"]),
        "avg_latency_ms": _mean(row["latency_ms_sum"], row["request_count"]),
        "ttft_ms": _mean(row["ttft_ms_sum"], row["ttft_count"]),
    }


def _mean(total: int, count: int) -> float:
    return round(total / count, 1) if count else 0.0


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _iso(moment: datetime | None) -> str | None:
    """The one form of times (section 3)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None
