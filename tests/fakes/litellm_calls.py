"""Calls through LiteLLM to a fake provider: the provider, the way, an attempt, and what came of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from quarterdeck.router import steady
from quarterdeck.router.backend import Backend, Mapping, Usage
from quarterdeck.router.exchange import Answer, Attempt, Failure, Stream
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from quarterdeck.router.ways.openai_way import OpenAIWay
from tests.fakes.provider import FakeProvider, Tokens

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
ASKED = [{"role": "user", "content": "one two three four five six seven eight nine"}]
KEY = "the-backends-key"
DIALECTS = ("anthropic-messages", "openai")
TOOL = {
    "type": "function",
    "function": {
        "name": "where",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@asynccontextmanager
async def offering() -> AsyncIterator[FakeProvider]:
    """A provider with one model, `native`."""
    async with FakeProvider() as made:
        made.offer("native", completion=3, cached_read=5, cached_write=2)
        yield made


@asynccontextmanager
async def prepared() -> AsyncIterator[LiteLLMWay]:
    """The way, with the library loaded."""
    made = LiteLLMWay(steady.now)
    await made.prepare()
    yield made
    await made.close()


def attempt(
    provider: FakeProvider,
    api: str = "anthropic-messages",
    native: str = "native",
    *,
    path: str = CHAT,
    is_stream: bool = False,
    wants_usage: bool = False,
    base: str = "",
    compat: dict[str, Any] | None = None,
    patience: float = 20,
    **body: Any,
) -> Attempt:
    mapping = Mapping("canonical", native, compat=compat or {})
    address = base or provider.url + "/v1"
    backend = Backend("b", "b", address, KEY, api=api, mappings={"canonical": mapping}, timeout_seconds=1)
    body = {"model": "canonical", **({"stream": True} if is_stream else {}), **body}
    if path == CHAT:
        body = {"messages": ASKED, **body}
    return Attempt(backend, mapping, path, "", {}, body, is_stream, wants_usage, patience)


async def whole(way: LiteLLMWay | OpenAIWay, made: Attempt) -> Answer:
    answer = await way.send(made)
    assert isinstance(answer, Answer)
    return answer


async def opened(way: LiteLLMWay | OpenAIWay, made: Attempt) -> Stream:
    stream = await way.send(made)
    assert not isinstance(stream, Answer)
    return stream


async def read(stream: Stream) -> list[bytes]:
    """All events of a stream."""
    try:
        return b"".join([piece async for piece in stream.pieces()]).strip().split(b"\n\n")
    finally:
        await stream.close()


def data(event: bytes) -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads(event.partition(b"data: ")[2])
    return content


def counted(tokens: Tokens) -> Usage:
    """What the invoice says, as the ledger would."""
    return Usage(tokens.prompt, tokens.completion, tokens.total, tokens.cached_read, tokens.cached_write)


async def outcome(way: LiteLLMWay | OpenAIWay, made: Attempt) -> Failure | None:
    """The failure of an attempt, `None` where it went well to the end."""
    try:
        answer = await way.send(made)
        if not isinstance(answer, Answer):
            await read(answer)
    except Failure as failure:
        return failure
    return None
