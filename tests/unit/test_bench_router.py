"""What can be wrong in the router's bench: its arithmetic, its provider, its load."""

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.bench import router_mock as mock
from tests.bench.router import verdict
from tests.bench.router_figures import (
    Reading,
    Results,
    Row,
    Sample,
    at_most,
    below,
    cheaper,
    faster,
    growth,
    last_two_thirds,
    quantile,
    risen,
    router_rows,
    soak_rows,
)
from tests.bench.router_load import Counter, Plan, body, model, run
from tests.bench.router_subjects import Launch, NotMeasured, Places, free_port, mended, start

WINDOW = Sample(
    subject="router",
    scene="plain 32",
    requests=1000,
    events=0,
    whole=0,
    errors=0,
    seconds=2.0,
    cpu=0.5,
    database=0.1,
    other=0.0,
    median=0.004,
    first_median=0.0,
)


@pytest.fixture
async def provider() -> AsyncIterator[int]:
    """The port of the provider that gateways are measured against."""
    server = await mock.serve(0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


def test_cost_is_the_median_over_rounds_of_cpu_by_answers() -> None:
    results = Results([replace(WINDOW, cpu=cpu) for cpu in (0.5, 0.7, 90.0)])
    assert results.cpu_ms("router", "plain 32") == pytest.approx(0.7)
    assert results.per_second("router", "plain 32") == 500


def test_streams_that_the_window_cuts_count_by_their_events() -> None:
    window = replace(WINDOW, requests=10, whole=520, events=780)
    assert window.answers == pytest.approx(15)


def test_a_window_without_answers_does_not_count() -> None:
    results = Results([replace(WINDOW, requests=0), WINDOW])
    assert results.cpu_ms("router", "plain 32") == pytest.approx(0.5)
    assert Results([replace(WINDOW, requests=0)]).cpu_ms("router", "plain 32") is None


def test_added_time_is_taken_from_the_quieter_half_of_the_windows() -> None:
    direct = replace(WINDOW, subject="direct", median=0.001)
    noisy = [replace(WINDOW, other=0.9, median=5.0)] * 2
    quiet = [replace(WINDOW, median=0.003)] * 2
    results = Results([*noisy, *quiet, direct])
    assert results.added_ms("router", "plain 32") == pytest.approx(2.0)
    assert results.other() == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("row", "value", "ok"),
    [
        (cheaper("cost", 40, 0.25, 10.0, "ms"), 40, True),
        (cheaper("cost", 40, 0.26, 10.0, "ms"), 38.46, False),
        (at_most("cost", 1.7, 0.17, 0.1, "ms"), 1.7, True),
        (at_most("cost", 1.7, 0.18, 0.1, "ms"), 1.8, False),
        (faster("chunks", 40, 40_000, 1_000, "a second"), 40, True),
        (faster("chunks", 40, 39_000, 1_000, "a second"), 39, False),
        (below("added", 0.5, 0.5, "ms"), 0.5, True),
        (below("added", 0.5, 0.51, "ms"), 0.51, False),
    ],
)
def test_a_limit_is_met_or_missed_in_the_right_direction(row: Row, value: float, ok: bool) -> None:
    assert (row.value, row.ok) == (pytest.approx(value, abs=0.01), ok)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    rows = router_rows(Results([WINDOW]), None)
    assert {row.ok for row in rows} == {None}
    assert "Not measured: CPU per request against LiteLLM proxy," in verdict(rows)


def test_the_verdict_names_what_is_missed() -> None:
    rows = [Row("speed", "<= 1", "2", ok=False), Row("size", "<= 1", "1", ok=True)]
    assert verdict(rows) == "MISSED: speed."
    assert verdict(rows[1:]) == "No limit that was measured is missed."


def test_a_quantile_is_a_value_that_occurred() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([1, 2, 3, 4], 0.95) == 4
    assert quantile([], 0.5) == 0


def test_growth_compares_tenths_so_that_one_reading_means_nothing() -> None:
    assert growth([10.0] * 50 + [99.0] + [10.0] * 50) == 0
    assert growth([float(n) for n in range(100)]) == 90


def test_sockets_that_come_and_go_are_no_leak() -> None:
    assert risen([40, 90, 40, 300] * 10) == 0
    assert risen([40 + n for n in range(100)]) == 80


def readings(grown: int, sockets: int) -> list[Reading]:
    """A minute each for half an hour: memory grows evenly by so many bytes over the last 20 minutes."""
    first, last = range(10), range(21)
    before = [Reading(60.0 * n, 0, 0, 0) for n in first]
    return before + [
        Reading(60.0 * (10 + n), 10**8 + grown * n // 20, 10**8 + grown * n // 20, 40 + sockets * n // 20)
        for n in last
    ]


@pytest.mark.parametrize(
    ("grown", "sockets", "missed"),
    [
        (1_000_000, 0, []),
        (4_000_000, 0, ["memory growth, last 20 min"]),
        (0, 30, ["sockets"]),
    ],
)
def test_a_soak_is_judged_by_its_last_two_thirds(grown: int, sockets: int, missed: list[str]) -> None:
    given = readings(grown, sockets)
    assert last_two_thirds(given)[0].seconds == 600
    rows = soak_rows(given, {"requests": 5.0, "aborted": 1.0, "errors": 0})
    assert [row.measure for row in rows if row.ok is False] == missed


def test_an_error_in_a_soak_is_told() -> None:
    rows = soak_rows(readings(0, 0), {"requests": 5.0, "aborted": 1.0, "errors": 2})
    assert [row.measure for row in rows if row.ok is False] == ["errors"]


def test_requests_and_answers_have_the_size_that_the_notes_say() -> None:
    assert 950 <= len(body("plain", model(0))) <= 1150
    assert 1000 <= len(mock.openai_reply()) <= 1200
    assert 900 <= len(mock.anthropic_reply()) <= 1200
    assert len(mock.openai_events()) == len(mock.anthropic_events()) == mock.EVENTS


async def test_the_provider_satisfies_the_official_client(provider: int) -> None:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{provider}/v1", api_key="bench") as client:
        wanted = json.loads(body("plain", model(0)))
        whole = await client.chat.completions.create(**wanted)
        parts = await client.chat.completions.create(**wanted, stream=True)
        chunks = [chunk async for chunk in parts]
    assert whole.usage is not None and whole.usage.completion_tokens == mock.TOKENS
    assert len(chunks) == mock.EVENTS - 1
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == whole.usage.total_tokens


async def test_the_provider_answers_in_the_other_dialect_and_to_probes(provider: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{provider}", timeout=30) as client:
        message = await client.post("/v1/messages", json={"model": "m"})
        stream = await client.post("/v1/messages", json={"model": "m", "stream": True})
        assert (await client.get("/v1/models?limit=1")).is_success
        assert (await client.get("/other")).status_code == 404
    assert message.json()["usage"]["output_tokens"] == mock.TOKENS
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]


async def test_a_paced_stream_takes_its_time(provider: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{provider}", timeout=30) as client:
        answer = await client.post("/v1/chat/completions", content=body("paced", model(0)))
    assert answer.text.encode() == b"".join(mock.openai_events())
    assert answer.elapsed.total_seconds() >= (mock.EVENTS - 1) * mock.PACE


@pytest.mark.parametrize(("kind", "events"), [("plain", 0), ("burst", mock.EVENTS)])
async def test_the_load_counts_answers_and_their_events(provider: int, kind: str, events: int) -> None:
    plan = Plan(port=provider, connections=2, warm_up=0.05, seconds=0.2, enough=3, mix={kind: 1.0})
    found = await run(plan)
    assert found.requests >= 3
    assert found.whole == found.requests * events
    assert found.errors == 0
    assert (found.first_median > 0) == bool(events)


@pytest.mark.parametrize("size", range(1, 12))
def test_events_are_counted_once_wherever_the_stream_is_split(size: int) -> None:
    stream, counter = b"".join(mock.openai_events()), Counter()
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert sum(counter.feed(piece) for piece in pieces) == mock.EVENTS


async def test_the_load_can_leave_in_the_middle_of_streams_at_a_rate(provider: int) -> None:
    plan = Plan(port=provider, connections=4, warm_up=0.05, seconds=0.5, rate=40, mix={"aborted": 1.0})
    found = await run(plan)
    assert 5 <= found.aborted <= 25
    assert (found.requests, found.errors) == (0, 0)


async def test_the_load_tells_what_is_no_answer(provider: int) -> None:
    found = await run(Plan(port=provider, path="/other", connections=1, warm_up=0.05, seconds=0.1))
    assert found.errors and found.requests == 0
    assert found.complaint == '404 {"error":{"message":"no such path"}}'


def test_a_gateway_that_ends_by_itself_is_left_out_with_the_reason(tmp_path: Path) -> None:
    launch = Launch("short", (sys.executable, "-c", "pass"))
    with pytest.raises(NotMeasured, match="it ended by itself"):
        start(launch, free_port(), Places.here(0), tmp_path)


def test_portkeys_streams_are_mended_or_it_is_left_out() -> None:
    assert "status:e.status" in mended("x:new Response(p,e)}y")
    with pytest.raises(NotMeasured):
        mended("another version")
