"""What the router's ledger wrote, asked past the router."""

from typing import Any

import psycopg

HOURLY = """select model, pool, request_count, error_count, client_request_count, prompt_tokens,
    completion_tokens, total_tokens, cost_pico, latency_ms_sum, ttft_ms_sum, ttft_count
    from backend_usage_logs order by model, pool, hour_bucket"""
"""The sums of each hour."""

EVENTS = """select kind, consecutive_count, cooldown_seconds, response_summary,
    extract(epoch from ended_at)::float, id like 'cev\\_____________'
    from cooldown_events order by started_at"""
"""The cooldowns."""


async def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    """The answer to a query."""
    connection = await psycopg.AsyncConnection.connect(url.replace("+psycopg", "", 1))
    async with connection:
        return list(await (await connection.execute(query)).fetchall())  # type: ignore[arg-type]
