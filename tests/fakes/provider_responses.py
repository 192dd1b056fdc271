"""The newer OpenAI dialect: `/responses`."""

from itertools import count
from typing import Any

from tests.fakes import provider_openai
from tests.fakes.provider_reply import CREATED, Dialect, Frame, Reply, sse


def _usage(reply: Reply) -> dict[str, Any]:
    if reply.usage == "absent":
        return {}
    tokens = reply.tokens
    details = {"cached_tokens": tokens.cached_read, "cache_write_tokens": tokens.cached_write}
    told = {
        "input_tokens": tokens.prompt,
        "input_tokens_details": details,
        "output_tokens": tokens.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens.total,
    }
    return {"usage": None if reply.usage == "null" else told}


def _response(reply: Reply, body: dict[str, Any], output: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"resp_{reply.number}",
        "object": "response",
        "created_at": float(CREATED),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": {},
        "model": reply.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools", []),
        "top_p": 1.0,
    }


def _item(reply: Reply, text: str, status: str = "completed") -> dict[str, Any]:
    if reply.tool:
        call = {"id": f"fc_{reply.number}", "type": "function_call", "call_id": f"call_{reply.number}"}
        return {**call, "name": reply.tool, "arguments": text, "status": status}
    content = [_part(text)] if status == "completed" else []
    message = {"id": f"msg_{reply.number}", "type": "message", "role": "assistant"}
    return {**message, "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _finished(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    whole = {**_response(reply, body, [_item(reply, reply.text)]), **_usage(reply)}
    if reply.full:
        whole |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return whole


def _stream(reply: Reply, body: dict[str, Any]) -> list[Frame]:
    numbers = count()
    open_response = _response(reply, body, []) | {"status": "in_progress", "usage": None}
    item = _item(reply, "", "in_progress")
    place = {"item_id": item["id"], "output_index": 0}

    def event(kind: str, more: dict[str, Any], **frame: Any) -> Frame:
        return sse({"type": kind, "sequence_number": next(numbers), **more}, kind, **frame)

    frames = [event(f"response.{kind}", {"response": open_response}) for kind in ("created", "in_progress")]
    frames.append(event("response.output_item.added", {"output_index": 0, "item": item}))
    if reply.tool:
        kind, inside = "response.function_call_arguments", place
        done = {"arguments": reply.text, "name": reply.tool}
    else:
        kind, inside = "response.output_text", {**place, "content_index": 0, "logprobs": []}
        done = {"text": reply.text}
        frames.append(event("response.content_part.added", {**place, "content_index": 0, "part": _part("")}))
    frames += [event(f"{kind}.delta", {**inside, "delta": piece}, tokens=1) for piece in reply.pieces]
    frames.append(event(f"{kind}.done", {**inside, **done}))
    if not reply.tool:
        whole = {**place, "content_index": 0, "part": _part(reply.text)}
        frames.append(event("response.content_part.done", whole))
    frames.append(event("response.output_item.done", {"output_index": 0, "item": _item(reply, reply.text)}))
    end = _finished(reply, body)
    return [*frames, event(f"response.{end['status']}", {"response": end}, is_end=True)]


def _error_frame(body: dict[str, Any]) -> Frame:
    told = body["error"]
    event = {"type": "error", "sequence_number": 0, "message": told["message"], "param": None}
    return sse({**event, "code": told["code"] or told["type"]}, "error")


RESPONSES = Dialect(_finished, _stream, provider_openai.error, _error_frame)
