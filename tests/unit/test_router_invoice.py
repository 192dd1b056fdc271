"""The ledger equals the provider's invoice: to the token and the pico-dollar, whatever became of the calls.

Everything is real but the provider: door, ways, counting helper, ledger, PostgreSQL.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import astuple
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import col, func, select

from quarterdeck.kernel.database import Database
from quarterdeck.router import backend as routed
from quarterdeck.router import steady
from quarterdeck.router.backend import PICO, Backend, Pool
from quarterdeck.router.ledger.writer import Ledger
from quarterdeck.router.model import CallRow, UsageRow
from quarterdeck.router.ways.counting import TokenCounter
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from tests.fakes.provider import FakeProvider, Prices
from tests.fakes.provider_invoice import prose
from tests.fakes.served_router import CHAT, KEY, Served, backend

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:litellm\..*")

APIS = {"direct": "openai-completions", "LiteLLM": "anthropic-messages"}
WAYS = list(APIS)
PRICES = Prices(Decimal("1.1e-7"), Decimal("4.4e-7"), Decimal("2.75e-8"), Decimal("1.375e-7"))
"""Such that single calls cost fractions of a micro-dollar."""

Bill = tuple[int, int, int, int, int]
"""Prompt, completion, cached read, cached written, pico-dollars."""


def first(way: str, model: str) -> str:
    """The provider's name of a model at the first backend: what stands before the `@` selects the fault."""
    return f"{model.partition('@')[0]}@{way}-{model.partition('@')[2]}"


def spare(way: str, model: str) -> str:
    return f"ok@{way}-spare-{model}"


def backends(provider: FakeProvider, way: str, models: Iterable[str]) -> list[Backend]:
    """For each model one that fails by the model's name, and one that is well."""
    base = provider.url + ("/v1" if way == "direct" else "")
    mapped = routed.Prices(*(int(price * PICO) for price in astuple(PRICES)))
    made = []
    for model in models:
        for place, native in (("first", first(way, model)), ("spare", spare(way, model))):
            provider.offer(native, prices=PRICES)
            pool = Pool.PRIMARY if place == "first" else Pool.FALLBACK
            name, called = f"{place}-{way}-{model}", f"{way}/{model}"
            shared = {"api": APIS[way], "pool": pool, "prices": mapped, "native": native}
            made.append(backend(base, called, name=name, **shared))
    return made


@asynccontextmanager
async def booked(database: Database, folder: Path, made: list[Backend]) -> AsyncIterator[Served]:
    """A router that books for good. When it has ended all is written."""
    translated, counter = LiteLLMWay(steady.now), TokenCounter()
    try:
        await counter.count("gpt", CHAT, {}, "it takes seconds to begin")
        async with Ledger(database, folder, steady.now) as ledger:
            options = {"book": ledger, "counter": counter, "translated": translated}
            async with Served(made, emergency_rpm_fraction=0, **options) as router:
                yield router
    finally:
        await counter.close()
        await translated.close()


def charged(provider: FakeProvider, native: str) -> Bill:
    tokens = provider.invoice.tokens(native)
    return (*astuple(tokens), provider.invoice.picodollars(native))


async def bills(database: Database) -> dict[tuple[str, str], Bill]:
    """What the ledger says, by backend and model; those that cost nothing are left out."""
    columns = ["prompt_tokens", "completion_tokens", "cache_read_tokens", "cache_write_tokens", "cost_pico"]
    summed = [func.sum(col(getattr(CallRow, column))) for column in columns]
    query = select(CallRow.backend_id, CallRow.model, *summed).group_by(CallRow.backend_id, CallRow.model)
    async with database.read() as session:
        rows = (await session.exec(query)).all()
    return {(row[0], row[1]): tuple(map(int, row[2:])) for row in rows if any(row[2:])}


def invoiced(provider: FakeProvider, way: str, models: Iterable[str]) -> dict[tuple[str, str], Bill]:
    """What the provider says, in the ledger's words."""
    natives = {
        (f"bkd_{place}-{way}-{model}", f"{way}/{model}"): native(way, model)
        for model in models
        for place, native in (("first", first), ("spare", spare))
    }
    found = {place: charged(provider, native) for place, native in natives.items()}
    return {place: bill for place, bill in found.items() if any(bill)}


async def is_paid(database: Database, provider: FakeProvider) -> bool:
    """All in all, in dollars, by calls and by hours."""
    async with database.read() as session:
        by_calls = (await session.exec(select(func.sum(CallRow.cost_pico)))).one()
        by_hours = (await session.exec(select(func.sum(UsageRow.cost_pico)))).one()
    return by_calls / PICO == by_hours / PICO == provider.invoice.dollars()


# Ways of calling


def body(way: str, model: str, words: int = 5, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": "".join(prose(words))}]
    return {"model": f"{way}/{model}", "messages": said, "max_tokens": 99} | more


async def plain(router: Served, asked: dict[str, Any], path: str = CHAT) -> httpx.Response:
    return await router.http.post(path, json=asked)


async def stream(router: Served, asked: dict[str, Any], path: str = CHAT) -> None:
    async with router.http.stream("POST", path, json=asked | {"stream": True}) as answer:
        async for _ in answer.aiter_bytes():
            pass


async def leave(
    router: Served, provider: FakeProvider, native: str, asked: dict[str, Any], after: int
) -> None:
    """Hear so many tokens and go."""
    provider.hold(native, after=after)
    heard = ""
    async with router.http.stream("POST", CHAT, json=asked | {"stream": True}) as answer:
        async for part in answer.aiter_text():
            heard += part
            if heard.count('"content":"') - heard.count('"content":""') >= after:
                break
    await provider.until(lambda: all(request.over.is_set() for request in provider.requests))


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
ANTHROPIC_TOOL = {"name": "weather", "input_schema": SCHEMA}
USAGE = {"stream_options": {"include_usage": True}}

Story = Callable[[Served, FakeProvider, str, str], Awaitable[Any]]


def _plain(**more: Any) -> Story:
    return lambda router, provider, way, model: plain(router, body(way, model, **more))


def _stream(**more: Any) -> Story:
    return lambda router, provider, way, model: stream(router, body(way, model, **more))


def _cached(call: Story) -> Story:
    async def story(router: Served, provider: FakeProvider, way: str, model: str) -> None:
        provider.offer(first(way, model), prices=PRICES, cached_read=6, cached_write=3)
        await call(router, provider, way, model)

    return story


def _other(path: str, call: Any, **fields: Any) -> Story:
    def story(router: Served, provider: FakeProvider, way: str, model: str) -> Awaitable[Any]:
        asked = {"model": f"{way}/{model}", **fields}
        result: Awaitable[Any] = call(router, asked, path)
        return result

    return story


def _leaving(after: int) -> Story:
    return lambda router, provider, way, model: leave(
        router, provider, first(way, model), body(way, model), after
    )


MESSAGES = {"messages": [{"role": "user", "content": "the ship"}], "max_tokens": 99}

STORIES: dict[str, Story] = {
    "ok@plain": _plain(),
    "ok@long": _plain(words=700),
    "ok@limited": _plain(max_tokens=4),
    "ok@tools": _plain(tools=[TOOL]),
    "ok@stream": _stream(),
    "ok@stream-with-usage": _stream(**USAGE),
    "ok@stream-without-usage": _stream(stream_options={"include_usage": False}),
    "ok@stream-tools": _stream(tools=[TOOL]),
    "ok@cached": _cached(_plain()),
    "ok@cached-stream": _cached(_stream()),
    "ok@left-after-1": _leaving(1),
    "ok@left-after-5": _leaving(5),
    "cut-before-tokens@stream": _stream(),
    "cut-after-tokens@stream": _stream(),
    "ends-early@stream": _stream(),
    "error-event-later@stream": _stream(),
    "no-done@stream": _stream(),
    "duplicate-chunk@stream": _stream(),
    "gzip@plain": _plain(),
    "gzip@stream": _stream(),
    "usage-absent@plain": _plain(),
    "usage-absent@stream": _stream(),
    "usage-null@plain": _plain(),
    "usage-null@stream": _stream(),
    "usage-apart@plain": _plain(),
    "usage-apart@stream": _stream(),
    "400@refused": _plain(),
    "429@failed-over": _plain(),
    "429@failed-over-stream": _stream(),
    "500@retried": _plain(),
    "500@retried-stream": _stream(),
    "reset@retried": _plain(),
    "reset@retried-stream": _stream(),
    "ok@responses": _other("/v1/responses", plain, input="the ship is"),
    "ok@responses-stream": _other("/v1/responses", stream, input="the ship is"),
    "ok@messages": _other("/v1/messages", plain, **MESSAGES),
    "ok@messages-stream": _other("/v1/messages", stream, **MESSAGES),
    "ok@messages-tools": _other("/v1/messages", plain, tools=[ANTHROPIC_TOOL], **MESSAGES),
    "ok@messages-cached": _cached(_other("/v1/messages", stream, **MESSAGES)),
}

ONLY_DIRECT: dict[str, Story] = {
    "ok@completions": _other("/v1/completions", plain, prompt="the ship is"),
    "ok@completions-stream": _other("/v1/completions", stream, prompt="the ship is"),
    "ok@embeddings": _other("/v1/embeddings", plain, input=["the ship", "is"]),
    "usage-absent@embeddings": _other("/v1/embeddings", plain, input="the ship is"),
}
"""Anthropic has no embeddings, and makes a message of a prompt."""


@pytest.mark.parametrize("way", WAYS)
async def test_every_story_costs_what_the_provider_charges(
    way: str, database: Database, tmp_path: Path
) -> None:
    stories = STORIES | (ONLY_DIRECT if way == "direct" else {})
    async with FakeProvider(keys=[KEY]) as provider:
        async with booked(database, tmp_path, backends(provider, way, stories)) as router:
            for model, story in stories.items():
                await story(router, provider, way, model)
        expected = invoiced(provider, way, stories)
        assert await bills(database) == expected
        assert len(expected) == len(stories)  # the refused one costs nothing, one is charged by two backends
        assert await is_paid(database, provider)


# A day's work

MIXED = ["ok", "ok", "429", "500", "reset", "400", "gzip", "usage-absent", "usage-null"]
MIXED_STREAMS = ["cut-after-tokens", "ends-early", "error-event-later", "no-done", "duplicate-chunk"]
CALLS = 40


async def work(router: Served, provider: FakeProvider, way: str, chance: random.Random) -> None:
    """Calls of all kinds, one after the other."""
    for _ in range(CALLS):
        is_stream = chance.random() < 0.6
        model = f"{chance.choice(MIXED + MIXED_STREAMS if is_stream else MIXED)}@mix"
        asked = body(way, model, chance.randint(1, 60), max_tokens=chance.randint(4, 20))
        if is_stream and chance.random() < 0.3:
            asked |= USAGE
        if model == "ok@mix" and is_stream and chance.random() < 0.3:
            await leave(router, provider, first(way, model), asked, chance.randint(1, 3))
        else:
            await (stream if is_stream else plain)(router, asked)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.services)])
async def test_a_days_work_costs_what_the_provider_charges(
    seed: int, database: Database, tmp_path: Path
) -> None:
    models = [f"{fault}@mix" for fault in dict.fromkeys(MIXED + MIXED_STREAMS)]
    async with FakeProvider(keys=[KEY]) as provider:
        made = [one for way in WAYS for one in backends(provider, way, models)]
        async with booked(database, tmp_path, made) as router:
            await asyncio.gather(
                *(work(router, provider, way, random.Random(f"{seed} {way}")) for way in WAYS)
            )
        expected = {**invoiced(provider, "direct", models), **invoiced(provider, "LiteLLM", models)}
        assert await bills(database) == expected
        assert len(expected) > 10
        assert await is_paid(database, provider)
