"""Streams: whole, broken, left, stopped; what the client hears and what is booked."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from quarterdeck.router import steady
from quarterdeck.router.backend import PICO, Pool, Usage
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from tests.fakes.provider import FakeProvider
from tests.fakes.provider_faults import HUGE, PAUSE, K
from tests.fakes.served_router import CHAT, Budget, Guest, MemoryClients, Servant, Served, asked, backend

Frames = Callable[[web.Request], Awaitable[web.StreamResponse]]


def chunk(content: str | None = None, finish: str | None = None, **fields: object) -> str:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps({"id": "c", "model": "native-gpt", "choices": [choice]} | fields)


def saying(*pieces: str, kind: str = "text/event-stream", end: str = "\n\n") -> Frames:
    """A provider that sends these as they are."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for piece in pieces:
            await response.write(f"{piece}{end}".encode())
            await asyncio.sleep(PAUSE)
        await response.write_eof()
        return response

    return answer


@pytest.mark.parametrize("asks", [True, False])
async def test_tokens_are_asked_for_and_told_only_to_those_who_want_them(asks: bool) -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        wish = {"stream_options": {"include_usage": True}} if asks else {}
        heard = await router.stream("gpt", **wish)
        assert provider.requests[0].body["stream_options"] == {"include_usage": True}
        assert any(piece.get("usage") for piece in heard.chunks) is asks
        assert heard.is_complete
        charged = provider.invoice.tokens()
        (call,) = router.calls
        assert (call.usage.prompt, call.usage.completion) == (charged.prompt, charged.completion)
        assert call.cost == provider.invoice.picodollars() > 0


@pytest.mark.parametrize(
    ("options", "compat", "sent"),
    [
        (None, {"supports_usage_in_streaming": False}, None),
        ({"include_usage": False}, {}, {"include_usage": False}),
        ({"include_obfuscation": False}, {}, {"include_obfuscation": False, "include_usage": True}),
        ({}, {}, {"include_usage": True}),
    ],
)
async def test_nobody_is_asked_for_tokens_against_a_wish(
    options: dict[str, bool] | None, compat: dict[str, bool], sent: dict[str, bool] | None
) -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt", compat=compat)]) as router:
        given = {} if options is None else {"stream_options": options}
        assert (await router.stream("gpt", **given)).is_complete
        assert provider.requests[0].body.get("stream_options") == sent
        await router.until(lambda: len(router.calls) == 1)
        assert router.calls[0].cost == provider.invoice.picodollars()


async def test_the_time_to_the_first_content_is_measured_and_plain_calls_have_none() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        held = provider.hold("native-gpt", after=0)
        hearing = asyncio.create_task(router.stream("gpt"))
        await provider.until(lambda: len(provider.requests) == 1)
        until = steady.now() + 0.1
        while steady.now() < until:
            await asyncio.sleep(0)
        held.set()
        await hearing
        await router.ask("gpt")
        streamed, plain = router.calls
        assert streamed.ttft_ms is not None
        assert 80 <= streamed.ttft_ms <= streamed.latency_ms
        assert plain.ttft_ms is None


@pytest.mark.parametrize("fault", ["duplicate-chunk", "no-done", "usage-inline", "gzip", "usage-null"])
async def test_what_is_odd_but_whole_is_passed_on_to_its_end(fault: str) -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt", native=fault)]) as router:
        heard = await router.stream("gpt")
        assert heard.is_complete
        assert heard.text.endswith("fair")
        await router.until(lambda: len(router.calls) == 1)
        assert router.calls[0].outcome is Outcome.OK
        assert router.calls[0].cost == provider.invoice.picodollars()


async def test_a_line_of_a_megabyte_is_passed_on() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt", native="huge-line")]) as router:
        heard = await router.stream("gpt")
        assert heard.is_complete
        assert len(heard.text) > HUGE


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("cut-after-tokens", Outcome.CUT),
        ("ends-early", Outcome.CUT),
        ("malformed", Outcome.CUT),
        ("error-event-later", Outcome.CUT),
        ("stall-after-tokens", Outcome.TIMED_OUT),
    ],
)
async def test_a_stream_that_breaks_ends_with_an_error_and_is_booked_as_far_as_it_came(
    fault: str, outcome: Outcome
) -> None:
    """No second backend is asked: the client has had a part of the answer already."""
    async with FakeProvider() as provider:
        first = backend(provider, "gpt", native=fault, timeout_seconds=0.3)
        async with Served([first, backend(provider, "gpt", name="two", pool=Pool.FALLBACK)]) as router:
            heard = await router.stream("gpt")
            assert heard.error["code"] == "stream_cut"
            assert heard.error["type"] == "Error_502"
            assert heard.text == "the ship is"
            assert "[DONE]" not in heard.data
            await router.until(lambda: len(router.calls) == 1)
            (call,) = router.calls
            assert (call.outcome, call.usage.completion, call.is_answer) == (outcome, K, True)
            assert len(provider.requests) == 1
            assert router.balancer.view("bkd_one", steady.now()).failures == 1


@pytest.mark.parametrize("fault", ["error-event-first", "429", "500", "empty", "html", "reset", "401"])
async def test_a_stream_that_fails_before_its_first_event_is_answered_by_the_next_backend(fault: str) -> None:
    async with FakeProvider() as provider:
        first = backend(provider, "gpt", native=fault)
        async with Served([first, backend(provider, "gpt", name="two", pool=Pool.FALLBACK)]) as router:
            heard = await router.stream("gpt")
            assert heard.is_complete
            assert "error" not in heard.chunks[-1]
            assert heard.response.headers["x-quarterdeck-backend"] == "bkd_two"
            assert [call.outcome is Outcome.OK for call in router.calls] == [False, True]


FAILED = {"id": "resp_1", "model": "native", "error": {"code": "rate_limit_exceeded", "message": "Slower."}}


def said_anew(kind: str, **fields: Any) -> str:
    """An event of the newer dialect."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}"


@asynccontextmanager
async def answering_anew(frames: Frames) -> AsyncIterator[Served]:
    """A router whose first backend answers `/v1/responses` so; the second one is well."""
    translated = LiteLLMWay(steady.now)
    async with FakeProvider() as provider, Servant(frames) as servant:
        spare = backend(provider, "gpt", name="two", api="openai-responses", pool=Pool.FALLBACK)
        backends = [backend(servant.url, "gpt", api="openai-responses"), spare]
        try:
            async with Served(backends, translated=translated) as router:
                yield router
        finally:
            await translated.close()


async def test_a_response_that_fails_in_the_middle_is_passed_on_and_is_no_success() -> None:
    created = said_anew("response.created", response={"id": "resp_1", "model": "native"})
    delta = said_anew("response.output_text.delta", delta="the ship")
    failed = said_anew("response.failed", response=FAILED)
    async with answering_anew(saying(created, delta, failed)) as router:
        async with router.streaming("gpt", path="/v1/responses") as response:
            heard = [part async for part in response.aiter_text()]
        *_, told, last = "".join(heard).strip().split("\n\n")
        assert told.startswith("event: response.failed\n") and "Slower." in told
        assert last.startswith("event: error\n") and "stream_cut" in last
        await router.until(lambda: len(router.calls) == 1)
        assert router.calls[0].outcome is Outcome.CUT
        assert router.balancer.view("bkd_one", steady.now()).count == 1  # it was a limit


async def test_a_response_that_fails_at_once_is_answered_by_the_next_backend() -> None:
    created = said_anew("response.created", response={"id": "resp_1", "model": "native"})
    failed = said_anew("response.failed", response=FAILED)
    async with answering_anew(saying(f"{created}\n\n{failed}")) as router:
        async with router.streaming("gpt", path="/v1/responses") as response:
            heard = "".join([part async for part in response.aiter_text()])
        assert response.headers["x-quarterdeck-backend"] == "bkd_two"
        assert "event: response.completed\n" in heard
        await router.until(lambda: len(router.calls) == 2)
        assert [call.outcome for call in router.calls] == [Outcome.LIMITED, Outcome.OK]


async def test_a_json_error_to_a_stream_is_relayed_whole_and_tried_nowhere_else() -> None:
    async with FakeProvider() as provider:
        first = backend(provider, "gpt", native="json-error-to-stream")
        async with Served([first, backend(provider, "gpt", name="two", pool=Pool.FALLBACK)]) as router:
            heard = await router.stream("gpt")
            assert heard.response.status_code == 400
            assert heard.response.headers["content-length"] == str(len(heard.raw))
            assert json.loads(heard.raw)["error"]["code"] == "unsupported"
            assert [call.outcome for call in router.calls] == [Outcome.REFUSED]


async def test_a_whole_answer_to_a_stream_is_relayed_as_one() -> None:
    async def whole(request: web.Request) -> web.Response:
        message = {"message": {"content": "all hands"}, "finish_reason": "stop"}
        return web.json_response({"model": "native-gpt", "choices": [message]})

    async with Servant(whole) as servant, Served([backend(servant.url, "gpt")]) as router:
        heard = await router.stream("gpt")
        assert heard.response.headers["content-type"] == "application/json"
        assert json.loads(heard.raw)["model"] == "gpt"
        await router.until(lambda: len(router.calls) == 1)
        assert (router.calls[0].usage.completion, router.calls[0].is_stream) == (2, True)


async def test_a_stream_under_a_wrong_content_type_is_still_one() -> None:
    frames = saying(f"data: {chunk('hello')}", f"data: {chunk(finish='stop')}", kind="application/json")
    async with Servant(frames) as servant, Served([backend(servant.url, "gpt")]) as router:
        heard = await router.stream("gpt")
        assert (heard.text, heard.is_complete) == ("hello", True)


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
async def test_any_line_end_comments_and_names_that_look_like_ours_are_understood(end: str) -> None:
    tricky = chunk('"model":"native-gpt" {"model": "native-gpt"}', meta={"model": "native-gpt"})
    spaced = chunk("!").replace(": ", " :  ")
    frames = [
        ": waiting",
        f"data: {tricky}",
        ": still there",
        f"data:{spaced}",
        f"data: {chunk(finish='stop')}",
    ]
    async with Servant(saying(*frames, end=end)) as servant:
        name = 'our "own" \\ é name'
        async with Served([backend(servant.url, name, native="x")]) as router:
            heard = await router.stream(name)
            first, second, _ = heard.chunks
            assert first["choices"][0]["delta"]["content"] == '"model":"native-gpt" {"model": "native-gpt"}'
            assert first["meta"] == {"model": "native-gpt"}
            assert {piece["model"] for piece in heard.chunks} == {name}
            assert second["choices"][0]["delta"]["content"] == "!"
            assert b"still there" not in heard.raw
            assert heard.is_complete


async def test_bytes_of_a_chunk_change_in_nothing_but_the_name() -> None:
    line = 'data: {"id":"c" , "x":1.10,"big":123456789012345678901234567890,"model":"n","choices":[]}'
    frames = saying(line, f"data: {chunk(finish='stop')}")
    async with Servant(frames) as servant, Served([backend(servant.url, "gpt")]) as router:
        heard = await router.stream("gpt")
        assert heard.raw.startswith(line.replace('"n"', '"gpt"').encode() + b"\n\n")


async def test_several_choices_must_all_finish() -> None:
    frames = saying(f"data: {chunk('a')}", f"data: {chunk(finish='stop')}")
    async with Servant(frames) as servant, Served([backend(servant.url, "gpt")]) as router:
        assert (await router.stream("gpt")).is_complete
        heard = await router.stream("gpt", n=2)
        assert heard.error["code"] == "stream_cut"


@pytest.mark.parametrize(
    "line", ["data: [1]", 'data: {"choices":[1]}', 'data: {"choices":{"a":1}}', 'data: "text"', "data: {"]
)
async def test_nonsense_in_a_stream_is_a_failure_and_no_fault_of_ours(line: str) -> None:
    frames = saying(f"data: {chunk('a')}", line)
    async with Servant(frames) as servant, Served([backend(servant.url, "gpt")]) as router:
        heard = await router.stream("gpt")
        assert heard.error["code"] == "stream_cut"
        await router.until(lambda: len(router.calls) == 1)
        assert router.calls[0].outcome is Outcome.CUT


async def test_good_events_before_a_bad_one_arrive_though_they_came_together() -> None:
    good, bad = f"data: {chunk('a')}", "data: {"
    frames = saying(good, f"{good}\n\n{bad}")
    async with Servant(frames) as servant, Served([backend(servant.url, "gpt")]) as router:
        heard = await router.stream("gpt")
        assert (heard.text, heard.error["code"]) == ("aa", "stream_cut")


async def test_a_stream_whose_first_bytes_hold_an_error_is_answered_by_the_next_backend() -> None:
    frames = saying(f"data: {chunk('a')}\n\ndata: {{")
    async with Servant(frames) as servant, FakeProvider() as provider:
        backends = [backend(servant.url, "gpt"), backend(provider, "gpt", name="two", pool=Pool.FALLBACK)]
        async with Served(backends) as router:
            heard = await router.stream("gpt")
            assert heard.text.startswith("the ship")
            assert [call.outcome for call in router.calls] == [Outcome.BROKEN, Outcome.OK]


async def test_the_client_that_leaves_a_stream_ends_it_at_the_provider_and_pays_what_came() -> None:
    clients, budget = limited(10_000)
    async with FakeProvider() as provider, Served([backend(provider, "gpt")], clients=clients) as router:
        provider.hold("native-gpt", after=K)
        async with router.streaming("gpt", headers={"Authorization": "Bearer sk-client"}) as response:
            heard = b""
            async for part in response.aiter_raw():
                heard += part
                if b" is" in heard:
                    break
        await provider.until(provider.requests[0].over.is_set)
        await router.until(lambda: len(router.calls) == 1)
        (call,) = router.calls
        assert (call.outcome, call.usage.completion, call.usage.is_estimate) == (Outcome.ABORTED, K, True)
        assert call.cost == provider.invoice.picodollars()
        assert budget.settled == [(call.usage.total, call.cost)]
        assert router.app.open_requests == 0
        assert router.balancer.view("bkd_one", steady.now()).in_flight == 0


def limited(tokens: int, cost: int | None = None) -> tuple[MemoryClients, Budget]:
    budget = Budget(tokens, cost)
    return MemoryClients({"sk-client": Guest("cli_1", "crew", "scout")}, cli_1=budget), budget


@pytest.mark.parametrize(("tokens", "dollars"), [(120, None), (10**9, 0.001)])
async def test_a_budget_that_is_spent_in_the_middle_stops_the_stream(
    tokens: int, dollars: float | None
) -> None:
    clients, budget = limited(tokens, None if dollars is None else int(dollars * PICO))
    async with FakeProvider() as provider, Served([backend(provider, "gpt")], clients=clients) as router:
        provider.offer("native-gpt", completion=5000)
        heard = await router.stream("gpt", headers={"Authorization": "Bearer sk-client"})
        assert heard.error["code"] == "budget_spent"
        assert len(heard.text.split()) < 400
        await provider.until(provider.requests[0].over.is_set)
        await router.until(lambda: bool(budget.settled))
        (call,) = router.calls
        assert (call.outcome, call.caller.client_id) == (Outcome.CUT, "cli_1")
        assert budget.settled == [(call.usage.total, call.cost)]
        assert router.balancer.view("bkd_one", steady.now()).failures == 0


async def test_a_budget_that_is_spent_stops_requests_at_the_door_and_sdks_do_not_ask_again() -> None:
    clients, budget = limited(0)
    async with FakeProvider() as provider, Served([backend(provider, "gpt")], clients=clients) as router:
        answer = await router.ask("gpt", headers={"Authorization": "Bearer sk-client"})
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "budget_spent"
        assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("120", "false")
        assert provider.requests == []
        assert (budget.settled, router.refused) == ([], 1)


@pytest.mark.parametrize("fault", ["ok", "400", "500", "cut-after-tokens", "usage-absent"])
async def test_what_was_held_back_of_a_budget_is_settled_exactly_once(fault: str) -> None:
    clients, budget = limited(10_000)
    async with (
        FakeProvider() as provider,
        Served([backend(provider, "gpt", native=fault)], clients=clients) as router,
    ):
        headers = {"Authorization": "Bearer sk-client"}
        await router.stream("gpt", headers=headers)
        await router.until(lambda: router.app.open_requests == 0 and bool(budget.settled))
        assert len(budget.settled) == 1
        assert budget.tokens == 10_000 - budget.settled[0][0]
        assert sum(call.cost for call in router.calls) == budget.settled[0][1]


async def test_a_stop_lets_streams_end_and_breaks_off_with_a_word_those_that_do_not() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt", "slow")]) as router:
        short, endless = provider.hold("native-gpt", after=K), provider.hold("native-slow", after=K)
        hearing = [asyncio.create_task(router.stream(model)) for model in ("gpt", "slow")]
        await provider.until(lambda: len(provider.requests) == 2)
        stopping = asyncio.create_task(router.app.drain(0.5))
        await asyncio.sleep(0)
        refused = await router.ask("gpt")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert refused.headers["connection"] == "close"
        short.set()
        whole, broken = await asyncio.gather(*hearing)
        await stopping
        assert whole.is_complete
        assert broken.error["code"] == "stopping"
        assert broken.text == "the ship is"
        assert {call.model: call.outcome for call in router.calls} == {"gpt": Outcome.OK, "slow": Outcome.CUT}
        assert not endless.is_set()


async def test_a_stop_answers_plain_calls_that_wait() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt", native="hang")]) as router:
        asking = asyncio.create_task(router.ask("gpt"))
        await provider.until(lambda: len(provider.requests) == 1)
        await router.app.drain(0.05)
        answer = await asking
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
        assert [call.outcome for call in router.calls] == [Outcome.ABORTED]


async def test_a_call_that_was_still_being_sent_when_the_stop_began_is_told_so() -> None:
    router = Served([backend("http://127.0.0.1:9", "gpt")])
    body = json.dumps(asked("gpt", stream=True)).encode()
    parts = [(body[:9], True), (body[9:], False)]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if len(parts) == 1:
            await router.app.drain(0.05)
        part, more = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": more}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b"", "headers": []}
    await router.app(scope, receive, send)
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["error"]["code"] == "stopping"
    assert (router.calls, router.refused) == ([], 1)


class SlowCounter:
    """Counts for longer than a stop waits."""

    async def count(self, *_: object) -> Usage:
        await asyncio.Event().wait()
        raise AssertionError


class BrokenCounter:
    """Cannot count."""

    async def count(self, *_: object) -> Usage:
        raise RecursionError


@pytest.mark.parametrize("counter", [SlowCounter(), BrokenCounter()])
async def test_tokens_that_cannot_be_counted_are_estimated_and_neither_they_nor_the_call_are_lost(
    counter: SlowCounter | BrokenCounter,
) -> None:
    clients, budget = limited(10_000)
    async with FakeProvider() as provider:
        only = backend(provider, "gpt", native="usage-absent")
        async with Served([only], counter=counter, clients=clients) as router:
            answer = await router.ask("gpt", headers={"Authorization": "Bearer sk-client"})
            said = answer.json()["choices"][0]["message"]["content"]
            await router.app.drain(0.05)
            (call,) = router.calls
            assert (call.outcome, call.usage.is_estimate) == (Outcome.OK, True)
            assert call.usage.prompt == -(-len("all hands on deck") // 4)
            assert call.usage.completion == -(-len(said) // 4) > 0
            assert budget.settled == [(call.usage.total, call.cost)]
            assert call.cost > 0


async def test_a_stop_books_what_a_stream_that_it_breaks_off_has_said() -> None:
    async with FakeProvider() as provider:
        only = backend(provider, "gpt")
        async with Served([only], counter=SlowCounter()) as router:
            provider.hold("native-gpt", after=K)
            hearing = asyncio.create_task(router.stream("gpt"))
            await router.until(lambda: bool(provider.requests) and router.app.open_requests == 1)
            async with asyncio.timeout(20):
                await router.app.drain(0.2)
            heard = await hearing
            (call,) = router.calls
            assert (call.outcome, call.usage.is_estimate) == (Outcome.CUT, True)
            assert call.usage.completion == -(-len(heard.text) // 4) > 0
            assert call.usage.prompt > 0
