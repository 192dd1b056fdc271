"""Statistics: bounded by time, newest first, exact, and history outlives the backend."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from quarterdeck.kernel import http
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.kernel.settings import Settings
from quarterdeck.router import access
from quarterdeck.router.agents import AgentCalls
from quarterdeck.router.backend import MOST_COST, MOST_TOKENS, Pool, Usage
from quarterdeck.router.call import Caller
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.ledger.writer import Ledger
from tests.fakes.admin_desk import TOKEN, Desk, admin_desk
from tests.fakes.router_parts import NOON, call

HOUR, DAY = 3600.0, 86_400.0
BACKEND = {"name": "One", "api_base_url": "http://127.0.0.1:9", "api_key": "k"}
NOTHING = {
    "total_requests": 0,
    "total_client_requests": 0,
    "total_errors": 0,
    "total_tokens": 0,
    "total_prompt_tokens": 0,
    "total_completion_tokens": 0,
    "total_cost": 0.0,
}


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    async with admin_desk(database, tmp_path) as made:
        yield made


async def book(desk: Desk, *calls: Any) -> None:
    for one in calls:
        desk.ledger.record(one)
    await desk.ledger.flush()


async def test_totals_of_nothing_are_zeros_and_never_null(desk: Desk) -> None:
    assert await desk.get("/stats/total") == NOTHING
    assert await desk.get("/stats/hourly") == []
    assert await desk.get("/stats/daily") == []
    assert await desk.get("/stats/cooldown") == []
    assert await desk.get("/calls") == []
    assert (await desk.get("/spend"))["cost"] == 0.0


async def test_totals_count_attempts_and_client_requests_apart(desk: Desk) -> None:
    await book(
        desk,
        call(outcome=Outcome.LIMITED, is_answer=False, usage=Usage(), cost=0),
        call(cost=2_500_000_000),
    )
    assert await desk.get("/stats/total") == {
        "total_requests": 2,
        "total_client_requests": 1,
        "total_errors": 1,
        "total_tokens": 15,
        "total_prompt_tokens": 10,
        "total_completion_tokens": 5,
        "total_cost": 0.0025,
    }


async def test_hours_name_backends_and_say_means_of_what_there_was(desk: Desk) -> None:
    backend = (await desk.post("/backends", BACKEND))["id"]
    await book(
        desk,
        call(backend_id=backend, latency_ms=100, ttft_ms=21),
        call(backend_id=backend, latency_ms=101, ttft_ms=None),
        call(backend_id=backend, latency_ms=102, ttft_ms=20),
        call(backend_id=backend, at=NOON - HOUR, model="other", outcome=Outcome.BROKEN),
    )
    rows = await desk.get("/stats/hourly")
    assert [(row["hour_bucket"], row["model"]) for row in rows] == [
        ("2026-11-22T12:00:00Z", "gpt"),
        ("2026-11-22T11:00:00Z", "other"),
    ]
    assert rows[0] == {
        "hour_bucket": "2026-11-22T12:00:00Z",
        "backend_id": backend,
        "backend_name": "One",
        "model": "gpt",
        "pool": "primary",
        "prompt_tokens": 30,
        "completion_tokens": 15,
        "total_tokens": 45,
        "cost": 3e-9,
        "request_count": 3,
        "error_count": 0,
        "client_request_count": 3,
        "avg_latency_ms": 101.0,
        "ttft_ms": 20.5,
    }
    assert rows[1]["error_count"] == 1


async def test_two_models_in_one_hour_are_two_rows(desk: Desk) -> None:
    await book(desk, call(model="a"), call(model="b"))
    assert {row["model"] for row in await desk.get("/stats/hourly")} == {"a", "b"}


async def test_hours_are_bounded_by_time_and_the_first_is_whole(desk: Desk) -> None:
    models = [f"m{number}" for number in range(7)]
    for hours_ago in range(4):
        await book(desk, *(call(at=NOON - hours_ago * HOUR, model=model) for model in models))
    first = "2026-11-22T11:00:00Z"  # it is 12:30, and the call at 11:30 was in the hour of 11
    assert {row["hour_bucket"] for row in await desk.get("/stats/hourly", hours=1)} == {
        "2026-11-22T12:00:00Z",
        first,
    }
    assert len(await desk.get("/stats/hourly", hours=1)) == 14  # more rows than hours
    await book(desk, call(at=NOON - 1.5 * HOUR, model="early"))  # 11:00:00, before 11:30
    assert "early" in {row["model"] for row in await desk.get("/stats/hourly", hours=1)}


@pytest.mark.parametrize("hours", ["0", "-1", "9601", "1.5", "x", "", "1e3", "99999999999"])
async def test_a_wrong_number_of_hours_is_refused(desk: Desk, hours: str) -> None:
    assert (await desk.get("/stats/hourly", 422, hours=hours))["detail"][0]["loc"] == ["query", "hours"]


@pytest.mark.parametrize(
    ("path", "name"),
    [("/stats/daily", "days"), ("/stats/cooldown", "limit"), ("/calls", "limit")],
)
async def test_every_number_is_checked(desk: Desk, path: str, name: str) -> None:
    for wrong in ("0", "-1", "100000", "x"):
        await desk.get(path, 422, **{name: wrong})
    await desk.get(path, 200, **{name: "1"})


async def test_many_hours_come_in_pages_without_a_gap(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quarterdeck.router.ledger.stats.PAGE", 3)
    await book(
        desk,
        *(
            call(at=NOON - hour * HOUR, model=model, pool=pool, backend_id=backend)
            for hour in range(2)
            for model in ("a", "b")
            for pool in Pool
            for backend in ("bkd_1", "bkd_2")
        ),
    )
    for size in (1, 3, 8, 16, 17):
        monkeypatch.setattr("quarterdeck.router.ledger.stats.PAGE", size)
        rows = await desk.get("/stats/hourly")
        keys = [(row["hour_bucket"], row["backend_id"], row["model"], row["pool"]) for row in rows]
        assert len(set(keys)) == len(keys) == 16
        assert [row["hour_bucket"] for row in rows] == sorted((key[0] for key in keys), reverse=True)
    assert len(await desk.get("/stats/hourly", backend_id="bkd_1")) == 8


async def test_history_keeps_its_backend_after_it_was_deleted(desk: Desk) -> None:
    backend = (await desk.post("/backends", BACKEND))["id"]
    await book(desk, call(backend_id=backend))
    before = await desk.get("/stats/total")
    await desk.delete(f"/backends/{backend}")
    assert await desk.get("/stats/total") == before
    assert (await desk.get("/stats/hourly"))[0]["backend_name"] == "One"
    assert (await desk.get("/calls"))[0]["backend_name"] == "One"


async def test_sums_stand_still_at_nine_million_dollars_and_calls_are_booked_on(
    desk: Desk, database: Database, tmp_path: Path
) -> None:
    client = (await desk.post("/clients", {"name": "anna"}))["id"]
    dear = {"cost": MOST_COST, "caller": Caller(client)}
    await book(desk, *(call(**dear) for _ in range(95)))  # more than a bigint in one batch
    await book(desk, call(**dear), call(**dear, model="other"))  # and in the sum of two
    for model in ("gpt", "third"):
        await book(desk, *(call(**dear, at=NOON - DAY, model=model) for _ in range(85)))
    (latest, *_), (shown,) = await desk.get("/stats/hourly"), await desk.get("/clients")
    assert (latest["model"], latest["cost"]) == ("other", 1e5)
    assert (shown["requests_today"], shown["cost_today"]) == (97, 9e6)
    assert len(await desk.get("/calls", limit=1000)) == 267
    before = await desk.get("/stats/total")
    assert (before["total_requests"], before["total_cost"]) == (267, 9e6)
    await desk.stats.aggregate()
    assert [row["total_cost"] for row in await desk.get("/stats/daily")] == [9e6, 9e6]
    for days in (0, -1):
        await desk.stats.retain(usage_days=days, calls_days=30)
    async with Ledger(database.url, tmp_path / "again", desk.stats._now) as restarted:
        assert restarted.totals == desk.ledger.totals


async def test_sums_of_tokens_stand_still_before_they_do_not_fit(
    desk: Desk, database: Database, tmp_path: Path
) -> None:
    async with database.command("a hundred years of use") as unit:
        await (await unit.session.connection()).execute(
            text(
                "insert into backend_usage_logs (backend_id, model, pool, hour_bucket, prompt_tokens,"
                " completion_tokens, total_tokens, cost_pico, request_count, error_count,"
                " client_request_count, latency_ms_sum, ttft_ms_sum, ttft_count)"
                " select 'bkd_1', m, 'primary', date_trunc('hour', to_timestamp(:noon), 'UTC'),"
                " n, n, n, n, 1, 0, 1, 1, 0, 0"
                " from unnest(array['gpt', 'old']) m, (values (8999999999999999999)) v(n)"
            ),
            {"noon": NOON},
        )
    async with Ledger(database.url, tmp_path / "again", desk.stats._now) as restarted:
        assert restarted.totals.tokens == 9 * 10**18
        restarted.record(call(usage=Usage(MOST_TOKENS, MOST_TOKENS, MOST_TOKENS)))
        assert restarted.totals.prompt_tokens == restarted.totals.tokens == 9 * 10**18
    rows = {row["model"]: row for row in await desk.get("/stats/hourly")}
    assert (rows["gpt"]["request_count"], rows["gpt"]["total_tokens"]) == (2, 9 * 10**18)


# Days.


async def test_days_are_made_of_hours_by_the_pool_that_each_call_was_in(desk: Desk) -> None:
    backend = (await desk.post("/backends", BACKEND))["id"]
    await book(desk, call(backend_id=backend), call(backend_id="bkd_2"))
    await desk.put(f"/backends/{backend}", {"pool": "fallback"})
    await book(desk, call(backend_id=backend, pool=Pool.FALLBACK, outcome=Outcome.BROKEN))
    await desk.stats.aggregate()
    assert await desk.get("/stats/daily") == [
        {
            "date": "2026-11-22",
            "pool": pool,
            "total_requests": requests,
            "total_errors": errors,
            "total_tokens": 15 * requests,
            "unique_backends": requests,
            "total_cost": requests * 1e-9,
        }
        for pool, requests, errors in (("primary", 2, 0), ("fallback", 1, 1))
    ]


async def test_what_is_booked_late_into_yesterday_is_counted(desk: Desk) -> None:
    await book(desk, call(at=NOON))
    await desk.stats.aggregate()
    desk.now = NOON + DAY
    await book(desk, call(at=NOON + 0.45 * DAY))  # the tail before midnight
    await desk.stats.aggregate()
    assert [row["total_requests"] for row in await desk.get("/stats/daily")] == [2]


async def test_days_of_downtime_and_gaps_are_filled_at_the_next_start(desk: Desk) -> None:
    await book(desk, *(call(at=NOON - days * DAY) for days in range(5)))
    await desk.stats.aggregate()
    assert [row["date"] for row in await desk.get("/stats/daily")] == [
        f"2026-11-{d}" for d in range(22, 17, -1)
    ]


async def test_what_comes_after_an_outage_of_days_is_counted(desk: Desk) -> None:
    await desk.stats.aggregate()
    desk.now = NOON + 4 * DAY
    await book(desk, call(at=NOON + DAY))
    await desk.stats.aggregate()
    assert [row["date"] for row in await desk.get("/stats/daily")] == ["2026-11-23"]


async def test_days_are_bounded_by_time_not_by_rows(desk: Desk) -> None:
    await book(desk, *(call(at=NOON - days * DAY, pool=pool) for days in range(3) for pool in Pool))
    await desk.stats.aggregate()
    rows = await desk.get("/stats/daily", days=2)
    assert [(row["date"], row["pool"]) for row in rows] == [
        ("2026-11-22", "primary"),
        ("2026-11-22", "fallback"),
        ("2026-11-21", "primary"),
        ("2026-11-21", "fallback"),
    ]


# Single calls and what was spent.


async def test_single_calls_are_narrowed_and_told_newest_first(desk: Desk) -> None:
    client = await desk.post("/clients", {"name": "anna"})
    mine = Caller(client["id"], "developer", "ET-007")
    await book(
        desk,
        call(id="a", caller=mine, ttft_ms=12),
        call(id="b", at=NOON + 1.5, caller=Caller("", "reviewer", "ET-007"), cost=1_500_000),
        call(id="c", at=NOON - 1, backend_id="bkd_2"),
    )
    rows = await desk.get("/calls")
    assert [row["id"] for row in rows] == ["b", "a", "c"]
    assert (rows[0]["at"], rows[0]["cost"], rows[1]["client_name"]) == (
        "2026-11-22T12:30:01Z",
        1.5e-6,
        "anna",
    )
    for narrow, ids in (
        ({"agent": "developer"}, "a"),
        ({"item": "ET-007"}, "ba"),
        ({"item": "ET-007", "agent": "reviewer"}, "b"),
        ({"client_id": client["id"]}, "a"),
        ({"backend_id": "bkd_2"}, "c"),
        ({"since": "2026-11-22T12:30:01Z"}, "b"),
        ({"since": "2026-11-22T13:30:01+01:00"}, "b"),
        ({"limit": 1}, "b"),
        ({"agent": "' or 1=1 --"}, ""),
    ):
        assert "".join(row["id"] for row in await desk.get("/calls", **narrow)) == ids


async def test_spend_is_told_by_agent_item_client_and_time(desk: Desk) -> None:
    mine = Caller("", "developer", "ET-007")
    await book(
        desk,
        call(caller=mine, is_answer=False, outcome=Outcome.BROKEN, usage=Usage(), cost=0),
        call(caller=mine, cost=3_000_000),
        call(caller=mine, at=NOON - DAY, cost=2_000_000),
        call(cost=9),
    )
    assert await desk.get("/spend", agent="developer") == {
        "requests": 2,
        "attempts": 3,
        "tokens": 30,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "cost": 5e-6,
        "since": None,
    }
    today = await desk.get("/spend", item="ET-007", since="2026-11-22T00:00:00Z")
    assert (today["cost"], today["tokens"], today["since"]) == (3e-6, 15, "2026-11-22T00:00:00Z")
    await desk.get("/spend", 422, since="yesterday")
    await desk.get("/spend", 422, agent="a\0")


async def test_the_crew_is_told_what_a_run_of_an_agent_cost(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(name: str, **values: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(desk.app, raise_app_exceptions=False)
        return http_client(name, transport=transport, **values)

    http_client = http.client
    monkeypatch.setattr(http, "client", client)
    monkeypatch.setenv(access.VARIABLE, TOKEN)
    settings = Settings(home=tmp_path, router_url="http://router")
    calls = AgentCalls(settings, desk.database, Keyring(tmp_path / "keys"))
    since = datetime.fromtimestamp(NOON, UTC)
    mine = Caller("", "developer", "ET-007")
    await book(desk, call(caller=mine, at=NOON - DAY, cost=9), call(caller=mine, cost=3_000_000))
    assert await calls.spent("developer", "ET-007", since, 15) == (15, 3)


async def test_the_clients_show_what_they_used_today(desk: Desk) -> None:
    client = await desk.post("/clients", {"name": "anna"})
    await book(
        desk,
        call(caller=Caller(client["id"]), cost=2_500_000),
        call(caller=Caller(client["id"]), at=NOON - DAY),
    )
    (shown,) = await desk.get("/clients")
    assert (shown["requests_today"], shown["tokens_today"], shown["cost_today"]) == (1, 15, 2.5e-6)


# Retention.


async def test_what_is_old_is_deleted_and_totals_stay(
    desk: Desk, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.router.ledger.stats._DELETED_AT_ONCE", 2)
    client = (await desk.post("/clients", {"name": "anna"}))["id"]
    await book(desk, *(call(at=NOON - days * DAY, caller=Caller(client)) for days in range(12)))
    await desk.stats.aggregate()
    async with database.command("old cooldowns") as unit:
        await (await unit.session.connection()).execute(
            text(
                "insert into cooldown_events (id, backend_id, kind, consecutive_count, cooldown_seconds,"
                " until, response_summary, started_at, ended_at)"
                " select 'cev_' || n, 'b', 'rate', 1, 30, at, '', at, at"
                " from (select n, to_timestamp(:noon - n * 86400) as at from generate_series(0, 9) n) x"
            ),
            {"noon": NOON},
        )
    before = await desk.get("/stats/total")
    assert (await desk.stats.retain(usage_days=7, calls_days=3)).startswith("4 of backend_usage_logs")
    assert len(await desk.get("/stats/hourly", hours=9600)) == 8  # today and seven whole days
    assert len(await desk.get("/calls")) == 4
    assert len(await desk.get("/stats/cooldown")) == 4
    await desk.stats.aggregate()
    assert len(await desk.get("/stats/daily")) == 12  # days are never taken back
    assert await desk.get("/stats/total") == before
    assert (await desk.stats.retain(usage_days=7, calls_days=3)).startswith("0 of")


async def test_a_cooldown_that_nobody_ended_is_deleted_all_the_same(desk: Desk, database: Database) -> None:
    """Those of backends that are gone were left open once."""
    async with database.command("open cooldowns") as unit:
        await (await unit.session.connection()).execute(
            text(
                "insert into cooldown_events (id, backend_id, kind, consecutive_count, cooldown_seconds,"
                " until, response_summary, started_at)"
                " select 'cev_' || n, 'gone' || n, 'rate', 1, 30, at, '', at"
                " from (select n, to_timestamp(:noon - n * 86400) as at from generate_series(0, 9) n) x"
            ),
            {"noon": NOON},
        )
    await desk.stats.retain(usage_days=7, calls_days=3)
    assert [event["id"] for event in await desk.get("/stats/cooldown")] == [f"cev_{n}" for n in range(4)]


async def test_totals_do_not_fall_at_the_restart_after_old_hours_were_deleted(
    desk: Desk, database: Database, tmp_path: Path
) -> None:
    for month in (0, 1, 2):  # each deletion adds to what the one before has kept
        await book(
            desk,
            *(call(at=NOON - (90 - 30 * month + day) * DAY, model=model) for day in (0, 1) for model in "ab"),
            call(at=NOON - (90 - 30 * month) * DAY, outcome=Outcome.BROKEN, is_answer=False, cost=7),
        )
        assert (await desk.stats.retain(usage_days=20, calls_days=20)).startswith("5 of")
        async with Ledger(database.url, tmp_path / "again", desk.stats._now) as restarted:
            assert restarted.totals == desk.ledger.totals
    desk.stats._aggregated = None
    await desk.stats.aggregate()
    async with database.read() as session:  # what was kept has no day
        assert await (await session.connection()).scalar(text("select count(*) from daily_stats")) == 0


async def test_a_day_is_deleted_whole_so_that_it_is_never_summed_up_from_a_part(desk: Desk) -> None:
    early = datetime(2026, 11, 20, 1, tzinfo=UTC).timestamp()
    await book(desk, call(at=early), call(at=early + 20 * HOUR))
    await desk.stats.aggregate()
    await desk.stats.retain(usage_days=2, calls_days=2)
    desk.stats._aggregated = None  # as after a restart
    await desk.stats.aggregate()
    assert [row["total_requests"] for row in await desk.get("/stats/daily")] == [2]
