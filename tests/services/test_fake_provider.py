"""The fake provider answers as providers do: the official SDKs read it, and its faults are what they say."""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from quarterdeck.kernel.http import trusted
from tests.fakes.later import Later
from tests.fakes.provider import FAULTS, MODELS, OK, FakeProvider, Prices, Tokens
from tests.fakes.provider_faults import K, tomorrow
from tests.fakes.provider_invoice import WORDS, prose

anthropic, openai = Later("anthropic"), Later("openai")
KEY = "sk-fake-0123456789abcdef"
ASK = [{"role": "user", "content": "is the ship at sea"}]
PROMPT = 3 + 4 + 5
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}


@pytest.fixture
async def provider():
    async with FakeProvider(keys={KEY}) as running:
        yield running


@pytest.fixture
async def client(provider):
    async with openai.AsyncOpenAI(base_url=f"{provider.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
async def claude(provider):
    async with anthropic.AsyncAnthropic(base_url=provider.url, api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
async def http(provider):
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        base_url=provider.url, headers=headers, timeout=10, verify=trusted()
    ) as made:
        yield made


def ask(model, **more):
    return {"model": model, "messages": ASK, **more}


async def test_a_chat_is_answered_and_charged(client, provider):
    answer = await client.chat.completions.create(**ask("m"))
    assert isinstance(answer, openai.types.chat.ChatCompletion)
    assert answer.choices[0].message.content == "".join(prose(12))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (PROMPT, 12)
    assert provider.invoice.tokens("m") == Tokens(PROMPT, 12)
    [request] = provider.requests
    assert (request.method, request.path, request.key, request.model) == (
        "POST",
        "/v1/chat/completions",
        KEY,
        "m",
    )
    assert request.over.is_set()


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_tells_its_usage_to_those_who_ask(client, provider, asked):
    options = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = [c async for c in await client.chat.completions.create(**ask("m", stream=True), **options)]
    assert all(isinstance(chunk, openai.types.chat.ChatCompletionChunk) for chunk in chunks)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "".join(prose(12))
    told = [chunk.usage for chunk in chunks if chunk.usage]
    assert [(u.prompt_tokens, u.completion_tokens) for u in told] == ([(PROMPT, 12)] if asked else [])
    assert provider.invoice.tokens("m") == Tokens(PROMPT, 12)


async def test_cached_tokens_have_their_own_price(client, claude, provider):
    prices = Prices(Decimal("3e-6"), Decimal("15e-6"), Decimal("3e-7"), Decimal("3.75e-6"))
    provider.offer("m", prices=prices, completion=10, cached_read=4, cached_write=2)
    answer = await client.chat.completions.create(**ask("m"))
    details = answer.usage.prompt_tokens_details
    assert (details.cached_tokens, details.cache_write_tokens) == (4, 2)
    cost = 6 * Decimal("3e-6") + 10 * Decimal("15e-6") + 4 * Decimal("3e-7") + 2 * Decimal("3.75e-6")
    assert provider.invoice.dollars("m") == cost
    assert provider.invoice.picodollars("m") == 176_700_000
    message = await claude.messages.create(max_tokens=99, **ask("m"))
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (6, 4, 2)
    assert provider.invoice.dollars() == 2 * cost


async def test_a_tool_is_called_and_its_result_answered(client):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
    answer = await client.chat.completions.create(**ask("m", tools=tools))
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Hamburg", "days": 7}
    assert answer.choices[0].finish_reason == "tool_calls"
    result = [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "fair wind"}]
    more = await client.chat.completions.create(model="m", messages=[*ASK, *result], tools=tools)
    assert more.choices[0].message.content
    chunks = [c async for c in await client.chat.completions.create(**ask("m", tools=tools, stream=True))]
    calls = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
    assert (calls[0].id, calls[0].function.name) == (f"call_{chunks[0].id[9:]}", "weather")
    assert "".join(called.function.arguments for called in calls) == call.function.arguments


async def test_a_model_chooses_its_tool_by_what_it_is_told_and_talks_once_it_has_the_result(client, provider):
    def chosen(body):
        return ("exec", {"command": "date"}) if "time" in body["messages"][0]["content"] else None

    provider.offer("m", calls=chosen, text="NO_REPLY")
    asked = {"role": "user", "content": "what time is it"}
    answer = await client.chat.completions.create(model="m", messages=[asked])
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("exec", {"command": "date"})
    result = [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "noon"}]
    for messages in ([asked, *result], ASK):
        said = (await client.chat.completions.create(model="m", messages=messages)).choices[0].message
        assert (said.content, said.tool_calls) == ("NO_REPLY", None)


async def test_an_answer_stops_at_the_limit(client, claude):
    answer = await client.chat.completions.create(**ask("m", max_tokens=4))
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (4, "length")
    message = await claude.messages.create(**ask("m", max_tokens=4))
    assert (message.usage.output_tokens, message.stop_reason) == (4, "max_tokens")
    response = await client.responses.create(model="m", input="is the ship", max_output_tokens=4)
    assert (response.usage.output_tokens, response.status) == (4, "incomplete")


async def test_completions_embeddings_and_models_are_served(client, provider):
    provider.offer("m")
    text = await client.completions.create(model="m", prompt="is the ship")
    assert (text.choices[0].text, text.usage.prompt_tokens) == ("".join(prose(12)), 3)
    parts = [c async for c in await client.completions.create(model="m", prompt="is", stream=True)]
    assert "".join(c.choices[0].text for c in parts) == "".join(prose(12))
    vectors = await client.embeddings.create(model="m", input=["is", "the ship"])
    assert isinstance(vectors, openai.types.CreateEmbeddingResponse)
    assert [v.embedding for v in vectors.data] == [[0.5, -0.25, 0.0], [0.5, -0.25, 1.0]]
    assert (vectors.usage.prompt_tokens, vectors.usage.total_tokens) == (3, 3)
    assert [model.id async for model in client.models.list()] == ["m"]


async def test_responses_are_served_plain_and_streamed(client, provider):
    plain = await client.responses.create(model="m", input="is the ship")
    assert plain.output_text == "".join(prose(12))
    assert (plain.usage.input_tokens, plain.usage.output_tokens) == (3, 12)
    async with client.responses.stream(model="m", input="is the ship") as stream:
        events = [event async for event in stream]
        whole = await stream.get_final_response()
    assert [e.sequence_number for e in events] == sorted(e.sequence_number for e in events)
    assert (whole.output_text, whole.usage.output_tokens) == (plain.output_text, 12)
    tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}
    async with client.responses.stream(model="m", input="is the ship", tools=[tool]) as stream:
        called = (await stream.get_final_response()).output[0]
    assert json.loads(called.arguments) == {"city": "Hamburg", "days": 7}


async def test_messages_are_served_plain_and_streamed(claude, provider):
    plain = await claude.messages.create(max_tokens=99, system="at sea", **ask("m"))
    assert isinstance(plain, anthropic.types.Message)
    assert plain.content[0].text == "".join(prose(12))
    assert (plain.usage.input_tokens, plain.usage.output_tokens) == (PROMPT + 6, 12)
    async with claude.messages.stream(max_tokens=99, **ask("m")) as stream:
        kinds = [event.type async for event in stream]
        whole = await stream.get_final_message()
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert (whole.content[0].text, whole.usage.output_tokens) == (plain.content[0].text, 12)
    tool = {"name": "weather", "input_schema": WEATHER}
    called = await claude.messages.create(max_tokens=99, tools=[tool], **ask("m"))
    assert (called.content[0].input, called.stop_reason) == ({"city": "Hamburg", "days": 7}, "tool_use")
    async with claude.messages.stream(max_tokens=99, tools=[tool], **ask("m")) as stream:
        assert (await stream.get_final_message()).content[0].input == {"city": "Hamburg", "days": 7}
    assert [model.id async for model in claude.models.list()] == []


async def test_a_key_may_come_in_either_header(provider):
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    async with httpx.AsyncClient(base_url=provider.url, headers=headers, verify=trusted()) as http:
        assert (await http.post("/v1/messages", json=ask("m", max_tokens=9))).status_code == 200
        assert (
            await http.post("/v1/messages", json=ask("m"), headers={"x-api-key": "no"})
        ).status_code == 401
    assert [request.key for request in provider.requests] == [KEY, "no"]


@pytest.mark.parametrize("prefix", ["", "/v1", "/api/paas/v4"])
async def test_any_prefix_and_query_are_served_and_noted(http, provider, prefix):
    answer = await http.post(f"{prefix}/chat/completions?api-version=7", json=ask("m"))
    assert answer.status_code == 200
    assert (provider.requests[0].path, provider.requests[0].query) == (
        f"{prefix}/chat/completions",
        "api-version=7",
    )


async def test_other_addresses_are_unknown_and_a_body_needs_a_model(http):
    assert (await http.post("/v1/sail")).status_code == 404
    assert (await http.get("/v1/chat/completions")).status_code == 404
    assert (await http.post("/v1/chat/completions", content=b"{")).status_code == 400


async def test_connections_are_kept(http, provider):
    async def asked():
        return (await http.post("/v1/chat/completions", json=ask("m"))).extensions["network_stream"]

    first, second = await asked(), await asked()
    port = "client_addr"
    assert first.get_extra_info(port) == second.get_extra_info(port)


async def test_a_wrong_key_is_refused_and_not_charged(provider):
    async with openai.AsyncOpenAI(base_url=provider.url, api_key="sk-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(**ask("m"))
    async with anthropic.AsyncAnthropic(base_url=provider.url, api_key="sk-wrong", max_retries=0) as claude:
        with pytest.raises(anthropic.AuthenticationError):
            await claude.messages.create(max_tokens=9, **ask("m"))
    assert provider.invoice.tokens() == Tokens()


async def test_a_script_is_followed_and_then_the_name_decides(http, provider):
    provider.script("500", [FAULTS["429"], OK])
    provider.script(MODELS, ["401"])
    codes = [(await http.post("/v1/chat/completions", json=ask("500"))).status_code for _ in range(3)]
    assert codes == [429, 200, 500]
    assert [(await http.get("/v1/models")).status_code for _ in range(2)] == [401, 200]


async def test_names_of_one_fault_can_be_told_apart(http, provider):
    assert (await http.post("/v1/chat/completions", json=ask("500@one"))).status_code == 500
    assert (await http.post("/v1/chat/completions", json=ask("ok@two"))).status_code == 200
    assert provider.invoice.tokens("ok@two") == Tokens(PROMPT, 12)
    assert [request.model for request in provider.to("500@one")] == ["500@one"]


async def test_an_answer_is_held_until_it_is_released(http, provider):
    release = provider.hold("m")
    waiting = asyncio.create_task(http.post("/v1/chat/completions", json=ask("m")))
    await provider.until(lambda: bool(provider.to("m")))
    assert not waiting.done() and provider.invoice.tokens("m") == Tokens()
    release.set()
    assert (await waiting).status_code == 200


async def test_a_held_stream_is_charged_for_what_was_sent_when_the_client_leaves(http, provider):
    provider.hold("m", after=5)
    async with http.stream("POST", "/v1/chat/completions", json=ask("m", stream=True)) as answer:
        seen = b""
        async for part in answer.aiter_bytes():
            seen += part
            if seen.count(b'"content":') == 6:
                break
    await provider.until(lambda: provider.requests[0].over.is_set())
    assert provider.invoice.tokens("m") == Tokens(PROMPT, 5)


# The faults

REFUSALS = {name: int(name[:3]) for name in FAULTS if name[:3].isdigit()}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_are_json_in_the_dialect_that_was_spoken(http, provider, name, stream):
    answer = await http.post("/v1/chat/completions", json=ask(name, stream=stream))
    assert answer.status_code == REFUSALS[name]
    assert {"message", "type", "param", "code"} == set(answer.json()["error"])
    answer = await http.post("/v1/messages", json=ask(name, stream=stream))
    assert answer.status_code == REFUSALS[name]
    assert (answer.json()["type"], set(answer.json()["error"])) == ("error", {"type", "message"})
    assert provider.invoice.tokens() == Tokens()


async def test_what_a_429_says_of_the_time(http):
    async def said(name):
        return await http.post("/v1/chat/completions", json=ask(name))

    assert "retry-after" not in (await said("429")).headers
    assert (await said("429-seconds")).headers["retry-after"] == "7"
    before = datetime.now(UTC)
    date = parsedate_to_datetime((await said("429-date")).headers["retry-after"])  # to the second
    assert before + timedelta(seconds=6) < date <= datetime.now(UTC) + timedelta(seconds=7)
    absurd = [(await said(name)).headers["retry-after"] for name in ("429-huge", "429-negative", "429-text")]
    assert absurd == ["1000000000", "-5", "soon"]
    assert f"{tomorrow():%Y-%m-%d}" in (await said("429-quota")).json()["error"]["message"]
    assert (await said("429-account")).json()["error"]["code"] == "insufficient_quota"


async def tell(http, name, dialect="/v1/chat/completions"):
    """What a stream brings until it ends or breaks: its lines, and the kind of break."""
    lines = []
    body = ask(name, stream=True, stream_options={"include_usage": True})
    try:
        async with http.stream("POST", dialect, json=body, timeout=httpx.Timeout(5, read=0.5)) as answer:
            async for line in answer.aiter_lines():
                lines += [line] if line.startswith("data:") else []
    except httpx.HTTPError as error:
        return lines, type(error)
    return lines, None


def tokens_of(lines):
    good = [json.loads(line[5:]) for line in lines if line.endswith("}")]
    contents = [d["choices"][0]["delta"].get("content") for d in good if d.get("choices")]
    return [content for content in contents if content]


@pytest.mark.parametrize(
    ("name", "tokens", "broken"),
    [
        ("reset", 0, httpx.ReadError),
        ("hang", 0, httpx.ReadTimeout),
        ("cut-before-tokens", 0, (httpx.ReadError, httpx.RemoteProtocolError)),
        ("cut-after-tokens", K, (httpx.ReadError, httpx.RemoteProtocolError)),
        ("cut-after-headers", 0, (httpx.ReadError, httpx.RemoteProtocolError)),
        ("stall-after-headers", 0, httpx.ReadTimeout),
        ("stall-before-tokens", 0, httpx.ReadTimeout),
        ("stall-after-tokens", K, httpx.ReadTimeout),
    ],
)
async def test_streams_break_where_they_are_told_to(http, provider, name, tokens, broken):
    lines, error = await tell(http, name)
    assert issubclass(error, broken)
    assert bool(lines) is name.endswith("-tokens")
    assert tokens_of(lines) == list(prose(tokens))
    await provider.until(lambda: provider.requests[0].over.is_set())
    assert provider.invoice.tokens(name) == (Tokens(PROMPT, tokens) if lines else Tokens())


async def test_a_stream_that_ends_early_has_neither_a_finish_nor_an_end(http, provider):
    lines, error = await tell(http, "ends-early")
    assert error is None and tokens_of(lines) == list(prose(K))
    assert "data: [DONE]" not in lines
    assert not any('"finish_reason":"stop"' in line for line in lines)
    assert provider.invoice.tokens("ends-early") == Tokens(PROMPT, K)


@pytest.mark.parametrize("name", ["reset", "hang", "cut-after-tokens", "stall-after-tokens", "ends-early"])
async def test_plain_answers_break_too(http, name):
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout)):
        await http.post("/v1/chat/completions", json=ask(name), timeout=httpx.Timeout(5, read=0.5))


async def test_small_oddities_of_a_stream(http, provider):
    told = {name: await tell(http, name) for name in FAULTS if FAULTS[name].door == "http"}
    whole = list(prose(12))
    assert [error for name, (_, error) in told.items() if name in ODD and error] == []
    lines = {name: told[name][0] for name in ODD}
    assert lines["ok"][-1] == lines["malformed"][-1] == "data: [DONE]"
    assert len(lines["malformed"]) == len(lines["ok"]) + 1 and tokens_of(lines["malformed"]) == whole
    assert lines["no-done"] == [line for line in relabelled(lines, "no-done") if line != "data: [DONE]"]
    assert '"finish_reason":"stop"' in lines["usage-inline"][-2] and '"usage":{' in lines["usage-inline"][-2]
    assert not any('"usage":' in line for line in lines["usage-absent"])
    assert '"choices":[],"usage":null' in lines["usage-null"][-2]
    assert len(lines["duplicate-chunk"]) - len(set(lines["duplicate-chunk"])) == 1
    assert max(map(len, lines["huge-line"])) > 1_000_000
    assert lines["gzip"] == relabelled(lines, "gzip")
    assert lines["slow-headers"] == relabelled(lines, "slow-headers")
    assert len(lines["error-event-first"]) == 1 and '"error"' in lines["error-event-first"][0]
    assert tokens_of(lines["error-event-later"]) == whole[:K]
    assert '"error"' in lines["error-event-later"][-1]
    assert lines["html"] == lines["empty"] == []
    free = {"error-event-first", "html", "empty"}
    cost = {name: provider.invoice.tokens(name) for name in ODD if name != "error-event-later"}
    assert cost == {name: Tokens() if name in free else Tokens(PROMPT, 12) for name in cost}


ODD = [
    *("ok", "malformed", "no-done", "usage-inline", "usage-absent", "usage-null", "duplicate-chunk", "html"),
    *("huge-line", "gzip", "slow-headers", "error-event-first", "error-event-later", "empty"),
]


def relabelled(lines, name):
    """A good stream under another name of the model and another number."""
    number = json.loads(lines[name][0][5:])["id"]
    good = json.loads(lines["ok"][0][5:])["id"]
    return [
        line.replace(f'"{good}"', f'"{number}"').replace('"model":"ok"', f'"model":"{name}"')
        for line in lines["ok"]
    ]


async def test_small_oddities_of_a_plain_answer(http):
    said = {
        name: await http.post("/v1/chat/completions", json=ask(name)) for name in ODD if name != "no-done"
    }
    assert {answer.status_code for answer in said.values()} == {200}
    assert "usage" not in said["usage-absent"].json()
    assert said["usage-null"].json()["usage"] is None
    assert said["gzip"].headers["content-encoding"] == "gzip"
    assert said["gzip"].json()["usage"] == said["ok"].json()["usage"]
    assert said["slow-headers"].json()["choices"] == said["ok"].json()["choices"]
    assert said["html"].headers["content-type"].startswith("text/html")
    assert said["empty"].content == b""
    assert "error" in said["error-event-first"].json()
    with pytest.raises(ValueError):
        said["malformed"].json()


@pytest.mark.parametrize("name", ["error-event-first", "error-event-later"])
async def test_the_anthropic_sdk_meets_an_error_in_a_stream(claude, name):
    with pytest.raises(anthropic.APIStatusError, match="overloaded"):
        async with claude.messages.stream(max_tokens=99, **ask(name)) as stream:
            await stream.until_done()


async def test_doors_that_cannot_be_passed(provider):
    async with httpx.AsyncClient() as http:
        for name, reason in [("tls-to-plain", ssl.SSLError), ("tls-self-signed", ssl.SSLError)]:
            with pytest.raises(httpx.ConnectError) as caught:
                await http.post(f"{provider.base(name)}/v1/chat/completions", json=ask(name))
            assert issubclass(root(caught.value), reason)
        with pytest.raises(httpx.ConnectError) as caught:
            await http.post(f"{provider.base('dns')}/v1/chat/completions", json=ask("dns"))
        assert issubclass(root(caught.value), socket.gaierror)
    assert provider.requests == []


def root(error):
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return type(error)


def test_its_words_are_single_tokens_for_real_tokenizers():
    folder = Path(find_spec("litellm").origin).parent / "litellm_core_utils" / "tokenizers"
    count = "import sys, tiktoken; print(len(tiktoken.get_encoding('cl100k_base').encode(sys.argv[1])))"
    said = subprocess.run(
        [sys.executable, "-c", count, "".join(prose(3 * len(WORDS)))],
        env={**os.environ, "TIKTOKEN_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(said.stdout) == 3 * len(WORDS)


def test_it_runs_alone():
    command = [sys.executable, "-m", "tests.fakes.provider"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as alone:
        url = alone.stdout.readline().strip()
        answer = httpx.post(f"{url}/v1/chat/completions", json=ask("m"), timeout=30)
        assert answer.status_code == 200
        alone.terminate()
