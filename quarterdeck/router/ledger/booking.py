"""How calls and changes become rows: the lines that wait for it, and the statements that take them in."""

import json
import secrets
from dataclasses import asdict, replace
from typing import Any

from quarterdeck.router.backend import MOST_COST, MOST_TOKENS, Usage
from quarterdeck.router.call import Call
from quarterdeck.router.limits.standing import Change

LONGEST_NAME = 300
"""Characters kept of a name that comes from a caller."""

MOST_SUM = 9 * 10**18
"""Where sums stand still, of pico-dollars nine million USD: one that does not fit into its column would keep
every further call out."""

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": ""})
_NULL = "\\N"
_MOST_NAMES = 4096


class _Names(dict[str, str]):
    """Names and what they are written as: the same few come again and again."""

    def __missing__(self, name: str) -> str:
        if len(self) >= _MOST_NAMES:
            self.clear()
        safe = self[name] = _safe(name)
        return safe


_names = _Names()

STAGING = """
create temporary table if not exists calls_to_book (
    id text, at double precision, request text, attempt integer, is_answer boolean, backend_id text,
    pool text, is_emergency boolean, model text, client_id text, agent text, item text, outcome text,
    status integer, is_stream boolean, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint,
    cache_read_tokens bigint, cache_write_tokens bigint, is_estimate boolean, cost_pico bigint,
    latency_ms bigint, ttft_ms integer
) on commit delete rows
"""

COPY = "copy calls_to_book from stdin"

_COLUMNS = """id, at, request, attempt, is_answer, backend_id, pool, is_emergency, model, client_id, agent,
    item, outcome, status, is_stream, prompt_tokens, completion_tokens, total_tokens, cache_read_tokens,
    cache_write_tokens, is_estimate, cost_pico, latency_ms, ttft_ms"""

HOURLY = (
    *("prompt_tokens", "completion_tokens", "total_tokens", "cost_pico", "request_count", "error_count"),
    *("client_request_count", "latency_ms_sum", "ttft_ms_sum", "ttft_count"),
)
_DAILY = ("requests", "tokens", "cost_pico")


def fitting(total: str) -> str:
    """A sum in SQL, taken as numeric and kept in a bigint."""
    return f"least({total}, {MOST_SUM})::bigint"


def added(table: str, columns: tuple[str, ...]) -> str:
    """What a row that is there already becomes by another: `set` of an upsert."""
    return ", ".join(f"{name} = {fitting(f'{table}.{name}::numeric + excluded.{name}')}" for name in columns)


BOOK = f"""
with booked as (
    insert into model_calls ({_COLUMNS})
    select {_COLUMNS.replace("at,", "to_timestamp(at),", 1)} from calls_to_book
    on conflict (id) do nothing
    returning *
), by_hour as (
    insert into backend_usage_logs (backend_id, model, pool, hour_bucket, {", ".join(HOURLY)})
    select backend_id, model, pool, date_trunc('hour', at, 'UTC'),
        sum(prompt_tokens), sum(completion_tokens), sum(total_tokens), {fitting("sum(cost_pico)")}, count(*),
        count(*) filter (where outcome not in ('ok', 'aborted')), count(*) filter (where is_answer),
        sum(latency_ms), coalesce(sum(ttft_ms), 0), count(ttft_ms)
    from booked group by 1, 2, 3, 4 order by 1, 2, 3, 4
    on conflict (backend_id, model, pool, hour_bucket)
    do update set {added("backend_usage_logs", HOURLY)}
), by_day as (
    insert into client_usage (client_id, date, {", ".join(_DAILY)})
    select client_id, (at at time zone 'UTC')::date, count(*) filter (where is_answer),
        sum(total_tokens), {fitting("sum(cost_pico)")}
    from booked where client_id <> '' group by 1, 2 order by 1, 2
    on conflict (client_id, date) do update set {added("client_usage", _DAILY)}
)
select count(*) from booked
"""  # noqa: S608  nothing of it comes from outside
"""Books what is staged: a call that was booked before counts nothing, however often its line comes."""

_TOTALS = (
    *("request_count", "client_request_count", "error_count"),
    *("total_tokens", "prompt_tokens", "completion_tokens", "cost_pico"),
)
TOTALS = f"""
select {", ".join(fitting(f"coalesce(sum({name}), 0)") for name in _TOTALS)}
from backend_usage_logs
"""  # noqa: S608  nothing of it comes from outside

_END_COOLDOWN = """
update cooldown_events set ended_at = greatest(to_timestamp(%(at)s), started_at)
where backend_id = %(backend_id)s and ended_at is null and started_at <= to_timestamp(%(at)s)
"""

_END_OF_DELETED = """
update cooldown_events set ended_at = greatest(backends.deleted_at, started_at) from backends
where cooldown_events.id = %(event)s and ended_at is null
    and backends.id = backend_id and backends.deleted_at is not null
"""
"""Who deletes a backend ends its cooldowns; one that comes to be written later is ended here.

It stands behind a change of the backend's row, so that a deletion under way is either seen or still to come.
"""

CHANGES: dict[str, tuple[str, ...]] = {
    "CooldownStarted": (
        _END_COOLDOWN + " and id <> %(event)s",
        """
        insert into cooldown_events (id, backend_id, kind, consecutive_count, cooldown_seconds, until,
            response_summary, started_at)
        values (%(event)s, %(backend_id)s, %(kind)s, %(count)s, ceil(%(seconds)s), to_timestamp(%(until)s),
            %(summary)s, to_timestamp(%(at)s))
        on conflict do nothing
        """,
        """
        update backends set cooldown_until = to_timestamp(%(until)s), consecutive_429_count = %(count)s
        where id = %(backend_id)s
        """,
        _END_OF_DELETED,
    ),
    "CooldownExtended": (
        """
        update cooldown_events set until = to_timestamp(%(until)s),
            cooldown_seconds = ceil(%(until)s - extract(epoch from started_at))
        where backend_id = %(backend_id)s and ended_at is null
        """,
        "update backends set cooldown_until = to_timestamp(%(until)s) where id = %(backend_id)s",
    ),
    "CooldownEnded": (
        _END_COOLDOWN,
        "update backends set cooldown_until = null where id = %(backend_id)s",
    ),
    "CountReset": ("update backends set consecutive_429_count = 0 where id = %(backend_id)s",),
    "StatusChanged": (
        "update backends set status = %(status)s, status_reason = %(reason)s where id = %(backend_id)s",
    ),
    "HealthChanged": (
        """
        insert into backend_health (backend_id, state, last_latency_ms, last_status_code, success_rate_5m,
            consecutive_failures, last_check_at)
        values (%(backend_id)s, %(state)s, %(latency_ms)s, %(status_code)s, %(success_rate)s, %(failures)s,
            to_timestamp(%(at)s))
        on conflict (backend_id) do update set state = excluded.state,
            last_latency_ms = excluded.last_latency_ms, last_status_code = excluded.last_status_code,
            success_rate_5m = excluded.success_rate_5m,
            consecutive_failures = excluded.consecutive_failures, last_check_at = excluded.last_check_at
        """,
    ),
}
"""What each kind of change does to the rows; each may be repeated."""


def bounded(call: Call) -> Call:
    """A call that fits into sums; nearly always the same: counts and costs are bounded where they arise."""
    usage = call.usage
    total = usage.total or usage.prompt + usage.completion
    counts = (usage.prompt, usage.completion, total, usage.cache_read, usage.cache_write)
    if min(counts) >= 0 and max(counts) <= MOST_TOKENS and 0 <= call.cost <= MOST_COST:
        return call
    prompt, completion, total, read, write = (min(max(count, 0), MOST_TOKENS) for count in counts)
    sane = Usage(prompt, completion, total, read, write, usage.is_estimate)
    return replace(call, usage=sane, cost=min(max(call.cost, 0), MOST_COST))


def line(call: Call) -> str:
    """One call, in the text form of COPY, in the order of the staging table."""
    usage, caller = call.usage, call.caller
    total = usage.total or usage.prompt + usage.completion
    tokens = f"{usage.prompt}\t{usage.completion}\t{total}\t{usage.cache_read}\t{usage.cache_write}"
    return (
        f"{_safe(call.id)}\t{call.at!r}\t{_safe(call.request)}\t{call.attempt}\t{call.is_answer}\t"
        f"{_names[call.backend_id]}\t{call.pool}\t{call.is_emergency}\t{_names[call.model]}\t"
        f"{_names[caller.client_id]}\t{_names[caller.agent]}\t{_names[caller.item]}\t{call.outcome}\t"
        f"{call.status}\t{call.is_stream}\t{tokens}\t"
        f"{usage.is_estimate}\t{call.cost}\t{call.latency_ms}\t"
        f"{_NULL if call.ttft_ms is None else call.ttft_ms}\n"
    )


def change_line(change: Change) -> bytes:
    """One change as JSON, with everything that must not be made anew when it is repeated."""
    values: dict[str, Any] = asdict(change) | {"change": type(change).__name__}
    if "summary" in values:
        values["event"] = f"cev_{secrets.token_hex(6)}"
    kept = {
        name: value.replace("\0", "") if isinstance(value, str) else value for name, value in values.items()
    }
    return json.dumps(kept).encode() + b"\n"


def _safe(text: str) -> str:
    """Without what would end a field or a line; `LONGEST_NAME` characters at most."""
    if text.isidentifier():  # most are, and it is the quickest way to see it
        return text[:LONGEST_NAME]
    return text[:LONGEST_NAME].translate(_ESCAPES)
