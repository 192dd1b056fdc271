"""Errors that a provider tells inside of a stream that began well mean what their status would mean."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from quarterdeck.router import steady
from quarterdeck.router.backend import Health, Pool, Status
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.limits.rules import LimitHint
from quarterdeck.router.limits.standing import View
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from tests.fakes.provider import FakeProvider
from tests.fakes.served_router import CHAT, Servant, Served, backend

MESSAGES = "/v1/messages"
BEGUN: tuple[dict[str, Any], ...] = (
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [],
            "usage": {"input_tokens": 5, "output_tokens": 1},
        },
    },
)
WORDS: tuple[dict[str, Any], ...] = (
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ahoy"}},
)


def error(kind: str) -> dict[str, Any]:
    message = "Number of request tokens has exceeded your per-minute rate limit. Please retry in 90 seconds."
    return {"type": "error", "error": {"type": kind, "message": message}}


def streaming(
    *kinds: dict[str, Any], is_split: bool = False
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A provider of Anthropic's dialect that streams these events, and ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in kinds:
            raw = f"event: {event['type']}\ndata: ".encode() + orjson.dumps(event) + b"\n\n"
            for part in (raw[:40], raw[40:]) if is_split else (raw,):
                await response.write(part)
                await asyncio.sleep(0)
        return response

    return answer


@asynccontextmanager
async def served(*kinds: dict[str, Any], is_split: bool = False) -> AsyncIterator[Served]:
    """A router whose first backend streams these events; the second one is well."""
    translated = LiteLLMWay(steady.now)
    await translated.prepare()
    async with FakeProvider() as provider, Servant(streaming(*kinds, is_split=is_split)) as other:
        backends = [
            backend(other.url, "gpt", name="first", api="anthropic-messages"),
            backend(provider.url, "gpt", name="second", api="anthropic-messages", pool=Pool.FALLBACK),
        ]
        try:
            async with Served(backends, translated=translated) as router:
                yield router
        finally:
            await translated.close()


async def heard(router: Served, path: str) -> bytes:
    async with router.streaming("gpt", path=path, max_tokens=50) as response:
        return b"".join([part async for part in response.aiter_raw()])


def seen(router: Served) -> View:
    return router.balancer.view("bkd_first", steady.now())


@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_limit_that_is_told_before_the_first_word_cools_the_backend_and_the_next_answers(
    path: str, is_split: bool
) -> None:
    async with served(*BEGUN, error("rate_limit_error"), is_split=is_split) as router:
        raw = await heard(router, path)
        await router.until(lambda: len(router.calls) == 2)
        assert b"rate_limit_error" not in raw
        assert (router.calls[0].outcome, router.calls[0].status) == (Outcome.LIMITED, 429)
        view = seen(router)
        assert (view.status, view.count, view.failures) == (Status.COOLING, 1, 0)
        assert view.until is not None and view.until - steady.now() > 80  # as the message says
        assert "per-minute rate limit" in view.reason


@pytest.mark.parametrize(("said", "count"), [("", 2), ("ahoy", 1)], ids=["before a word", "after a word"])
async def test_a_trial_that_is_told_a_limit_in_its_stream_was_a_success_only_with_a_word(
    said: str, count: int
) -> None:
    is_read = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        choice = {"index": 0, "delta": {"role": "assistant", "content": said}, "finish_reason": None}
        await response.write(b"data: " + orjson.dumps({"model": "gpt", "choices": [choice]}) + b"\n\n")
        await is_read.wait()
        await response.write(b"data: " + orjson.dumps({"error": {"code": 429, "message": "no"}}) + b"\n\n")
        return response

    async with FakeProvider() as provider, Servant(answer) as other:
        backends = [
            backend(other.url, "gpt", name="first"),
            backend(provider.url, "gpt", name="second", pool=Pool.FALLBACK),
        ]
        async with Served(backends) as router:
            cool_until_now(router)
            async with router.streaming("gpt") as response:
                async for _ in response.aiter_raw():
                    is_read.set()
            await router.until(lambda: seen(router).in_flight == 0)
            assert (seen(router).status, seen(router).count) == (Status.COOLING, count)


def cool_until_now(router: Served) -> None:
    """The first backend was told a limit once, and its rest is just over."""
    past = steady.now() - 60
    admission = router.balancer.admit("gpt", {"bkd_second"}, past)
    assert admission
    router.balancer.limited(admission, past, LimitHint(), "")
    assert (seen(router).status, seen(router).count) == (Status.HEALTHY, 1)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_limit_that_is_told_in_the_middle_of_an_answer_cuts_it_and_cools_the_backend(
    path: str,
) -> None:
    async with served(*BEGUN, *WORDS, error("rate_limit_error")) as router:
        raw = await heard(router, path)
        await router.until(lambda: len(router.calls) == 1)
        assert b"ahoy" in raw and b"broke off" in raw
        assert router.calls[0].outcome is Outcome.CUT
        assert (seen(router).status, seen(router).count) == (Status.COOLING, 1)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    ("kind", "outcome", "status", "health"),
    [
        ("overloaded_error", Outcome.BROKEN, Status.HEALTHY, Health.DEGRADED),
        ("api_error", Outcome.BROKEN, Status.HEALTHY, Health.DEGRADED),
        ("authentication_error", Outcome.BAD_KEY, Status.ERROR, Health.HEALTHY),
        ("billing_error", Outcome.LIMITED, Status.COOLING, Health.HEALTHY),
    ],
)
async def test_other_errors_before_the_first_word_mean_what_their_status_means(
    path: str, kind: str, outcome: Outcome, status: Status, health: Health
) -> None:
    async with served(*BEGUN, error(kind)) as router:
        await heard(router, path)
        await router.until(lambda: len(router.calls) == 2)
        assert [call.outcome for call in router.calls] == [outcome, Outcome.OK]
        assert (seen(router).status, seen(router).health) == (status, health)
