"""What LiteLLM gives back, as the client gets it: whole answers, and what is told in them."""

from collections.abc import Mapping as Map
from typing import TYPE_CHECKING, Any

import orjson

from quarterdeck.router.backend import Usage
from quarterdeck.router.exchange import Answer, Attempt
from quarterdeck.router.limits import rules
from quarterdeck.router.ways.litellm_request import COMPLETIONS, MESSAGES, RESPONSE
from quarterdeck.router.ways.openai_dialect import answered, count_of, text_of, together, usage_of

if TYPE_CHECKING:
    from quarterdeck.router.ways.litellm_wire import Wire

_OURS = frozenset((b"content-type", b"date", b"server", b"x-request-id"))


def answer_of(result: Any, attempt: Attempt, wire: "Wire") -> Answer:
    """A whole answer. Usage of nothing but zeros is what LiteLLM writes where the provider told none."""
    content = plain(result)
    if "model" in content:
        content["model"] = attempt.mapping.model
    if attempt.path == COMPLETIONS:
        choices = [text_choice(choice) for choice in content.get("choices", ())]
        content |= {"object": "text_completion", "choices": choices}
    usage = tokens_of(content.get("usage"), attempt.path)
    if usage is None:
        content.pop("usage", None)
    said = "" if usage else _said(content, attempt.path)
    return Answer(wire.status or 200, "application/json", dumped(content), usage, passed_on(wire), said)


def text_choice(choice: Map[str, Any]) -> dict[str, Any]:
    """A chat's choice, whole or a piece of it, in the manner of the older completions."""
    said = choice.get("message") or choice.get("delta") or {}
    reason = choice.get("finish_reason")
    text = said.get("content") or ""
    return {"index": choice.get("index", 0), "text": text, "logprobs": None, "finish_reason": reason}


def plain(result: Any) -> dict[str, Any]:
    """As a dictionary; LiteLLM answers in models and in dictionaries."""
    if isinstance(result, dict):
        return dict(result)
    content: dict[str, Any] = result.model_dump(exclude_none=True, warnings=False)
    return content


def dumped(content: Map[str, Any]) -> bytes:
    return orjson.dumps(content, default=_dumped_part)


def _dumped_part(value: Any) -> Any:
    return value.model_dump(exclude_none=True, warnings=False) if hasattr(value, "model_dump") else str(value)


def passed_on(wire: "Wire") -> tuple[tuple[bytes, bytes], ...]:
    """The provider's headers that the client may see."""
    headers = rules.response_headers(wire.raw_headers)
    return tuple(
        pair for pair in headers if pair[0] not in _OURS and not pair[0].startswith(b"x-quarterdeck-")
    )


def tokens_of(told: Any, path: str) -> Usage | None:
    """Tokens in any of the three dialects; prompts include their cached tokens in all of them."""
    if not isinstance(told, dict):
        return None
    if path == MESSAGES:
        return _anthropic(told)
    return _response(told) if path == RESPONSE else usage_of(told)


def _anthropic(told: Map[str, Any]) -> Usage | None:
    """Unlike the others, Anthropic leaves the cached ones out of `input_tokens`."""
    read, write = _count(told, "cache_read_input_tokens"), _count(told, "cache_creation_input_tokens")
    prompt, completion = together(_count(told, "input_tokens"), read, write), _count(told, "output_tokens")
    total = together(prompt, completion)
    return Usage(prompt, completion, total, read, write) if total else None


def _response(told: Map[str, Any]) -> Usage | None:
    prompt, completion = _count(told, "input_tokens"), _count(told, "output_tokens")
    completion = answered(prompt, completion, _count(told, "total_tokens"), told.get("output_tokens_details"))
    details = told.get("input_tokens_details") or {}
    read = _count(details, "cached_tokens")
    write = _count(details, "cache_write_tokens") or _count(details, "cache_creation_tokens")
    total = together(prompt, completion)
    return Usage(prompt, completion, total, read, write) if total else None


def _count(told: Map[str, Any], name: str) -> int:
    return count_of(told.get(name))


def _said(content: Map[str, Any], path: str) -> str:
    if path == MESSAGES:
        return "".join(_texts(content.get("content")))
    if path == RESPONSE:
        return "".join(_texts(content.get("output")))
    return text_of(content)


def _texts(part: Any) -> list[str]:
    """All texts and calls in the parts of an answer."""
    if isinstance(part, list):
        return [text for inner in part for text in _texts(inner)]
    if not isinstance(part, dict):
        return []
    own = [
        part[name] for name in ("text", "thinking", "name", "arguments") if isinstance(part.get(name), str)
    ]
    called = [dumped(part["input"]).decode()] if isinstance(part.get("input"), dict) else []
    return own + called + _texts(part.get("content"))
