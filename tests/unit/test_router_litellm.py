"""Backends of other dialects: the same answers, failures and tokens as on the short way, through LiteLLM."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest

from quarterdeck.router import steady
from quarterdeck.router.exchange import Answer, Failure, Outcome
from quarterdeck.router.ways.litellm_answer import tokens_of
from quarterdeck.router.ways.litellm_way import LiteLLMWay, _library
from quarterdeck.router.ways.openai_way import OpenAIWay
from tests.fakes.litellm_calls import (
    CHAT,
    DIALECTS,
    KEY,
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
from tests.fakes.provider import FAULTS, FakeProvider


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with offering() as made:
        yield made


@pytest.fixture
async def way() -> AsyncIterator[LiteLLMWay]:
    async with prepared() as made:
        yield made


@pytest.mark.parametrize("api", DIALECTS)
async def test_a_whole_answer_has_our_name_and_the_tokens_of_the_invoice(
    provider: FakeProvider, way: LiteLLMWay, api: str
) -> None:
    answer = await whole(way, attempt(provider, api))
    content = orjson.loads(answer.body)
    assert (answer.status, content["model"]) == (200, "canonical")
    assert content["choices"][0]["message"]["content"] == "the ship is"
    assert answer.usage == counted(provider.invoice.tokens("native"))
    assert answer.usage is not None and (answer.usage.cache_read, answer.usage.cache_write) == (5, 2)


@pytest.mark.parametrize("api", DIALECTS)
async def test_a_stream_has_our_name_the_tokens_of_the_invoice_and_an_end(
    provider: FakeProvider, way: LiteLLMWay, api: str
) -> None:
    stream = await opened(way, attempt(provider, api, is_stream=True))
    *events, end = await read(stream)
    assert end == b"data: [DONE]"
    chunks = [data(event) for event in events]
    assert {chunk["model"] for chunk in chunks} == {"canonical"}
    said = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert "".join(said) == stream.text() == "the ship is"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert stream.usage == counted(provider.invoice.tokens("native"))
    assert stream.first_content_at is not None


@pytest.mark.parametrize("api", DIALECTS)
async def test_a_stream_reports_tokens_to_those_who_asked(
    provider: FakeProvider, way: LiteLLMWay, api: str
) -> None:
    stream = await opened(way, attempt(provider, api, is_stream=True, wants_usage=True))
    *_, report, _end = await read(stream)
    told = data(report)
    assert told["choices"] == []
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (16, 3)


@pytest.mark.parametrize("api", DIALECTS)
@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
async def test_the_provider_gets_its_own_name_of_the_model_at_its_own_address(
    provider: FakeProvider, way: LiteLLMWay, api: str, ending: str
) -> None:
    await whole(way, attempt(provider, api, base=provider.url + ending))
    (request,) = provider.to("native")
    assert request.path == ("/v1/messages" if api == "anthropic-messages" else "/v1/chat/completions")
    assert request.key == KEY


@pytest.mark.parametrize("api", DIALECTS)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_tools_are_called(provider: FakeProvider, way: LiteLLMWay, api: str, is_stream: bool) -> None:
    made = attempt(provider, api, is_stream=is_stream, tools=[TOOL])
    if is_stream:
        stream = await opened(way, made)
        chunks = [data(event)["choices"][0] for event in (await read(stream))[:-1]]
        calls = [call for chunk in chunks for call in chunk["delta"].get("tool_calls") or ()]
        arguments = "".join(call["function"].get("arguments") or "" for call in calls)
        assert chunks[-1]["finish_reason"] == "tool_calls"
        assert "Hamburg" in stream.text()
    else:
        message = orjson.loads((await whole(way, made)).body)["choices"][0]["message"]
        arguments = message["tool_calls"][0]["function"]["arguments"]
    assert orjson.loads(arguments) == {"city": "Hamburg"}


SAME = [
    name
    for name in FAULTS
    if name not in ("ok", "duplicate-chunk", "huge-line", "gzip", "no-done", "slow-headers")
    and not name.startswith("usage-")
]
GOOD = ("duplicate-chunk", "huge-line", "gzip", "no-done", "slow-headers", "usage-inline", "usage-apart")


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("api", DIALECTS)
@pytest.mark.parametrize("fault", SAME)
async def test_a_fault_means_the_same_on_both_ways_and_is_met_once(
    provider: FakeProvider, way: LiteLLMWay, fault: str, api: str, is_stream: bool
) -> None:
    base = provider.base(fault) + "/v1"
    made = attempt(provider, api, fault, base=base, is_stream=is_stream)
    short = OpenAIWay(steady.now)
    theirs = await outcome(short, replace(made, backend=replace(made.backend, api="openai-completions")))
    await short.close()
    calls = len(provider.requests)
    ours = await outcome(way, made)
    assert len(provider.requests) - calls == calls
    if theirs is None or ours is None:
        assert theirs is ours
        return
    assert ours.outcome is theirs.outcome
    assert ours.status == theirs.status
    assert ours.body[:1] == theirs.body[:1] or is_stream
    assert _headers(ours).get("retry-after") == _headers(theirs).get("retry-after") or "date" in fault


def _headers(failure: Failure) -> dict[str, str]:
    return {name.lower(): value for name, value in failure.headers.items()}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("api", DIALECTS)
@pytest.mark.parametrize("quirk", GOOD)
async def test_a_quirk_is_no_failure(
    provider: FakeProvider, way: LiteLLMWay, quirk: str, api: str, is_stream: bool
) -> None:
    answer = await way.send(attempt(provider, api, quirk, is_stream=is_stream))
    if not isinstance(answer, Answer):
        assert (await read(answer))[-1] == b"data: [DONE]"
    assert answer.usage == counted(provider.invoice.tokens(quirk))


@pytest.mark.parametrize(("total", "completion"), [(14428, 4308), (11619, 1499), (14429, 1499)])
def test_reasoning_counts_once_wherever_it_is_told(total: int, completion: int) -> None:
    """Beside the answer's tokens, when only the total has both, or as a part of them."""
    thought, known = {"reasoning_tokens": 2809}, (10120, 1499, total)
    chat = dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), known, strict=True))
    response = dict(zip(("input_tokens", "output_tokens", "total_tokens"), known, strict=True))
    told = tokens_of(chat | {"completion_tokens_details": thought}, CHAT)
    other = tokens_of(response | {"output_tokens_details": thought}, RESPONSES)
    assert told is not None and other is not None
    assert told.completion == other.completion == completion


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("api", DIALECTS)
@pytest.mark.parametrize("quirk", ["usage-absent", "usage-null"])
async def test_tokens_that_nobody_told_are_not_invented_but_the_text_is_kept(
    provider: FakeProvider, way: LiteLLMWay, quirk: str, api: str, is_stream: bool
) -> None:
    answer = await way.send(attempt(provider, api, quirk, is_stream=is_stream, wants_usage=True))
    if isinstance(answer, Answer):
        assert b"usage" not in answer.body
        said = answer.said
    else:
        assert not any(b'"usage"' in event for event in await read(answer))
        said = answer.text()
    assert answer.usage is None
    assert said.startswith("the ship is at sea")


async def test_a_stream_that_broke_off_says_which_tokens_are_known(
    provider: FakeProvider, way: LiteLLMWay
) -> None:
    stream = await opened(way, attempt(provider, native="cut-after-tokens", is_stream=True))
    with pytest.raises(Failure) as broken:
        await read(stream)
    assert broken.value.outcome is Outcome.CUT
    tokens = provider.invoice.tokens("cut-after-tokens")
    assert stream.usage == replace(counted(tokens), is_estimate=True)


@pytest.mark.parametrize("api", DIALECTS)
async def test_a_client_that_leaves_before_the_answer_ends_the_call(
    provider: FakeProvider, way: LiteLLMWay, api: str
) -> None:
    provider.hold("native")
    call = asyncio.create_task(way.send(attempt(provider, api)))
    await provider.until(lambda: bool(provider.to("native")))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(20):
        await provider.to("native")[0].over.wait()


@pytest.mark.parametrize("api", DIALECTS)
async def test_a_client_that_leaves_a_stream_ends_the_call(
    provider: FakeProvider, way: LiteLLMWay, api: str
) -> None:
    provider.hold("native", after=1)
    stream = await opened(way, attempt(provider, api, is_stream=True))
    await stream.close()
    await stream.close()
    async with asyncio.timeout(20):
        await provider.to("native")[0].over.wait()


async def test_patience_ends_before_the_time_limit(provider: FakeProvider, way: LiteLLMWay) -> None:
    failure = await outcome(way, attempt(provider, native="hang", patience=0.2))
    assert failure is not None and failure.outcome is Outcome.TIMED_OUT


async def test_calls_share_their_connections(provider: FakeProvider, way: LiteLLMWay) -> None:
    for _ in range(3):
        await whole(way, attempt(provider))
        await read(await opened(way, attempt(provider, is_stream=True)))
    assert way._session is not None and way._session.connector is not None
    held = sum(len(connections) for connections in way._session.connector._conns.values())
    assert held == 1


async def test_a_backend_without_a_key_is_not_called(provider: FakeProvider, way: LiteLLMWay) -> None:
    made = attempt(provider)
    failure = await outcome(way, replace(made, backend=replace(made.backend, api_key="")))
    assert failure is not None and failure.outcome is Outcome.BAD_KEY
    assert provider.requests == []


@pytest.mark.parametrize("base", ["http://127.0.0.1:9", "http://nowhere.invalid", "https://127.0.0.1:9/v1"])
async def test_a_provider_that_cannot_be_reached_is_at_fault_itself(
    provider: FakeProvider, way: LiteLLMWay, base: str
) -> None:
    failure = await outcome(way, attempt(provider, base=base))
    assert failure is not None and failure.outcome is Outcome.UNREACHABLE


async def test_a_key_that_cannot_be_sent_is_the_backends_fault(
    provider: FakeProvider, way: LiteLLMWay
) -> None:
    made = attempt(provider)
    failure = await outcome(way, replace(made, backend=replace(made.backend, api_key="ключ")))
    assert failure is not None and failure.outcome is Outcome.BROKEN
    assert provider.requests == []


async def test_trouble_on_the_way_to_a_key_is_the_backends_fault(
    provider: FakeProvider, way: LiteLLMWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def without_a_token(**_: object) -> None:
        try:
            raise ConnectionRefusedError("the token's server")
        except OSError as error:
            raise ValueError("No token.") from error

    monkeypatch.setattr(_library().litellm, "acompletion", without_a_token)
    failure = await outcome(way, attempt(provider))
    assert failure is not None and failure.outcome is Outcome.BROKEN


async def test_prompts_and_keys_are_not_logged(
    provider: FakeProvider,
    way: LiteLLMWay,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(0)
    for native in ("native", "500", "malformed"):
        for api in DIALECTS:
            await outcome(way, attempt(provider, api, native))
            await outcome(way, attempt(provider, api, native, is_stream=True))
    printed = "".join(capfd.readouterr())
    for secret in (KEY, "one two three"):
        assert secret not in caplog.text
        assert secret not in printed


def test_neither_litellm_nor_httpx_is_imported_before_a_call_needs_it() -> None:
    program = (
        "import sys, quarterdeck.router.ways.litellm_way, quarterdeck.router.ways.counting;"
        "import quarterdeck.router.ledger.prices;"
        "print(sorted({'litellm', 'httpx', 'openai', 'tiktoken'} & sys.modules.keys()))"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"


NATIVE = """
import asyncio, sys
from tests.fakes.provider import FakeProvider
from quarterdeck.router import steady
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from tests.fakes.litellm_calls import ASKED, MESSAGES, attempt, whole

async def main():
    async with FakeProvider() as provider:
        way = LiteLLMWay(steady.now)
        await whole(way, attempt(provider, path=MESSAGES, messages=ASKED, max_tokens=5))
        await way.close()
    print("litellm" in sys.modules)

asyncio.run(main())
"""


def test_a_route_that_the_provider_has_itself_needs_no_litellm() -> None:
    told = subprocess.run([sys.executable, "-c", NATIVE], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "False"
