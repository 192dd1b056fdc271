"""The OpenAI dialect: chat completions, completions, embeddings, models."""

import base64
import struct
from collections.abc import Iterable
from typing import Any

from tests.fakes.provider_invoice import Tokens
from tests.fakes.provider_reply import CREATED, Dialect, Frame, Reply, sse

DONE = sse("[DONE]", is_end=True)

THOUGHT = 5
"""Tokens of an answer that are told apart, where they are."""


def error(status: int, kind: str, message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def models(names: Iterable[str]) -> dict[str, Any]:
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "fake"} for name in names]
    return {"object": "list", "data": data}


def usage(tokens: Tokens) -> dict[str, Any]:
    told: dict[str, Any] = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.total,
    }
    details = {"cached_tokens": tokens.cached_read, "audio_tokens": 0}
    if tokens.cached_write:
        details["cache_write_tokens"] = tokens.cached_write
    return {**told, "prompt_tokens_details": details}


def _usage_apart(tokens: Tokens) -> dict[str, Any]:
    """As xAI tells it: what was thought is no part of `completion_tokens`, but of the total and the price."""
    thought = min(THOUGHT, tokens.completion)
    apart = {"completion_tokens": tokens.completion - thought}
    return {**usage(tokens), **apart, "completion_tokens_details": {"reasoning_tokens": thought}}


def _told(reply: Reply) -> dict[str, Any]:
    if reply.usage == "absent":
        return {}
    if reply.usage == "null":
        return {"usage": None}
    return {"usage": (_usage_apart if reply.usage == "apart" else usage)(reply.tokens)}


def _chat(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool:
        call = {"id": f"call_{reply.number}", "type": "function"}
        called = {**call, "function": {"name": reply.tool, "arguments": reply.text}}
        message |= {"content": None, "tool_calls": [called]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply)}
    return {**_head(reply, "chat.completion"), "choices": [choice], **_told(reply)}


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
    return {"id": f"{prefix}-{reply.number}", "object": kind, "created": CREATED, "model": reply.model}


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.tool else "length" if reply.full else "stop"


def _chat_frames(reply: Reply, body: dict[str, Any]) -> list[Frame]:
    head = _head(reply, "chat.completion.chunk") | {"system_fingerprint": "fp_fake"}
    first: dict[str, Any] = {"role": "assistant", "content": None if reply.tool else ""}
    if reply.tool:
        function = {"name": reply.tool, "arguments": ""}
        call = {"index": 0, "id": f"call_{reply.number}", "type": "function", "function": function}
        first["tool_calls"] = [call]

    def delta(change: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": 0, "delta": change, "logprobs": None, "finish_reason": finish}

    pieces = [delta(_piece(reply, piece)) for piece in reply.pieces]
    return _frames(reply, body, head, [delta(first)], pieces, delta({}, _finish(reply)))


def _piece(reply: Reply, piece: str) -> dict[str, Any]:
    if reply.tool:
        return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
    return {"content": piece}


def _frames(
    reply: Reply,
    body: dict[str, Any],
    head: dict[str, Any],
    before: list[dict[str, Any]],
    pieces: list[dict[str, Any]],
    finish: dict[str, Any],
) -> list[Frame]:
    """Usage comes in a chunk of its own, and only for those who ask for it; `inline` comes unasked."""
    asked = bool((body.get("stream_options") or {}).get("include_usage"))
    null = {"usage": None} if asked and reply.usage != "absent" else {}
    frames = [sse({**head, "choices": [choice], **null}) for choice in before]
    frames += [sse({**head, "choices": [choice], **null}, tokens=1) for choice in pieces]
    if reply.usage == "inline":
        return [*frames, sse({**head, "choices": [finish], "usage": usage(reply.tokens)}), DONE]
    frames.append(sse({**head, "choices": [finish], **null}))
    if asked and reply.usage != "absent":
        frames.append(sse({**head, "choices": [], **_told(reply)}))
    return [*frames, DONE]


def _completion(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "text": reply.text, "logprobs": None, "finish_reason": _finish(reply)}
    return {**_head(reply, "text_completion"), "choices": [choice], **_told(reply)}


def _completion_frames(reply: Reply, body: dict[str, Any]) -> list[Frame]:
    def choice(text: str, finish: str | None = None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}

    pieces = [choice(piece) for piece in reply.pieces]
    return _frames(reply, body, _head(reply, "text_completion"), [], pieces, choice("", _finish(reply)))


def _embeddings(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    texts = body.get("input", "")
    count = len(texts) if isinstance(texts, list) and not isinstance(texts[0], int) else 1
    vectors = [_vector(place, body.get("encoding_format", "float")) for place in range(count)]
    data = [{"object": "embedding", "index": place, "embedding": v} for place, v in enumerate(vectors)]
    told = _told(reply)
    if told.get("usage"):
        told = {"usage": {"prompt_tokens": reply.tokens.prompt, "total_tokens": reply.tokens.prompt}}
    return {"object": "list", "data": data, "model": reply.model, **told}


def _vector(place: int, encoding: str) -> list[float] | str:
    numbers = [0.5, -0.25, float(place)]
    return base64.b64encode(struct.pack("<3f", *numbers)).decode() if encoding == "base64" else numbers


def _error_frame(body: dict[str, Any]) -> Frame:
    return sse(body)


CHAT = Dialect(_chat, _chat_frames, error, _error_frame)
COMPLETIONS = Dialect(_completion, _completion_frames, error, _error_frame)
EMBEDDINGS = Dialect(_embeddings, None, error, _error_frame)
