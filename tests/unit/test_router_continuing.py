"""A stream that broke off before it had said anything: another backend goes on with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from quarterdeck.router import steady
from quarterdeck.router.backend import Backend, Pool, Status
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from tests.fakes.provider import FakeProvider
from tests.fakes.provider_invoice import prose
from tests.fakes.served_router import PRICES, Budget, Guest, MemoryClients, Servant, Served, backend

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
ROLE: dict[str, Any] = {"role": "assistant", "content": ""}


def first(provider: FakeProvider, fault: str = "cut-before-tokens", **changes: Any) -> Backend:
    return backend(f"{provider.base(fault)}/v1", "gpt", name="first", native=fault, **changes)


def second(place: Any, **changes: Any) -> Backend:
    return backend(place, "gpt", name="second", pool=Pool.FALLBACK, **changes)


def told(*deltas: dict[str, Any], finish: str | None = None) -> Callable[[web.Request], Awaitable[Any]]:
    """A provider that streams these deltas, and breaks off unless there is a finish."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, delta in enumerate(deltas):
            is_last = number == len(deltas) - 1
            choice = {"index": 0, "delta": delta, "finish_reason": finish if is_last else None}
            await response.write(b"data: " + orjson.dumps({"model": "m", "choices": [choice]}) + b"\n\n")
        if finish is None:
            await response.drain()
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


async def test_the_client_hears_one_answer_with_one_role() -> None:
    """The SDK joins what each chunk says: a second role would make "assistantassistant"."""
    async with FakeProvider() as provider, Served([first(provider), second(provider)]) as router:
        client = AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0)
        said = [{"role": "user", "content": "all hands on deck"}]
        async with client, client.chat.completions.stream(model="gpt", messages=said) as stream:  # type: ignore[arg-type]
            message = (await stream.get_final_completion()).choices[0].message
        assert (message.role, message.content) == ("assistant", "".join(prose(12)))
        await router.until(lambda: len(router.calls) == 2)
        outcomes = {call.backend_id: (call.outcome, call.is_answer) for call in router.calls}
        assert outcomes == {"bkd_first": (Outcome.UNREACHABLE, False), "bkd_second": (Outcome.OK, True)}


async def test_a_backend_of_another_dialect_can_go_on() -> None:
    translated = LiteLLMWay(steady.now)
    await translated.prepare()
    async with FakeProvider() as provider:
        backends = [first(provider), second(provider.url, api="anthropic-messages")]
        async with Served(backends, translated=translated) as router:
            heard = await router.stream("gpt")
            assert heard.text == "".join(prose(12))
            assert heard.raw.count(b'"role"') == 1
            assert heard.is_complete
    await translated.close()


async def test_a_role_and_the_first_words_in_one_chunk_are_told_apart() -> None:
    words = told({"role": "assistant", "content": "ahoy"}, {}, finish="stop")
    async with (
        FakeProvider() as provider,
        Servant(words) as other,
        Served([first(provider), second(f"{other.url}/v1")]) as router,
    ):
        heard = await router.stream("gpt")
        assert (heard.text, heard.raw.count(b'"role"'), heard.is_complete) == ("ahoy", 1, True)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "ahoy"},
        {"reasoning": "hm"},
        {"refusal": "no"},
        {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "", "arguments": ""}}]},
        {"function_call": {"name": "weather"}},
        {"audio": {"id": "audio_1"}},
        {"something_new": 1},
    ],
)
async def test_after_anything_of_the_answer_itself_nobody_goes_on(delta: dict[str, Any]) -> None:
    async with (
        FakeProvider() as provider,
        Servant(told(ROLE, delta)) as breaking,
        Served([backend(f"{breaking.url}/v1", "gpt", name="first"), second(provider)]) as router,
    ):
        heard = await router.stream("gpt")
        assert heard.error["code"] == "stream_cut"
        assert provider.requests == []


async def test_when_nobody_is_left_to_go_on_the_stream_ends_with_an_error() -> None:
    async with FakeProvider() as provider:
        backends = [first(provider), second(f"{provider.base('500')}/v1", native="500")]
        async with Served(backends, emergency_rpm_fraction=0) as router:
            heard = await router.stream("gpt")
            assert (heard.error["code"], heard.is_complete) == ("all_pools_exhausted", False)
            assert "2 attempts failed" in heard.error["message"]
            await router.until(lambda: len(router.calls) == 2)
            assert sorted(call.is_answer for call in router.calls) == [False, True]
            assert router.app.open_requests == 0


async def test_a_refusal_of_who_should_go_on_is_told_in_the_stream() -> None:
    async with FakeProvider() as provider:
        backends = [first(provider), second(f"{provider.base('400')}/v1", native="400")]
        async with Served(backends) as router:
            heard = await router.stream("gpt")
            assert (heard.error["code"], heard.is_complete) == ("refused", False)
            assert heard.error["message"] == "Invalid value for 'temperature'."


async def test_a_whole_answer_cannot_go_on_with_a_stream_and_is_booked() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}

    async def whole(request: web.Request) -> web.StreamResponse:
        choice = {"index": 0, "message": {"role": "assistant", "content": "ahoy"}, "finish_reason": "stop"}
        return web.json_response({"model": "m", "choices": [choice], "usage": usage})

    async with FakeProvider() as provider, Servant(whole) as other:
        backends = [first(provider), second(f"{other.url}/v1")]
        async with Served(backends, emergency_rpm_fraction=0) as router:
            heard = await router.stream("gpt")
            assert heard.error["code"] == "all_pools_exhausted"
            await router.until(lambda: len(router.calls) == 2)
            (call,) = [call for call in router.calls if call.backend_id == "bkd_second"]
            assert (call.outcome, call.usage.prompt, call.usage.completion) == (Outcome.BROKEN, 5, 7)


async def test_an_error_in_the_stream_means_what_it_says_while_nothing_was_said() -> None:
    """The limit of a provider that tells it late rests the backend, as one that is told at once."""
    error = {"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}
    is_heard = asyncio.Event()

    async def limited(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        choice = {"index": 0, "delta": ROLE, "finish_reason": None}
        await response.write(b"data: " + orjson.dumps({"model": "m", "choices": [choice]}) + b"\n\n")
        await is_heard.wait()
        await response.write(b"data: " + orjson.dumps(error) + b"\n\n")
        return response

    async with FakeProvider() as provider, Servant(limited) as other:
        backends = [backend(f"{other.url}/v1", "gpt", name="first"), second(provider)]
        async with Served(backends) as router:
            async with router.streaming("gpt") as response:
                async for _ in response.aiter_raw():
                    is_heard.set()
            assert router.balancer.view("bkd_first", steady.now()).status is Status.COOLING


async def test_a_stop_meanwhile_ends_the_stream_with_an_error() -> None:
    async with FakeProvider() as provider:
        backends = [first(provider), second(f"{provider.base('hang')}/v1", native="hang")]
        async with Served(backends) as router:
            hearing = asyncio.create_task(router.stream("gpt"))
            await provider.until(lambda: len(provider.to("hang")) == 1)
            await router.app.drain(0.1)
            assert (await hearing).error["code"] == "stopping"


async def test_who_leaves_meanwhile_keeps_no_backend_busy() -> None:
    async with FakeProvider() as provider:
        backends = [first(provider), second(f"{provider.base('hang')}/v1", native="hang")]
        async with Served(backends) as router:
            async with router.streaming("gpt"):
                await provider.until(lambda: len(provider.to("hang")) == 1)
            await router.until(lambda: not router.app.open_requests and len(router.calls) == 2)
            last = next(call for call in router.calls if call.backend_id == "bkd_second")
            assert (last.outcome, last.is_answer) == (Outcome.ABORTED, True)
            names = ("bkd_first", "bkd_second")
            assert [router.balancer.view(name, steady.now()).in_flight for name in names] == [0, 0]


async def test_what_was_asked_of_the_one_that_broke_off_counts_for_the_budget() -> None:
    """It is charged for by the provider, too."""
    budget = Budget(10_000)
    clients = MemoryClients({"key": Guest("cli_1", "anna")}, cli_1=budget)
    async with (
        FakeProvider() as provider,
        Served([first(provider), second(provider)], clients=clients) as router,
    ):
        await router.stream("gpt", headers={"Authorization": "Bearer key"})
        await router.until(lambda: bool(budget.settled))
        (call,) = [call for call in router.calls if call.is_answer]
        ((tokens, cost),) = budget.settled
        assert tokens > call.usage.total and cost > call.cost
        assert budget.tokens == 10_000 - tokens


async def test_a_stream_that_its_client_leaves_before_a_word_is_no_success_of_its_backend() -> None:
    """Clients have less patience than backends have time: one that stands still would always look well."""
    standing_still = "stall-before-tokens"
    async with FakeProvider() as provider, Served([first(provider, standing_still)]) as router:
        admission = router.balancer.admit("gpt", (), steady.now())
        assert admission is not None
        router.balancer.failed(admission, steady.now(), "It broke off.")
        async with router.streaming("gpt") as response:
            await anext(response.aiter_raw())
        await router.until(lambda: bool(router.calls))
        view = router.balancer.view("bkd_first", steady.now())
        assert (router.calls[0].outcome, view.failures, view.in_flight) == (Outcome.ABORTED, 1, 0)


async def test_an_empty_finish_is_none() -> None:
    """Some providers write "" into every chunk until the last."""
    unfinished = {"index": 0, "delta": ROLE, "finish_reason": ""}

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: " + orjson.dumps({"model": "m", "choices": [unfinished]}) + b"\n\n")
        return response

    async with FakeProvider() as provider, Servant(answer) as other:
        backends = [backend(f"{other.url}/v1", "gpt", name="first"), second(provider)]
        async with Served(backends) as router:
            heard = await router.stream("gpt")
            assert (heard.text, heard.is_complete) == ("".join(prose(12)), True)


# The other dialects

APIS = {MESSAGES: "anthropic-messages", RESPONSES: "openai-responses"}


def events(*kinds: dict[str, Any]) -> Callable[[web.Request], Awaitable[Any]]:
    """A provider that begins a stream with these events, and breaks off."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in kinds:
            await response.write(f"event: {event['type']}\ndata: ".encode() + orjson.dumps(event) + b"\n\n")
        await response.drain()
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


CACHED = {"input_tokens": 5, "cache_read_input_tokens": 1000, "output_tokens": 1}
BEGUN = {
    MESSAGES: ({"type": "message_start", "message": {"id": "msg_first", "usage": CACHED}}, {"type": "ping"}),
    RESPONSES: (
        {"type": "response.created", "response": {"id": "resp_first"}},
        {"type": "response.in_progress", "response": {"id": "resp_first"}},
    ),
}
WORDS = {
    MESSAGES: {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    RESPONSES: {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}},
}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
ENDS = {MESSAGES: "message_stop", RESPONSES: "response.completed"}


@asynccontextmanager
async def broken(path: str, *kinds: dict[str, Any], **limits: Any) -> AsyncIterator[Served]:
    """A router whose first backend begins so, and breaks off; the second one is well."""
    translated = LiteLLMWay(steady.now)
    async with FakeProvider() as provider, Servant(events(*kinds)) as other:
        well = second(provider.url, api=APIS[path])
        backends = [backend(other.url, "gpt", name="first", api=APIS[path]), well]
        try:
            async with Served(backends, translated=translated, **limits) as router:
                yield router
        finally:
            await translated.close()


async def heard_kinds(router: Served, path: str, **more: Any) -> list[str]:
    said = {"input": "all hands on deck"} if path == RESPONSES else {"max_tokens": 50}
    async with router.streaming("gpt", path=path, **said, **more) as response:
        lines = [line async for line in response.aiter_lines()]
    return [line[7:] for line in lines if line.startswith("event: ")]


@pytest.mark.parametrize("then", [(), (OVERLOADED,)], ids=["cut", "overloaded"])
@pytest.mark.parametrize("path", APIS)
async def test_an_answer_of_another_dialect_is_opened_once_and_gone_on_with(path: str, then: Any) -> None:
    async with broken(path, *BEGUN[path], *then) as router:
        kinds = await heard_kinds(router, path)
        await router.until(lambda: len(router.calls) == 2)
    assert [kinds.count(event["type"]) for event in BEGUN[path] if event["type"] != "ping"] in ([1], [1, 1])
    assert kinds[-1] == ENDS[path] and "error" not in kinds
    assert [call.outcome is Outcome.OK for call in router.calls] == [False, True]


@pytest.mark.parametrize("path", APIS)
async def test_after_a_part_of_an_answer_of_another_dialect_nobody_goes_on(path: str) -> None:
    async with broken(path, *BEGUN[path], WORDS[path]) as router:
        kinds = await heard_kinds(router, path)
        await router.until(lambda: len(router.calls) == 1)
    assert kinds[-1] == "error"


async def test_the_prompt_of_a_stream_that_broke_off_is_booked_as_the_provider_told_it() -> None:
    """Most of it may come from a cache: counted anew it would cost ten times as much."""
    budget = Budget(10_000)
    clients = MemoryClients({"key": Guest("cli_1", "anna")}, cli_1=budget)
    async with broken(MESSAGES, *BEGUN[MESSAGES], clients=clients) as router:
        await heard_kinds(router, MESSAGES, headers={"Authorization": "Bearer key"})
        await router.until(lambda: bool(budget.settled))
        failed, answered = router.calls
        usage = failed.usage
        assert (usage.prompt, usage.completion, usage.cache_read) == (1005, 0, 1000)
        assert failed.cost == 5 * PRICES.input + 1000 * PRICES.cache_read
        assert budget.settled == [(1005 + answered.usage.total, failed.cost + answered.cost)]
