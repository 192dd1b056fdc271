"""The Anthropic dialect: `/v1/messages`."""

import json
from collections.abc import Iterable
from typing import Any

from tests.fakes.provider_reply import Dialect, Frame, Reply, sse

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error(status: int, kind: str, message: str, code: str | None = None) -> dict[str, Any]:
    told = {"type": KINDS.get(status, "api_error"), "message": message}
    return {"type": "error", "error": told, "request_id": "req_fake"}


def models(names: Iterable[str]) -> dict[str, Any]:
    made = "2026-01-01T00:00:00Z"
    data = [{"type": "model", "id": name, "display_name": name, "created_at": made} for name in names]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"data": data, "has_more": False, "first_id": None, "last_id": None, **ends}


def _usage(reply: Reply, completion: int) -> dict[str, Any]:
    """Unlike OpenAI's, `input_tokens` leaves the cached ones out."""
    if reply.usage == "absent":
        return {}
    told = {
        "input_tokens": reply.tokens.fresh,
        "cache_creation_input_tokens": reply.tokens.cached_write,
        "cache_read_input_tokens": reply.tokens.cached_read,
        "output_tokens": completion,
    }
    return {"usage": None if reply.usage == "null" else told}


def _stop(reply: Reply) -> str:
    return "tool_use" if reply.tool else "max_tokens" if reply.full else "end_turn"


def _message(reply: Reply, content: list[dict[str, Any]], stop: str | None) -> dict[str, Any]:
    head = {"id": f"msg_{reply.number}", "type": "message", "role": "assistant", "model": reply.model}
    return {**head, "content": content, "stop_reason": stop, "stop_sequence": None}


def _plain(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": reply.text}
    if reply.tool:
        block = {**_call(reply), "input": json.loads(reply.text)}
    return {**_message(reply, [block], _stop(reply)), **_usage(reply, reply.tokens.completion)}


def _call(reply: Reply) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{reply.number}", "name": reply.tool, "input": {}}


def _stream(reply: Reply, body: dict[str, Any]) -> list[Frame]:
    def event(kind: str, more: dict[str, Any], **frame: Any) -> Frame:
        return sse({"type": kind, **more}, kind, **frame)

    start = {**_message(reply, [], None), **_usage(reply, 1)}
    block = _call(reply) if reply.tool else {"type": "text", "text": ""}
    kind, key = ("input_json_delta", "partial_json") if reply.tool else ("text_delta", "text")
    pieces = [
        event("content_block_delta", {"index": 0, "delta": {"type": kind, key: piece}}, tokens=1)
        for piece in reply.pieces
    ]
    end = {"delta": {"stop_reason": _stop(reply), "stop_sequence": None}}
    return [
        event("message_start", {"message": start}),
        event("content_block_start", {"index": 0, "content_block": block}),
        event("ping", {}),
        *pieces,
        event("content_block_stop", {"index": 0}),
        event("message_delta", {**end, **_usage(reply, reply.tokens.completion)}),
        event("message_stop", {}, is_end=True),
    ]


def _error_frame(body: dict[str, Any]) -> Frame:
    return sse(body, "error")


MESSAGES = Dialect(_plain, _stream, error, _error_frame)
