"""What clients may ask of backends of other dialects: what passes, what is translated, what is refused."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from quarterdeck.router import steady
from quarterdeck.router.exchange import Answer, Outcome
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from quarterdeck.router.ways.openai_way import OpenAIWay
from tests.fakes.litellm_calls import (
    ASKED,
    CHAT,
    MESSAGES,
    RESPONSES,
    TOOL,
    attempt,
    counted,
    data,
    offering,
    opened,
    outcome,
    prepared,
    read,
    whole,
)
from tests.fakes.provider import FakeProvider


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with offering() as made:
        yield made


@pytest.fixture
async def way() -> AsyncIterator[LiteLLMWay]:
    async with prepared() as made:
        yield made


LONG_WAYS = [(CHAT, "anthropic-messages"), (MESSAGES, "anthropic-messages"), (RESPONSES, "openai-responses")]


@pytest.mark.parametrize(("path", "api"), LONG_WAYS)
async def test_letters_beyond_ascii_in_a_header_do_not_stop_a_call(
    provider: FakeProvider, way: LiteLLMWay, path: str, api: str
) -> None:
    body = {"messages": ASKED, "max_tokens": 50} if path == MESSAGES else {"input": "one two"}
    made = attempt(provider, api, path=path, **({} if path == CHAT else body))
    await whole(way, replace(made, headers={"user-agent": "B\xfcro-Bot/1.0", "x-request-id": "\xe9t\xe9"}))
    assert provider.to("native")[0].headers["user-agent"] == "B?ro-Bot/1.0"


@pytest.mark.parametrize(("path", "api"), LONG_WAYS)
async def test_a_header_that_none_may_send_is_the_clients_fault_not_the_backends(
    provider: FakeProvider, way: LiteLLMWay, path: str, api: str
) -> None:
    made = attempt(provider, api, path=path, input="one", max_tokens=50)
    short = OpenAIWay(steady.now)
    for sender in (way, short):
        failure = await outcome(sender, replace(made, headers={"user-agent": "a\0b"}))
        assert failure is not None and (failure.outcome, failure.status) == (Outcome.REFUSED, 400)
    await short.close()
    assert provider.requests == []


async def test_the_clients_body_is_not_changed_and_its_fields_arrive(
    provider: FakeProvider, way: LiteLLMWay
) -> None:
    made = attempt(provider, "openai", temperature=0.5, seed=7, tools=[TOOL], chat_template_kwargs={"x": 1})
    before = orjson.dumps(made.body)
    await whole(way, made)
    assert orjson.dumps(made.body) == before
    sent = provider.to("native")[0].body
    assert sent["temperature"] == 0.5 and sent["seed"] == 7 and sent["tools"] == [TOOL]
    assert sent["chat_template_kwargs"] == {"x": 1}


@pytest.mark.parametrize(
    "field",
    [
        *("api_base", "base_url", "api_key", "extra_headers", "custom_llm_provider", "mock_response"),
        *("vertex_credentials", "aws_bedrock_runtime_endpoint", "oci_key_file", "model_list", "num_retries"),
        *("proxy", "litellm_logging_obj", "success_callback_url", "prompt_id", "azure_ad_token", "fallbacks"),
    ],
)
async def test_a_client_cannot_steer_the_router(provider: FakeProvider, way: LiteLLMWay, field: str) -> None:
    made = attempt(provider, "openai")
    made = replace(made, body={**made.body, field: "http://elsewhere.invalid"})
    failure = await outcome(way, made)
    assert failure is not None
    assert (failure.outcome, failure.status) == (Outcome.REFUSED, 400)
    assert field in orjson.loads(failure.body)["error"]["message"]
    assert provider.requests == []


MALFORMED = [
    (CHAT, "anthropic-messages", {"messages": ["hi"]}),
    (CHAT, "google-generative-ai", {"messages": "hi"}),
    (CHAT, "groq", {"messages": ["hi"]}),
    (
        CHAT,
        "anthropic-messages",
        {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
    ),
    (CHAT, "anthropic-messages", {"tools": [{"type": "function"}]}),
    (RESPONSES, "openai-completions", {"input": 5}),
    (RESPONSES, "openai-completions", {}),
    (MESSAGES, "google-generative-ai", {"messages": ["hi"], "max_tokens": 5}),
]


@pytest.mark.parametrize(("path", "api", "body"), MALFORMED)
async def test_a_request_that_cannot_be_translated_is_the_clients_fault_not_the_backends(
    provider: FakeProvider, way: LiteLLMWay, path: str, api: str, body: dict[str, Any]
) -> None:
    failure = await outcome(way, attempt(provider, api, path=path, **body))
    assert failure is not None
    assert (failure.outcome, failure.status) == (Outcome.REFUSED, 400)
    message = orjson.loads(failure.body)["error"]["message"]
    assert message.startswith("This request cannot be translated for the provider: ")
    assert "Traceback" not in message and "litellm" not in message.lower()
    assert provider.requests == []


async def test_nothing_that_was_asked_for_is_dropped_unless_the_mapping_says_so(
    provider: FakeProvider, way: LiteLLMWay
) -> None:
    failure = await outcome(way, attempt(provider, frequency_penalty=1.5))
    assert failure is not None and (failure.outcome, failure.status) == (Outcome.REFUSED, 400)
    assert b"frequency_penalty" in failure.body
    await whole(way, attempt(provider, frequency_penalty=1.5, compat={"drop_params": True}))
    assert "frequency_penalty" not in provider.to("native")[0].body


async def test_fields_that_only_a_provider_knows_pass_when_the_mapping_names_them(
    provider: FakeProvider, way: LiteLLMWay
) -> None:
    failure = await outcome(way, attempt(provider, novel={"a": 1}))
    assert failure is not None and failure.outcome is Outcome.REFUSED
    assert provider.requests == []
    await whole(way, attempt(provider, novel={"a": 1}, compat={"fields": ["novel"]}))
    assert provider.to("native")[0].body["novel"] == {"a": 1}


BRIDGES = [
    (RESPONSES, api, {"input": "one two three four five six seven eight nine"}, b"response.completed")
    for api in ("anthropic-messages", "openai-responses", "openai-completions")
] + [
    (MESSAGES, api, {"messages": ASKED, "max_tokens": 50}, b"message_stop")
    for api in ("anthropic-messages", "openai-responses", "openai-completions")
]


@pytest.mark.parametrize(("path", "api", "body", "last"), BRIDGES)
async def test_responses_and_messages_are_served_by_every_dialect(
    provider: FakeProvider, way: LiteLLMWay, path: str, api: str, body: dict[str, Any], last: bytes
) -> None:
    answer = await whole(way, attempt(provider, api, path=path, **body))
    content = orjson.loads(answer.body)
    assert content["model"] == "canonical"
    assert content.get("object", content.get("type")) == ("response" if path == RESPONSES else "message")
    assert b"the ship is" in answer.body
    assert answer.usage == counted(provider.invoice.tokens("native"))


@pytest.mark.parametrize(("path", "api", "body", "last"), BRIDGES)
async def test_streams_of_responses_and_messages_end_in_their_own_way(
    provider: FakeProvider, way: LiteLLMWay, path: str, api: str, body: dict[str, Any], last: bytes
) -> None:
    stream = await opened(way, attempt(provider, api, path=path, is_stream=True, **body))
    events = await read(stream)
    assert events[-1].startswith(b"event: " + last)
    assert b"[DONE]" not in events[-1]
    assert stream.text() == "the ship is"
    assert stream.usage == counted(provider.invoice.tokens("native"))
    assert b'"native"' not in b"".join(events)


@pytest.mark.parametrize(("path", "api", "body", "last"), BRIDGES)
async def test_streams_of_responses_and_messages_that_end_early_are_cut(
    provider: FakeProvider, way: LiteLLMWay, path: str, api: str, body: dict[str, Any], last: bytes
) -> None:
    failure = await outcome(way, attempt(provider, api, "ends-early", path=path, is_stream=True, **body))
    assert failure is not None and failure.outcome is Outcome.CUT


@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_older_completions_become_chats(
    provider: FakeProvider, way: LiteLLMWay, is_stream: bool
) -> None:
    path = "/v1/completions"
    answer = await way.send(attempt(provider, path=path, is_stream=is_stream, prompt="one two"))
    if isinstance(answer, Answer):
        content = orjson.loads(answer.body)
        assert (content["object"], content["choices"][0]["text"]) == ("text_completion", "the ship is")
    else:
        chunks = [data(event) for event in (await read(answer))[:-1]]
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "the ship is"
    several = attempt(provider, path=path, prompt=["one", "two"])
    failure = await outcome(way, several)
    assert failure is not None and failure.outcome is Outcome.REFUSED
