"""What a provider finds wrong in a request comes to the client as it is, on both ways and however long."""

from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import web

from quarterdeck.router import steady
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from quarterdeck.router.ways.openai_way import OpenAIWay
from tests.fakes.litellm_calls import MESSAGES, prepared
from tests.fakes.served_router import CHAT, Servant, Served, backend

WAYS = {"short": ("openai-completions", CHAT), "translated": ("anthropic-messages", CHAT)}
WAYS["native"] = ("anthropic-messages", MESSAGES)
ECHO = orjson.dumps({"detail": [{"loc": ["body"], "msg": "wrong", "input": "x" * 100_000}]})
LIMIT = {"max_tokens": 9}


@pytest.fixture
async def long() -> AsyncIterator[LiteLLMWay]:
    async with prepared() as made:
        yield made


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_a_long_refusal_comes_whole_with_the_providers_own_headers(
    long: LiteLLMWay, way: str, is_stream: bool
) -> None:
    async def answer(request: web.Request) -> web.Response:
        told = {"Content-Type": "application/problem+json", "Set-Cookie": "a=b", "X-Request-Id": "theirs"}
        more = {"X-Should-Retry": "false", "X-Quarterdeck-Attempts": "7", "Retry-After": "9"}
        return web.Response(status=422, body=ECHO, headers=told | more)

    api, path = WAYS[way]
    async with (
        Servant(answer) as servant,
        Served([backend(servant.url, "gpt", api=api)], translated=long) as router,
    ):
        answered = await router.ask("gpt", path=path, stream=is_stream, **LIMIT)
        assert (answered.status_code, answered.content) == (422, ECHO)
        assert answered.headers["content-type"] == "application/problem+json"
        assert (answered.headers["x-should-retry"], answered.headers["retry-after"]) == ("false", "9")
        assert answered.headers.get_list("x-quarterdeck-attempts") == ["1"]
        assert len(answered.headers.get_list("x-request-id")) == 1
        assert "set-cookie" not in answered.headers
        assert router.calls[0].outcome is Outcome.REFUSED


@pytest.mark.parametrize("way", WAYS)
async def test_a_long_refusal_with_a_good_status_comes_whole_too(long: LiteLLMWay, way: str) -> None:
    refused = {"error": {"code": 400, "type": "invalid_request_error", "message": "x" * 100_000}}

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(refused, headers={"X-Should-Retry": "false"})

    api, path = WAYS[way]
    async with (
        Servant(answer) as servant,
        Served([backend(servant.url, "gpt", api=api)], translated=long) as router,
    ):
        answered = await router.ask("gpt", path=path, **LIMIT)
        assert (answered.status_code, answered.json()) == (400, refused)
        assert answered.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_without_words_keeps_the_providers_headers(long: LiteLLMWay, way: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=404, headers={"X-Should-Retry": "false"})

    api, path = WAYS[way]
    async with (
        Servant(answer) as servant,
        Served([backend(servant.url, "gpt", api=api)], translated=long) as router,
    ):
        answered = await router.ask("gpt", path=path, **LIMIT)
        assert (answered.status_code, answered.headers["x-should-retry"]) == (404, "false")
        assert "404" in answered.json()["error"]["message"]


async def test_a_refusal_without_end_is_told_in_our_own_words() -> None:
    """Half of it would be broken JSON."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=422, body=ECHO)

    short = OpenAIWay(steady.now, longest_answer=len(ECHO) - 1)
    async with Servant(answer) as servant, Served([backend(servant.url, "gpt")], short=short) as router:
        answered = await router.ask("gpt")
        assert answered.status_code == 422
        assert "422" in answered.json()["error"]["message"]
