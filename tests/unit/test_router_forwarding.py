"""What reaches a provider, and what comes back to the client, in a plain call."""

import asyncio
import gzip
import json

import pytest
from aiohttp import web

from quarterdeck.router import steady
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.ways.openai_way import OpenAIWay
from tests.fakes.provider import FakeProvider
from tests.fakes.served_router import CHAT, KEY, Servant, Served, asked, backend


async def test_every_attempt_carries_the_own_name_of_its_backend_and_the_rest_of_the_body_untouched() -> None:
    """The second backend calls the model otherwise than the first."""
    async with FakeProvider() as provider:
        one, two = (
            backend(provider, "gpt", native="500"),
            backend(provider, "gpt", name="two", native="b/two"),
        )
        async with Served([one, two]) as router:
            said = b'"\\u00e9 \\"model\\":\\"gpt\\""'
            raw = b'{ "model":"gpt","messages":[{"role":"user","content":' + said + b'}],"seed":1e2 }'
            for _ in range(2):
                answer = await router.http.post(CHAT, content=raw)
                assert answer.json()["model"] == "gpt"
            sent = [request.raw for request in provider.requests]
            assert raw.replace(b'"gpt",', b'"500",', 1) in sent
            assert sent.count(raw.replace(b'"gpt",', b'"b/two",', 1)) == 2


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/api/v4/", "/api/v4/chat/completions"),
        ("/openai", "/openai/v1/chat/completions"),
    ],
)
async def test_the_version_is_never_doubled_in_the_address(base: str, path: str) -> None:
    async with FakeProvider() as provider, Served([backend(provider.url + base, "gpt")]) as router:
        assert (await router.ask("gpt")).status_code == 200
        assert provider.requests[0].path == path


async def test_the_query_goes_along() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        await router.ask("gpt", path=f"{CHAT}?api-version=2024%2F10&x=a%20b")
        assert provider.requests[0].query == "api-version=2024%2F10&x=a%20b"


async def test_only_harmless_headers_go_to_the_provider_with_the_backends_own_key() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        given = {
            "Authorization": "Bearer sk-the-clients-own",
            "X-Api-Key": "sk-another",
            "Cookie": "session=1",
            "X-Forwarded-For": "10.0.0.1",
            "X-Quarterdeck-Item": "ET-007",
            "User-Agent": "agent/1",
            "X-Request-Id": "req-of-the-client",
        }
        answer = await router.ask("gpt", headers=given)
        headers = provider.requests[0].headers
        assert headers["authorization"] == f"Bearer {KEY}"
        assert (headers["user-agent"], headers["x-request-id"]) == ("agent/1", "req-of-the-client")
        assert headers["accept-encoding"] == "identity"
        assert not {"cookie", "x-api-key", "x-forwarded-for", "x-quarterdeck-item"} & headers.keys()
        assert answer.headers["x-request-id"] == "req-of-the-client"


@pytest.mark.parametrize(
    "changes", [{"api_key": ""}, {"fault": "The key does not open."}, {"api_key": "a\nb"}]
)
async def test_a_backend_without_a_usable_key_is_never_called(changes: dict[str, str]) -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt", **changes)]) as router:
        answer = await router.ask("gpt", headers={"Authorization": "Bearer sk-the-clients-own"})
        assert answer.status_code == 503
        assert provider.requests == []


async def test_answers_are_relayed_with_a_length_of_their_own_and_without_headers_of_the_connection() -> None:
    async def answer(request: web.Request) -> web.Response:
        packed = gzip.compress(json.dumps({"model": "native-gpt", "choices": []}).encode())
        headers = {
            "Content-Encoding": "gzip",
            "Set-Cookie": "a=b",
            "X-Ratelimit-Remaining": "7",
            "X-Request-Id": "theirs",
            "Content-Type": "application/json",
        }
        return web.Response(body=packed, headers=headers)

    async with Servant(answer) as servant, Served([backend(servant.url, "gpt")]) as router:
        answered = await router.ask("gpt")
        assert answered.json() == {"model": "gpt", "choices": []}
        assert answered.headers["content-length"] == str(len(answered.content))
        assert answered.headers["x-ratelimit-remaining"] == "7"
        assert not {"set-cookie", "content-encoding"} & answered.headers.keys()
        assert answered.headers.get_list("x-request-id") != ["theirs"]


async def test_one_connection_serves_many_calls() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        for _ in range(5):
            await router.ask("gpt")
            await router.stream("gpt")
        assert len(provider._connections) == 1


async def test_the_answer_says_what_the_router_had_to_do_with_it() -> None:
    async with FakeProvider() as provider:
        provider.script("native-gpt", ["500"])
        backends = [backend(provider, "gpt"), backend(provider, "gpt", name="two")]
        async with Served(backends) as router:
            answer = await router.ask("gpt")
            assert answer.headers["x-quarterdeck-attempts"] == "2"
            assert answer.headers["x-quarterdeck-backend"] == router.calls[-1].backend_id
            assert 0 < float(answer.headers["x-quarterdeck-overhead-ms"]) < 1000
            heard = await router.stream("gpt")
            assert heard.response.headers["x-quarterdeck-attempts"] == "1"


async def test_the_time_a_provider_takes_is_not_counted_as_the_routers() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        release = provider.hold("native-gpt")
        asking = asyncio.create_task(router.ask("gpt"))
        await provider.until(lambda: len(provider.requests) == 1)
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 0.3:
            await asyncio.sleep(0)
        release.set()
        assert float((await asking).headers["x-quarterdeck-overhead-ms"]) < 250


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_the_other_calls_of_the_dialect_are_relayed_and_booked_alike(path: str) -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        answer = await router.http.post(
            path, json={"model": "gpt", "prompt": "all hands", "input": "all hands"}
        )
        assert answer.json()["model"] == "gpt"
        assert provider.requests[0].path == path
        charged = provider.invoice.tokens()
        assert (router.calls[0].usage.prompt, router.calls[0].usage.completion) == (
            charged.prompt,
            charged.completion,
        )
        assert router.calls[0].cost == provider.invoice.picodollars()


async def test_embeddings_are_never_a_stream() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        answer = await router.http.post("/v1/embeddings", json={"model": "gpt", "input": "a", "stream": True})
        assert answer.status_code == 200
        assert "stream_options" not in provider.requests[0].body
        assert not router.calls[0].is_stream


async def test_paths_that_the_dialect_does_not_have_are_translated() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        assert (await router.ask("gpt", path="/v1/messages")).status_code == 503  # no translator in this test
        assert provider.requests == []


@pytest.mark.parametrize("status", [301, 307])
async def test_redirects_are_not_followed(status: int) -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=status, headers={"Location": "/somewhere/else"})

    seen: list[str] = []
    async with Servant(elsewhere) as servant, Served([backend(servant.url, "gpt")]) as router:
        assert (await router.ask("gpt")).status_code == 503
        assert seen == [CHAT]
        assert router.calls[0].outcome is Outcome.BROKEN


async def test_an_answer_without_end_is_cut_off() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 65536)
        except ConnectionError:
            return response

    short = OpenAIWay(steady.now, longest_answer=1_000_000)
    async with Servant(endless) as servant, Served([backend(servant.url, "gpt")], short=short) as router:
        assert (await router.ask("gpt")).status_code == 503
        assert router.calls[0].outcome is Outcome.BROKEN


async def test_what_a_crowd_opened_is_not_kept_open_by_the_calls_after_it() -> None:
    """A connection that rests is closed after a while; those in turn use would never rest."""

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        callers.append(request.transport.get_extra_info("peername"))
        if len(callers) == crowd:
            all_here.set()
        await all_here.wait()
        return web.json_response({"model": "x", "choices": [], "usage": {"total_tokens": 1}})

    callers: list[tuple[str, int]] = []
    crowd, all_here = 8, asyncio.Event()
    async with Servant(answer) as servant, Served([backend(servant.url, "gpt")]) as router:
        await asyncio.gather(*(router.ask("gpt") for _ in range(crowd)))
        for _ in range(crowd):
            await router.ask("gpt")
        assert len(set(callers[:crowd])) == crowd
        assert len(set(callers[crowd:])) == 1


async def test_cached_tokens_are_charged_at_their_own_price() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        provider.offer("native-gpt", cached_read=4, cached_write=2)
        await router.ask("gpt")
        await router.stream("gpt")
        assert [call.usage.cache_read for call in router.calls] == [4, 4]
        assert sum(call.cost for call in router.calls) == provider.invoice.picodollars()


async def test_a_total_is_kept_where_it_is_all_that_is_told() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"model": "x", "choices": [], "usage": {"total_tokens": 17}})

    async with Servant(answer) as servant, Served([backend(servant.url, "gpt")]) as router:
        await router.ask("gpt")
        assert router.calls[0].usage.total == 17


@pytest.mark.parametrize("fault", ["usage-null", "usage-absent"])
async def test_tokens_that_nobody_tells_are_counted(fault: str) -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt", native=fault)]) as router:
        assert (await router.ask("gpt")).status_code == 200
        assert (await router.stream("gpt")).is_complete
        await router.until(lambda: len(router.calls) == 2)
        assert [call.usage.is_estimate for call in router.calls] == [True, True]
        assert sum(call.cost for call in router.calls) == provider.invoice.picodollars()


async def test_the_official_sdk_is_served() -> None:
    openai = pytest.importorskip("openai")
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)
        try:
            answer = await client.chat.completions.create(**asked("gpt"))
            assert (answer.model, answer.choices[0].message.content[:8]) == ("gpt", "the ship")
            parts = [part async for part in await client.chat.completions.create(**asked("gpt"), stream=True)]
            assert {part.model for part in parts} == {"gpt"}
            provider.script("native-gpt", ["cut-after-tokens"])
            with pytest.raises(openai.APIError, match="broke off"):
                async for _ in await client.chat.completions.create(**asked("gpt"), stream=True):
                    pass
        finally:
            await client.close()


async def test_what_another_router_says_of_its_part_is_not_passed_on_beside_our_own() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "inner")]) as inner:
        outer = backend(f"{inner.url}/v1", "gpt", native="inner")
        async with Served([outer]) as router:
            answer = await router.ask("gpt")
            assert answer.json()["model"] == "gpt"
            assert len(answer.headers.get_list("x-quarterdeck-attempts")) == 1
