"""The ledger: every call is booked once, and what the balancer changed is kept."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from quarterdeck.kernel.database import Database
from quarterdeck.router import steady
from quarterdeck.router.backend import Health, Pool, Status, Usage
from quarterdeck.router.call import Caller
from quarterdeck.router.config import Tuning
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.ledger import booking
from quarterdeck.router.ledger.writer import TICK, Ledger, Totals
from quarterdeck.router.limits.standing import (
    CooldownEnded,
    CooldownExtended,
    CountReset,
    HealthChanged,
    StatusChanged,
)
from tests.fakes.ledger_rows import EVENTS, HOURLY, rows
from tests.fakes.router_parts import NOON, STARTED, UNTIL, call, form, of, store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def ledger(database_url: str, folder: Path) -> Ledger:
    return Ledger(database_url, folder, steady.now)


async def test_calls_become_rows_of_their_hour_model_and_pool(ledger: Ledger, database_url: str) -> None:
    async with ledger:
        ledger.record(call(ttft_ms=40))
        ledger.record(call(latency_ms=80, ttft_ms=21))
        ledger.record(call(latency_ms=7))  # no first token: it does not count in that mean
        ledger.record(call(model="other"))
        ledger.record(call(pool=Pool.FALLBACK))
        ledger.record(call(at=NOON + 3600))
        await ledger.flush()
    assert await rows(database_url, HOURLY) == [
        ("gpt", "fallback", 1, 0, 1, 10, 5, 15, 1000, 120, 0, 0),
        ("gpt", "primary", 3, 0, 3, 30, 15, 45, 3000, 207, 61, 2),
        ("gpt", "primary", 1, 0, 1, 10, 5, 15, 1000, 120, 0, 0),
        ("other", "primary", 1, 0, 1, 10, 5, 15, 1000, 120, 0, 0),
    ]


async def test_the_same_hour_grows_with_every_batch(ledger: Ledger, database_url: str) -> None:
    async with ledger:
        for _ in range(3):
            ledger.record(call())
            await ledger.flush()
    assert [row[2] for row in await rows(database_url, HOURLY)] == [3]


async def test_the_row_of_a_call_says_all_of_it(ledger: Ledger, database_url: str) -> None:
    caller = Caller("cli_1", "developer", "ET-007")
    usage = Usage(prompt=10, completion=5, total=15, cache_read=4, cache_write=3, is_estimate=True)
    async with ledger:
        ledger.record(
            call(
                id="the-call",
                request="req",
                attempt=2,
                is_answer=False,
                is_emergency=True,
                caller=caller,
                outcome=Outcome.CUT,
                status=206,
                is_stream=True,
                usage=usage,
                ttft_ms=33,
            )
        )
        await ledger.flush()
    assert await rows(database_url, "select * from model_calls") == [
        (
            *(
                "the-call",
                datetime.fromtimestamp(NOON, UTC),
                "req",
                2,
                False,
                "bkd_1",
                "primary",
                True,
                "gpt",
            ),
            *("cli_1", "developer", "ET-007", "cut", 206, True, 10, 5, 15, 4, 3, True, 1000, 120, 33),
        )
    ]


@pytest.mark.parametrize(
    ("outcome", "errors"),
    [(o, 0 if o in (Outcome.OK, Outcome.ABORTED) else 1) for o in Outcome],
)
async def test_what_counts_as_an_error_counts_so_in_rows_and_totals(
    ledger: Ledger, database_url: str, outcome: Outcome, errors: int
) -> None:
    async with ledger:
        ledger.record(call(outcome=outcome))
        assert ledger.totals.errors == errors
        await ledger.flush()
    assert [row[3] for row in await rows(database_url, HOURLY)] == [errors]


async def test_a_provider_that_tells_only_the_total_is_booked_by_it(
    ledger: Ledger, database_url: str
) -> None:
    async with ledger:
        ledger.record(call(usage=Usage(total=77)))
        ledger.record(call(usage=Usage(prompt=3, completion=4)))
        assert ledger.totals.tokens == 84
        await ledger.flush()
    assert [row[5:8] for row in await rows(database_url, HOURLY)] == [(3, 4, 84)]


async def test_a_batch_that_is_written_twice_counts_once(
    ledger: Ledger, database_url: str, folder: Path
) -> None:
    same = call(caller=Caller("cli_1"))
    async with ledger:
        ledger.record(same)
        ledger.record(same)
        await ledger.flush()
        ledger.record(same)
        await ledger.flush()
    assert [row[2] for row in await rows(database_url, HOURLY)] == [1]
    assert await rows(database_url, "select requests, tokens, cost_pico from client_usage") == [(1, 15, 1000)]


async def test_what_clients_use_is_summed_by_utc_day(ledger: Ledger, database_url: str) -> None:
    midnight = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
    async with ledger:
        for at in (midnight - 0.001, midnight):
            ledger.record(call(at=at, caller=Caller("cli_1")))
        ledger.record(call(at=midnight, caller=Caller("cli_1"), is_answer=False))
        ledger.record(call())
        await ledger.flush()
    assert await rows(
        database_url, "select client_id, date::text, requests, tokens, cost_pico from client_usage order by 2"
    ) == [("cli_1", "2026-11-22", 1, 15, 1000), ("cli_1", "2026-11-23", 1, 30, 2000)]


async def test_totals_begin_at_nothing_and_go_on_after_a_restart(
    ledger: Ledger, database_url: str, folder: Path
) -> None:
    async with ledger:
        assert ledger.totals == Totals(0, 0, 0, 0, 0, 0, 0)
        ledger.record(call())
        ledger.record(call(outcome=Outcome.BROKEN, is_answer=False))
        assert ledger.totals == Totals(2, 1, 1, 30, 20, 10, 2000)
    async with Ledger(database_url, folder, steady.now) as again:
        assert again.totals == Totals(2, 1, 1, 30, 20, 10, 2000)


async def test_lines_reach_postgresql_by_themselves_within_a_second_or_so(
    ledger: Ledger, database_url: str
) -> None:
    async with ledger:
        ledger.record(call())
        await _until(lambda: rows(database_url, "select 1 from model_calls"))


async def test_many_calls_are_written_together_however_quick_postgresql_is(
    ledger: Ledger, database_url: str
) -> None:
    began = steady.now()
    async with ledger:
        while steady.now() < began + 3 * TICK:
            ledger.record(call())
            await asyncio.sleep(0.002)
    ticks = (steady.now() - began) / TICK
    ((batches,),) = await rows(database_url, "select count(distinct xmin::text) from model_calls")
    assert 1 < batches <= ticks + 1  # the last one is that of the end


async def test_two_that_write_into_the_same_hour_at_once_lose_nothing(
    database_url: str, tmp_path: Path
) -> None:
    async with (
        Ledger(database_url, tmp_path / "one", steady.now) as one,
        Ledger(database_url, tmp_path / "two", steady.now) as two,
    ):
        for _ in range(20):
            for ledger in (one, two):
                for model in ("a", "b", "c"):
                    ledger.record(call(model=model, caller=Caller("cli_1")))
            await asyncio.gather(one.flush(), two.flush())
    assert [row[2] for row in await rows(database_url, HOURLY)] == [40, 40, 40]
    assert await rows(database_url, "select requests from client_usage") == [(120,)]


async def _until(look: Any, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await look():
            await asyncio.sleep(0.05)


names = st.text(st.characters(codec=None), max_size=40)  # surrogates, NUL, tabs and all


@given(request=names, model=names, agent=names, item=names)
def test_no_name_can_end_a_field_or_a_line(request: str, model: str, agent: str, item: str) -> None:
    written = booking.line(call(request=request, model=model, caller=Caller("c", agent, item)))
    assert written.count("\n") == 1 and written.count("\t") == 23 and "\0" not in written
    written.encode(errors="replace")


async def test_the_strangest_names_are_kept(ledger: Ledger, database_url: str) -> None:
    strange = "a\tb\nc\\N\\.\r'\";--\0\ud800é\u2028" + "x" * 1000
    async with ledger:
        ledger.record(call(request=strange, caller=Caller("", strange, "\\.")))
        await ledger.flush()
    expected = strange.replace("\0", "").replace("\ud800", "?")
    ((request, agent, item),) = await rows(database_url, "select request, agent, item from model_calls")
    assert expected.startswith(request) and len(request) >= 290
    assert agent == request and item == "\\."


async def test_a_row_that_no_table_takes_does_not_hold_up_the_others(
    ledger: Ledger, database_url: str, folder: Path
) -> None:
    async with ledger:
        for number in range(20):
            ledger.record(call(status=2**40 if number == 7 else 200))  # does not fit into the column
        with capture_logs() as lines:
            await ledger.flush()
        assert ledger.waiting_bytes == 0
    assert [line["event"] for line in lines] == ["call_refused_by_database"]
    assert [row[2] for row in await rows(database_url, HOURLY)] == [19]
    assert (folder / "calls.v1.rejected").read_bytes().count(b"\n") == 1


async def test_an_absurd_price_or_count_cannot_break_the_sums(ledger: Ledger, database_url: str) -> None:
    async with ledger:
        for _ in range(3):
            ledger.record(call(cost=10**30, usage=Usage(prompt=10**30, completion=-5)))
        await ledger.flush()
        assert ledger.waiting_bytes == 0
        kept = ledger.totals
    ((_, _, calls, _, _, prompts, answers, tokens, cost, *_),) = await rows(database_url, HOURLY)
    assert (calls, prompts, answers, tokens, cost) == (
        *(kept.requests, kept.prompt_tokens, kept.completion_tokens, kept.tokens, kept.cost),
    )


async def test_record_never_raises(ledger: Ledger) -> None:
    async with ledger:
        ledger.record(None)  # type: ignore[arg-type]
        ledger.record(call(usage=None))
        ledger.changes([None])  # type: ignore[list-item]


# What the balancer changed.

ROW = """select status, status_reason, consecutive_429_count, extract(epoch from cooldown_until)::int
    from backends"""


@pytest.fixture
async def backend_id(database: Database) -> str:
    return (await store(database).add_backend(form(), Tuning())).id


async def test_a_cooldown_is_one_event_that_is_open_until_it_ends(
    ledger: Ledger, database_url: str, backend_id: str
) -> None:
    async with ledger:
        ledger.changes(of(backend_id, STARTED, StatusChanged("", Status.COOLING, "slow down", NOON)))
        await ledger.flush()
        assert await rows(database_url, ROW) == [("cooling", "slow down", 2, int(UNTIL))]
        assert await rows(database_url, EVENTS) == [("quota", 2, 60, "slow down", None, True)]
        ledger.changes(of(backend_id, CooldownExtended("", 90.0, NOON + 100, NOON + 10)))
        await ledger.flush()
        assert (await rows(database_url, ROW))[0][3] == int(NOON) + 100
        assert (await rows(database_url, EVENTS))[0][2] == 100
        ended = (CooldownEnded("", NOON + 100), StatusChanged("", Status.HEALTHY, "", NOON + 100))
        ledger.changes(of(backend_id, *ended))
        await ledger.flush()
        assert await rows(database_url, ROW) == [("healthy", "", 2, None)]  # the count is kept
        assert (await rows(database_url, EVENTS))[0][4] == NOON + 100
        ledger.changes(of(backend_id, CountReset("", NOON + 101)))
        await ledger.flush()
        assert (await rows(database_url, ROW))[0][2] == 0


async def test_a_new_cooldown_closes_one_that_was_left_open(
    ledger: Ledger, database_url: str, backend_id: str
) -> None:
    async with ledger:
        ledger.changes(of(backend_id, STARTED))
        ledger.changes(of(backend_id, replace(STARTED, at=NOON + 500, until=NOON + 600, count=3)))
        await ledger.flush()
    assert [row[4] for row in await rows(database_url, EVENTS)] == [NOON + 500, None]


async def test_a_cooldown_that_is_written_after_its_backend_was_deleted_is_over(
    ledger: Ledger, database: Database, database_url: str, backend_id: str
) -> None:
    """Nothing would ever end it: routing knows that backend no more."""
    async with ledger:
        ledger.changes(of(backend_id, STARTED, CooldownExtended("", 100, NOON + 100, NOON + 1)))
        await store(database).delete_backend(backend_id)
        deleted = await rows(database_url, "select extract(epoch from deleted_at)::float from backends")
        await ledger.flush()
    assert [(row[4],) for row in await rows(database_url, EVENTS)] == deleted


async def test_changes_that_are_written_twice_leave_the_same_rows(
    ledger: Ledger, database_url: str, backend_id: str, folder: Path
) -> None:
    story = of(
        backend_id,
        STARTED,
        CooldownEnded("", UNTIL),
        replace(STARTED, at=NOON + 100, until=NOON + 200, count=3),
        HealthChanged("", Health.DOWN, 3, 0, 503, 0.25, NOON + 100),
    )
    async with ledger:
        ledger.changes(story)
        ledger._file()
        (file,) = folder.glob("changes.v1.*")
        lines = file.read_bytes()
        await ledger.flush()
        before = await rows(database_url, EVENTS), await rows(database_url, ROW)
    file.write_bytes(lines)
    async with Ledger(database_url, folder, steady.now):
        pass
    assert (await rows(database_url, EVENTS), await rows(database_url, ROW)) == before
    assert [row[4] for row in before[0]] == [UNTIL, None]


async def test_what_a_probe_says_is_kept(ledger: Ledger, database_url: str) -> None:
    async with ledger:
        for state, failures in ((Health.DEGRADED, 1), (Health.HEALTHY, 0)):
            ledger.changes([HealthChanged("bkd_1", state, failures, 12, 200, 0.5, NOON)])
        await ledger.flush()
    assert await rows(
        database_url,
        "select backend_id, state, last_latency_ms, last_status_code, success_rate_5m, consecutive_failures"
        " from backend_health",
    ) == [("bkd_1", "healthy", 12, 200, 0.5, 0)]


async def test_a_change_that_is_none_does_not_hold_up_the_others(
    database_url: str, folder: Path, backend_id: str
) -> None:
    folder.mkdir()
    broken = b'nonsense\n{"change": "NoSuch"}\n[]\n{"change": "CountReset"}\n'
    good = booking.change_line(replace(STARTED, backend_id=backend_id))
    (folder / "changes.v1.000000000001").write_bytes(broken + good)
    async with Ledger(database_url, folder, steady.now) as ledger:
        assert ledger.waiting_bytes == 0
    assert len(await rows(database_url, EVENTS)) == 1
    assert (folder / "changes.v1.rejected").read_bytes() == broken


WORDS = st.lists(st.sampled_from(["\\u0000", "\0", "\\", "u0000", '"', "ü", "said"])).map("".join)


@given(summary=WORDS | st.text(), reason=WORDS | st.text())
@example(summary=r"bad \u0000 char", reason="")
def test_a_change_keeps_all_that_a_provider_said_but_what_postgresql_cannot_hold(
    summary: str, reason: str
) -> None:
    cooling = json.loads(booking.change_line(replace(STARTED, summary=summary)))
    assert cooling["summary"] == summary.replace("\0", "")
    assert (cooling["change"], cooling["until"]) == ("CooldownStarted", UNTIL)
    changed = json.loads(booking.change_line(StatusChanged("bkd", Status.COOLING, reason, NOON)))
    assert changed["reason"] == reason.replace("\0", "")


async def test_a_cooldown_whose_answer_quotes_what_postgresql_cannot_hold_is_kept(
    database_url: str, folder: Path, backend_id: str
) -> None:
    async with Ledger(database_url, folder, steady.now) as ledger:
        ledger.changes(of(backend_id, replace(STARTED, summary='{"error": "at \\u0000 char\0"}')))
        await ledger.flush()
        assert [row[3] for row in await rows(database_url, EVENTS)] == ['{"error": "at \\u0000 char"}']
