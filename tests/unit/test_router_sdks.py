"""The official clients, with nothing but another base address: each reads all that the router says."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from quarterdeck.router import steady
from quarterdeck.router.backend import Usage
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from tests.fakes.later import Later
from tests.fakes.provider import FakeProvider
from tests.fakes.provider_invoice import prose
from tests.fakes.served_router import KEY as BACKENDS_KEY
from tests.fakes.served_router import Guest, MemoryClients, Served, backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import anthropic
    import openai
else:
    anthropic, openai = Later("anthropic"), Later("openai")

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:litellm\..*")

KEY = "qdk-the-key-of-a-guest-0001"
SAID = "".join(prose(12))
ASK = [{"role": "user", "content": "is the ship at sea"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
CALLED = {"city": "Hamburg", "days": 7}
LIMIT = {"max_tokens": 99}
DIRECT, LITELLM = "openai-completions", "anthropic-messages"


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(keys=[BACKENDS_KEY]) as running:
        yield running


@pytest.fixture(params=[DIRECT, LITELLM])
async def router(provider: FakeProvider, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """A backend for each model, by either way; some models fail."""
    natives = {"crew/gpt": "gpt-native", "refuses": "400", "breaks": "cut-after-tokens", "fails": "500"}
    base = f"{provider.url}/v1" if request.param == DIRECT else provider.url
    backends = [
        backend(base, model, name=native, native=native, api=request.param)
        for model, native in natives.items()
    ]
    guests = MemoryClients({KEY: Guest("cli_1", "guest", "analyst")})
    translated = LiteLLMWay(steady.now)
    async with Served(backends, clients=guests, translated=translated, emergency_rpm_fraction=0) as served:
        yield served
    await translated.close()


@pytest.fixture
async def gpt(router: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(router: Served) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=router.url, api_key=KEY, max_retries=0) as client:
        yield client


def asking(**more: Any) -> dict[str, Any]:
    return {"model": "crew/gpt", "messages": ASK} | more


def is_as_invoiced(router: Served, provider: FakeProvider) -> bool:
    """The ledger has what the provider charges for, and by whom it was caused."""
    tokens = provider.invoice.tokens("gpt-native")
    booked = [call for call in router.calls if call.model == "crew/gpt"]
    assert {(call.caller.client_id, call.caller.agent) for call in booked} == {("cli_1", "analyst")}
    used = [(call.usage.prompt, call.usage.completion, call.cost) for call in booked]
    charged = (tokens.prompt, tokens.completion, provider.invoice.picodollars("gpt-native"))
    return tuple(map(sum, zip(*used, strict=True))) == charged


# The openai SDK


async def test_openai_asks_plainly(gpt: openai.AsyncOpenAI, router: Served, provider: FakeProvider) -> None:
    raw = await gpt.chat.completions.with_raw_response.create(**asking())
    answer = raw.parse()
    assert (answer.model, answer.object) == ("crew/gpt", "chat.completion")
    assert answer.choices[0].message.content == SAID
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (12, 12)
    assert float(raw.headers["x-quarterdeck-overhead-ms"]) >= 0
    assert is_as_invoiced(router, provider)


@pytest.mark.parametrize("asked", [False, True])
async def test_openai_streams_and_sees_usage_only_when_it_asks(
    gpt: openai.AsyncOpenAI, router: Served, provider: FakeProvider, asked: bool
) -> None:
    options = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = [c async for c in await gpt.chat.completions.create(**asking(stream=True, **options))]
    assert {chunk.model for chunk in chunks} == {"crew/gpt"}
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == SAID
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    told = [(c.usage.prompt_tokens, c.usage.completion_tokens) for c in chunks if c.usage]
    assert told == ([(12, 12)] if asked else [])
    assert asked or all(chunk.choices for chunk in chunks)
    await router.until(lambda: bool(router.calls))
    assert is_as_invoiced(router, provider)


async def test_openai_calls_a_tool_and_brings_its_result(
    gpt: openai.AsyncOpenAI, router: Served, provider: FakeProvider
) -> None:
    first = await gpt.chat.completions.create(**asking(tools=[TOOL], **LIMIT))
    message = first.choices[0].message
    [call] = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", CALLED)
    assert first.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "fair wind"}
    told = [*ASK, message.model_dump(exclude_none=True), result]
    second = await gpt.chat.completions.create(**asking(messages=told, tools=[TOOL], **LIMIT))
    assert second.choices[0].message.content == SAID
    assert is_as_invoiced(router, provider)


async def test_openai_streams_a_tool_call(gpt: openai.AsyncOpenAI) -> None:
    stream = await gpt.chat.completions.create(**asking(tools=[TOOL], stream=True, **LIMIT))
    deltas = [c.choices[0].delta async for c in stream if c.choices]
    parts = [call.function for delta in deltas for call in delta.tool_calls or ()]
    assert [part.name for part in parts if part.name] == ["weather"]
    assert json.loads("".join(part.arguments or "" for part in parts)) == CALLED


async def test_openai_asks_without_a_loop(router: Served, provider: FakeProvider) -> None:
    def asked() -> tuple[str | None, str, str]:
        with openai.OpenAI(base_url=f"{router.url}/v1", api_key=KEY, max_retries=0) as client:
            plain = client.chat.completions.create(**asking()).choices[0].message.content
            with client.chat.completions.create(**asking(stream=True)) as stream:
                streamed = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
            called = client.chat.completions.create(**asking(tools=[TOOL], **LIMIT))
            return plain, streamed, called.choices[0].message.tool_calls[0].function.name

    assert await asyncio.to_thread(asked) == (SAID, SAID, "weather")
    await router.until(lambda: len(router.calls) == 3)
    assert is_as_invoiced(router, provider)


async def test_openai_lists_the_models_by_our_names(gpt: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in gpt.models.list()] == ["breaks", "crew/gpt", "fails", "refuses"]
    assert (await gpt.models.retrieve("crew/gpt")).id == "crew/gpt"


async def test_openai_asks_for_responses(
    gpt: openai.AsyncOpenAI, router: Served, provider: FakeProvider
) -> None:
    plain = await gpt.responses.create(model="crew/gpt", input="is the ship at sea")
    assert (plain.output_text, plain.model) == (SAID, "crew/gpt")
    async with gpt.responses.stream(model="crew/gpt", input="is the ship at sea") as stream:
        kinds = [event.type async for event in stream]
        whole = await stream.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert (whole.output_text, whole.usage.output_tokens) == (SAID, 12)
    await router.until(lambda: len(router.calls) == 2)
    assert is_as_invoiced(router, provider)


async def test_openai_raises_its_own_errors(gpt: openai.AsyncOpenAI, router: Served) -> None:
    async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="qdk-no", max_retries=3) as stranger:
        with pytest.raises(openai.AuthenticationError, match="not valid here"):
            await stranger.chat.completions.create(**asking())
    with pytest.raises(openai.NotFoundError, match="no model 'nobody'"):
        await gpt.chat.completions.create(**asking(model="nobody"))
    with pytest.raises(openai.BadRequestError, match="Invalid value for 'temperature'"):
        await gpt.chat.completions.create(**asking(model="refuses"))
    with pytest.raises(openai.InternalServerError, match="No backend for the model fails") as caught:
        await gpt.chat.completions.create(**asking(model="fails"))
    assert caught.value.status_code == 503
    assert caught.value.body["type"] == "AllPoolsExhausted"
    assert int(caught.value.response.headers["retry-after"]) > 0


async def test_openai_learns_that_a_stream_broke(gpt: openai.AsyncOpenAI, router: Served) -> None:
    stream = await gpt.chat.completions.create(**asking(model="breaks", stream=True))
    heard = ""
    with pytest.raises(openai.APIError, match="broke off"):
        async for chunk in stream:
            heard += chunk.choices[0].delta.content or ""
    assert heard == "".join(prose(3))
    await router.until(lambda: bool(router.calls))
    assert router.calls[0].outcome is Outcome.CUT


async def test_openai_may_leave_in_the_middle(
    gpt: openai.AsyncOpenAI, router: Served, provider: FakeProvider
) -> None:
    provider.hold("gpt-native", after=5)
    stream = await gpt.chat.completions.create(**asking(stream=True))
    heard = ""
    async for chunk in stream:
        heard += chunk.choices[0].delta.content or ""
        if heard == "".join(prose(5)):
            break
    await stream.close()
    await provider.until(lambda: provider.requests[0].over.is_set())
    await router.until(lambda: bool(router.calls))
    assert router.calls[0].outcome is Outcome.ABORTED
    assert router.calls[0].usage == Usage(12, 5, 17, is_estimate=True)
    assert is_as_invoiced(router, provider)


# The anthropic SDK


async def test_anthropic_asks_plainly_and_in_a_stream(
    claude: anthropic.AsyncAnthropic, router: Served, provider: FakeProvider
) -> None:
    plain = await claude.messages.create(**asking(**LIMIT))
    assert (plain.content[0].text, plain.model, plain.stop_reason) == (SAID, "crew/gpt", "end_turn")
    assert (plain.usage.input_tokens, plain.usage.output_tokens) == (12, 12)
    async with claude.messages.stream(**asking(**LIMIT)) as stream:
        kinds = [event.type async for event in stream]
        whole = await stream.get_final_message()
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert (whole.content[0].text, whole.model, whole.usage.output_tokens) == (SAID, "crew/gpt", 12)
    await router.until(lambda: len(router.calls) == 2)
    assert is_as_invoiced(router, provider)


async def test_anthropic_calls_a_tool_and_brings_its_result(claude: anthropic.AsyncAnthropic) -> None:
    tool = {"name": "weather", "input_schema": SCHEMA}
    first = await claude.messages.create(**asking(tools=[tool], **LIMIT))
    [call] = [block for block in first.content if block.type == "tool_use"]
    assert (call.name, call.input, first.stop_reason) == ("weather", CALLED, "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "fair wind"}
    said = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}
    told = [*ASK, {"role": "assistant", "content": [said]}, {"role": "user", "content": [result]}]
    second = await claude.messages.create(**asking(messages=told, tools=[tool], **LIMIT))
    assert second.content[0].text == SAID
    async with claude.messages.stream(**asking(tools=[tool], **LIMIT)) as stream:
        whole = await stream.get_final_message()
    assert [block.input for block in whole.content if block.type == "tool_use"] == [CALLED]


async def test_anthropic_raises_its_own_errors(claude: anthropic.AsyncAnthropic, router: Served) -> None:
    async with anthropic.AsyncAnthropic(base_url=router.url, api_key="qdk-no", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError, match="not valid here"):
            await stranger.messages.create(**asking(**LIMIT))
    with pytest.raises(anthropic.NotFoundError, match="no model 'nobody'"):
        await claude.messages.create(**asking(model="nobody", **LIMIT))
    with pytest.raises(anthropic.BadRequestError, match="Invalid value for 'temperature'"):
        await claude.messages.create(**asking(model="refuses", **LIMIT))
    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        async with claude.messages.stream(**asking(model="breaks", **LIMIT)) as stream:
            await stream.until_done()


# The litellm client

SCRIPT = """
import asyncio, json, sys
import litellm
from litellm import acompletion, completion

ask, tool = json.loads(sys.argv[3]), json.loads(sys.argv[4])
common = dict(model="openai/crew/gpt", api_base=sys.argv[1], api_key=sys.argv[2], messages=ask, num_retries=0)
plain = completion(**common)
streamed = "".join(c.choices[0].delta.content or "" for c in completion(stream=True, **common))
# its own lookup of MCP tools needs a package that it does not bring
called = completion(tools=[tool], max_tokens=99, _skip_mcp_handler=True, **common)
waited = asyncio.run(acompletion(**common))
try:
    completion(**common | {"api_key": "qdk-no"})
    refused = ""
except litellm.AuthenticationError as error:
    refused = type(error).__name__
print(json.dumps({
    "plain": plain.choices[0].message.content,
    "tokens": [plain.usage.prompt_tokens, plain.usage.completion_tokens],
    "streamed": streamed,
    "called": json.loads(called.choices[0].message.tool_calls[0].function.arguments),
    "waited": waited.choices[0].message.content,
    "refused": refused,
}))
"""


@pytest.mark.parametrize("router", [DIRECT], indirect=True)
async def test_litellm_asks_in_all_ways(
    router: Served, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    arguments = [f"{router.url}/v1", KEY, json.dumps(ASK), json.dumps(TOOL)]
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await client.communicate()
    assert json.loads(out.splitlines()[-1]) == {
        "plain": SAID,
        "tokens": [12, 12],
        "streamed": SAID,
        "called": CALLED,
        "waited": SAID,
        "refused": "AuthenticationError",
    }
    await router.until(lambda: len(router.calls) == 4)
    assert is_as_invoiced(router, provider)
