"""The provider that every gateway is measured against: one process, never the limit.

    python -m tests.bench.router_mock PORT

It speaks the OpenAI dialect and Anthropic's, each plain and streamed. A stream has 52 events (50 of text,
usage, the end) and comes back to back, or 10 ms apart when `max_tokens` is 257.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, cast

import httptools
import orjson
import uvloop

NATIVE_MODEL = "bench-native"
PACED = 257
"""The `max_tokens` that asks for a stream at the pace of a model."""

PACE = 0.01
"""Seconds between two events of such a stream."""

EVENTS = 52
TOKENS = 50
_TEXT = "The quick brown fox jumps over the lazy dog, again and again. " * 8
_NAMES = {"object": "chat.completion.chunk", "created": 1700000000, "model": NATIVE_MODEL}
_USAGE = {"prompt_tokens": 200, "completion_tokens": TOKENS, "total_tokens": 200 + TOKENS}


def _event(data: Any, kind: str = "") -> bytes:
    named = f"event: {kind}\n".encode() if kind else b""
    return named + b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


def openai_reply() -> bytes:
    """A chat completion of about 1.1 kB."""
    message = {"role": "assistant", "content": _TEXT, "refusal": None, "annotations": []}
    details = {"cached_tokens": 0, "audio_tokens": 0}
    return orjson.dumps(
        {
            "id": "chatcmpl-bench0000000000000000000000",
            "object": "chat.completion",
            "created": 1700000000,
            "model": NATIVE_MODEL,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": _USAGE | {"prompt_tokens_details": details, "completion_tokens_details": details},
            "service_tier": "default",
            "system_fingerprint": "fp_bench000000",
        }
    )


def openai_events() -> list[bytes]:
    """The events of a chat completion, the end included."""

    def chunk(choices: list[Any], **more: Any) -> bytes:
        return _event({"id": "chatcmpl-bench", **_NAMES, "choices": choices, **more})

    def part(delta: dict[str, str], finish: str | None = None) -> bytes:
        return chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])

    texts = [part({"content": " token"}) for _ in range(TOKENS - 2)]
    first, last = part({"role": "assistant", "content": ""}), part({}, "stop")
    return [first, *texts, last, chunk([], usage=_USAGE), _event(b"[DONE]")]


def anthropic_reply() -> bytes:
    """A message of about 1 kB."""
    return orjson.dumps(
        {
            "id": "msg_bench000000000000000",
            "type": "message",
            "role": "assistant",
            "model": NATIVE_MODEL,
            "content": [{"type": "text", "text": _TEXT + _TEXT[:300]}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 200, "output_tokens": TOKENS},
        }
    )


def anthropic_events() -> list[bytes]:
    """The events of a message: as many as in the OpenAI dialect."""
    opening = {"id": "msg_bench", "type": "message", "role": "assistant", "model": NATIVE_MODEL}
    usage = {"input_tokens": 200, "output_tokens": 1}
    delta = {"type": "text_delta", "text": " token"}
    ending = {"stop_reason": "end_turn", "stop_sequence": None}
    block = {"type": "text", "text": ""}
    said = [
        {"type": "message_start", "message": opening | {"content": [], "stop_reason": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *[{"type": "content_block_delta", "index": 0, "delta": delta}] * (EVENTS - 5),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ending, "usage": {"output_tokens": TOKENS}},
        {"type": "message_stop"},
    ]
    return [_event(one, str(one["type"])) for one in said]


def _answer(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chunks(events: Sequence[bytes]) -> list[bytes]:
    """The events as chunks of HTTP/1.1, one each; the last has the end of the answer with it."""
    framed = [f"{len(event):x}\r\n".encode() + event + b"\r\n" for event in events]
    return [*framed[:-1], framed[-1] + b"0\r\n\r\n"]


_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PLAIN = {"chat": _answer(openai_reply()), "messages": _answer(anthropic_reply())}
_EVENTS = {"chat": _chunks(openai_events()), "messages": _chunks(anthropic_events())}
_BURST = {dialect: _STREAM + b"".join(chunks) for dialect, chunks in _EVENTS.items()}
_MODELS = _answer(orjson.dumps({"object": "list", "data": [{"id": NATIVE_MODEL, "object": "model"}]}))
_UNKNOWN = _answer(b'{"error":{"message":"no such path"}}', "404 Not Found")


class Provider(asyncio.Protocol):
    """One connection of a gateway."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._begin()

    def _begin(self) -> None:
        self._path = b""
        self._body = b""
        self._next: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next:
            self._next.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, body = self._path, self._body
        self._begin()
        dialect = "chat" if b"/chat/completions" in path else "messages" if b"/messages" in path else ""
        if not dialect:
            self._transport.write(_MODELS if path.partition(b"?")[0].endswith(b"/models") else _UNKNOWN)
            return
        wanted = orjson.loads(body)
        if not wanted.get("stream"):
            self._transport.write(_PLAIN[dialect])
        elif wanted.get("max_tokens") == PACED:
            self._transport.write(_STREAM)
            self._pace(_EVENTS[dialect], 0, asyncio.get_running_loop().time())
        else:
            self._transport.write(_BURST[dialect])

    def _pace(self, chunks: list[bytes], number: int, began: float) -> None:
        self._transport.write(chunks[number])
        if number + 1 < len(chunks):
            due = began + (number + 1) * PACE
            loop = asyncio.get_running_loop()
            self._next = loop.call_at(due, self._pace, chunks, number + 1, began)


async def serve(port: int) -> asyncio.Server:
    """Listen on loopback; port 0 takes a free one."""
    return await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port)


async def _main() -> None:
    server = await serve(int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
