"""What providers tell of tokens, however absurd: rows, totals and budgets agree, and no page breaks."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from quarterdeck.kernel.database import Database
from quarterdeck.router import access, steady
from quarterdeck.router.backend import MOST_COST, MOST_TOKENS, PICO, Prices
from quarterdeck.router.ledger.stats import Stats
from quarterdeck.router.ledger.writer import Ledger
from quarterdeck.router.ways.litellm_answer import tokens_of
from tests.fakes.ledger_rows import rows
from tests.fakes.open_router import open_router
from tests.fakes.served_router import CHAT, Budget, Guest, MemoryClients, Servant, Served, asked, backend

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
HUGE = 9_000_000_000_000_000_000
"""Fits into 64 bits once, and not twice."""


@asynccontextmanager
async def telling(usage: Any) -> AsyncIterator[Servant]:
    """A provider that says this of every call."""
    message = {"role": "assistant", "content": "the ship"}

    async def answer(request: web.Request) -> web.Response:
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response({"model": "x", "choices": choices, "usage": usage})

    async with Servant(answer) as servant:
        yield servant


async def booked(ledger: Ledger, url: str) -> None:
    """The totals in memory are those of the rows, and can be told."""
    await ledger.flush()
    ((*sums,),) = await rows(
        url,
        "select sum(request_count), sum(client_request_count), sum(error_count), sum(total_tokens),"
        " sum(prompt_tokens), sum(completion_tokens), sum(cost_pico) from backend_usage_logs",
    )
    assert list(asdict(ledger.totals).values()) == sums
    assert await rows(url, "select count(*)::int from model_calls") == [(ledger.totals.requests,)]


ABSURD = [HUGE, 10**30, 1e300, MOST_TOKENS + 1, -1, 0, 2.5, True, "10", None, [10], {"x": 1}]


@pytest.mark.parametrize("count", ABSURD, ids=str)
async def test_a_count_that_is_none_is_not_told_and_books_agree(
    count: Any, database: Database, database_url: str, tmp_path: Path
) -> None:
    told = {"prompt_tokens": count, "completion_tokens": count}
    async with telling(told) as servant, Ledger(database, tmp_path / "spool", steady.now) as ledger:
        async with Served([backend(servant.url, "gpt")], book=ledger) as router:
            assert (await router.ask("gpt")).status_code == 200
            assert (await router.ask("gpt")).status_code == 200
            await router.until(lambda: ledger.totals.requests == 2)
        await booked(ledger, database_url)
        assert 0 < ledger.totals.tokens < 100  # counted by us
        assert orjson.dumps(Stats(database, steady.now, lambda: ledger.totals).total())


async def test_the_cost_of_a_call_has_a_limit_that_totals_rows_and_budgets_share(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    told = {"prompt_tokens": MOST_TOKENS, "completion_tokens": MOST_TOKENS}
    dear, budget = Prices(input=PICO, output=PICO), Budget(tokens=10**15)
    clients = MemoryClients({"key": Guest("cli_1")}, cli_1=budget)
    async with telling(told) as servant, Ledger(database, tmp_path / "spool", steady.now) as ledger:
        async with Served([backend(servant.url, "gpt", prices=dear)], book=ledger, clients=clients) as router:
            answer = await router.ask("gpt", headers={"Authorization": "Bearer key"})
            assert answer.status_code == 200
        await booked(ledger, database_url)
        assert ledger.totals.cost == MOST_COST
        assert budget.settled == [(ledger.totals.tokens, MOST_COST)] == [(MOST_TOKENS, MOST_COST)]


@pytest.mark.parametrize(
    ("path", "asked_for", "answered"),
    [
        (CHAT, "prompt_tokens", "completion_tokens"),
        (RESPONSES, "input_tokens", "output_tokens"),
        (MESSAGES, "input_tokens", "output_tokens"),
    ],
)
def test_every_dialect_counts_alike(path: str, asked_for: str, answered: str) -> None:
    for count in ABSURD:
        assert tokens_of({asked_for: count, answered: count}, path) is None
        told = tokens_of({asked_for: count, answered: 4}, path)
        assert told is not None and (told.prompt, told.completion, told.total) == (0, 4, 4)
    told = tokens_of({asked_for: 10.0, answered: 4.0}, path)  # some write JSON's numbers as floats
    assert told is not None and repr((told.prompt, told.completion, told.total)) == "(10, 4, 14)"
    most = tokens_of({asked_for: MOST_TOKENS, answered: MOST_TOKENS}, path)
    assert most is not None and most.total == MOST_TOKENS


def test_cached_tokens_cannot_make_a_prompt_longer_than_may_be() -> None:
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    told = tokens_of(dict.fromkeys(names, MOST_TOKENS), MESSAGES)
    assert told is not None and told.prompt == told.total == MOST_TOKENS


@pytest.mark.usefixtures("logs_left_as_they_were")
async def test_one_provider_cannot_break_the_totals_and_the_dashboard_for_everybody(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"prompt_tokens": HUGE, "completion_tokens": HUGE}
    async with telling(told) as servant, open_router(tmp_path, database_url, monkeypatch, capsys) as router:
        await router.add("Absurd", servant.url)
        async with access.admin(router.settings) as admin:
            base = router.settings.router_url
            for _ in range(2):
                assert (await admin.post(f"{base}{CHAT}", json=asked("gpt"))).status_code == 200
            total = await admin.get("/stats/total")
            assert total.status_code == 200, total.text
            async with admin.stream("GET", f"{base}/dashboard/sse") as live:
                assert live.status_code == 200
                frame = await anext(live.aiter_lines())
            assert json.loads(frame.removeprefix("data: "))["total"].keys() == total.json().keys()
