"""What matters to us in the answers of the OpenAI dialect: tokens, first content, the end, errors."""

from collections.abc import Mapping as Map
from typing import Any

from quarterdeck.router.backend import MOST_TOKENS, Usage

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
_USED = ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_cache_hit_tokens")
_CACHED = ("cached_tokens", "cache_write_tokens", "cache_creation_tokens")
_STATUS_OF_CODE = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "permission_denied": 403,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded": 529,
    "overloaded_error": 529,
}
"""Those that end in `_error`, and `request_too_large`, are Anthropic's names for its statuses."""


def usage_of(told: Any) -> Usage | None:
    """The tokens that a provider reports; None for nothing, `null`, and all zeros."""
    if not isinstance(told, dict):
        return None
    prompt, completion, total, hits = _counts(told, _USED)
    total = total or together(prompt, completion)
    if not total:
        return None
    details = told.get("prompt_tokens_details")
    read, write, created = _counts(details if isinstance(details, dict) else {}, _CACHED)
    completion = answered(prompt, completion, total, told.get("completion_tokens_details"))
    return Usage(prompt, completion, total, read or hits, write or created)


def answered(prompt: int, completion: int, total: int, details: Any) -> int:
    """The tokens of an answer with those of its reasoning: xAI has them in the total and the price only."""
    (thought,) = _counts(details if isinstance(details, dict) else {}, ("reasoning_tokens",))
    return completion + thought if total == prompt + completion + thought else completion


def _counts(told: Map[str, Any], names: tuple[str, ...]) -> list[int]:
    """These counts, 0 where there is no sane one."""
    return [count_of(told.get(name)) for name in names]


def count_of(told: Any) -> int:
    """What is told as a count of tokens; 0 for what is none, or more than one call can have.

    All counts of providers come through here, so that rows, totals and budgets take the same. Whole numbers
    may be told as floats; JSON's `true` is an int to Python, and no count.
    """
    if type(told) is float and told.is_integer():
        told = int(told)
    return told if type(told) is int and 0 < told <= MOST_TOKENS else 0


def together(*counts: int) -> int:
    """The sum of such counts, which is one, too."""
    return min(sum(counts), MOST_TOKENS)


def said_in(choice: Map[str, Any]) -> str:
    """The text that this part of a stream brings, whatever kind it is of: answer, thought, a tool's input."""
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        text = choice.get("text")
        return text if isinstance(text, str) else ""
    said = delta.get("content")
    if said and isinstance(said, str) and len(delta) == 1:
        return said
    texts = [text for name in _TEXTS if isinstance(text := delta.get(name), str)]
    for call in delta.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            texts += [part for name in ("name", "arguments") if isinstance(part := function.get(name), str)]
    return "".join(texts)


def brings_more_than_a_role(choice: Map[str, Any]) -> bool:
    """Whether this part of a stream has anything of the answer itself, of whatever kind, or its end."""
    delta = choice.get("delta")
    if choice.get("finish_reason"):
        return True
    if not isinstance(delta, dict):
        return choice.get("text") != ""
    return any(value for name, value in delta.items() if name != "role")


def text_of(answer: Map[str, Any]) -> str:
    """The text of a whole answer, for counting."""
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return ""
    return "".join(said_in({**c, "delta": c.get("message")}) for c in choices if isinstance(c, dict))


def error_status(error: Any) -> int:
    """The status that an error inside a good answer stands for; 500 where it does not say."""
    if not isinstance(error, dict):
        return 500
    for name in ("status", "code", "type"):
        value = error.get(name)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
        if isinstance(value, str) and value in _STATUS_OF_CODE:
            return _STATUS_OF_CODE[value]
    return 500
