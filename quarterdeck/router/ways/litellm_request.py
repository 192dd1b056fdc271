"""What LiteLLM is called with: the client's fields, our address and key, and nothing that steers it.

LiteLLM takes orders (another address, files with keys, callbacks) under the same names as fields of the body:
a client's field is handed over by name only when it is known to be part of a dialect.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from quarterdeck.router.backend import OPENAI, Backend
from quarterdeck.router.exchange import Attempt, Failure, Outcome
from quarterdeck.router.limits import rules
from quarterdeck.router.ways.dialects import RESPONSES, provider

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSE = "/v1/responses"
MESSAGES = "/v1/messages"

ENTRANCES = {
    CHAT: "acompletion",
    COMPLETIONS: "acompletion",  # no other dialect has them: they become chats
    EMBEDDINGS: "aembedding",
    RESPONSE: "aresponses",
    MESSAGES: "anthropic_messages",
}
"""LiteLLM's functions by the path that they serve."""

_SHARED = (
    *(
        "max_tokens",
        "metadata",
        "n",
        "seed",
        "service_tier",
        "stop",
        "stream",
        "stream_options",
        "store",
        "user",
    ),
    *("frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "temperature", "top_k", "top_p"),
    *("safety_identifier", "prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls"),
)
_TOOLS = ("tools", "tool_choice", "context_management")
_CHAT_ONLY = (
    *("messages", "audio", "modalities", "prediction", "functions", "function_call", "max_completion_tokens"),
    *("reasoning_effort", "verbosity", "thinking", "response_format", "top_logprobs", "web_search_options"),
    "safety_settings",
)
_RESPONSE_ONLY = (
    *(
        "input",
        "instructions",
        "conversation",
        "previous_response_id",
        "prompt",
        "reasoning",
        "text",
        "include",
    ),
    *("background", "max_output_tokens", "max_tool_calls", "top_logprobs", "truncation"),
)
_MESSAGES_ONLY = (
    *("messages", "system", "stop_sequences", "thinking", "cache_control", "container", "mcp_servers"),
    *("output_config", "output_format", "speed"),
)
_FIELDS = {
    CHAT: frozenset((*_SHARED, *_TOOLS, *_CHAT_ONLY)),
    COMPLETIONS: frozenset((*_SHARED, "prompt")),
    EMBEDDINGS: frozenset(("input", "dimensions", "encoding_format", "user", "input_type")),
    RESPONSE: frozenset((*_SHARED, *_TOOLS, *_RESPONSE_ONLY)),
    MESSAGES: frozenset((*_SHARED, *_TOOLS, *_MESSAGES_ONLY)),
}

_ORDERS = re.compile(
    r"(?:^|_)(?:api|base|url|uri|host|endpoint|key|token|secret|credentials?|password|file|path|proxy|headers?)"
    r"(?:_|$)|^(?:aws|azure|oci|vertex|sagemaker|watsonx|litellm|mock)_|^extra_",
    re.IGNORECASE,
)

_STRICT = ("anthropic", "bedrock", "sagemaker")
"""Providers for which LiteLLM has no way to add fields that it does not know."""


@dataclass(frozen=True, slots=True)
class Request:
    """`entrance` is the function's name; `fields` is a copy that LiteLLM may change as it likes."""

    entrance: str
    model: str
    fields: dict[str, Any]
    orders: dict[str, Any]


def request_of(attempt: Attempt, is_steering: Callable[[str], bool]) -> Request:
    """Raises `Failure` (refused) for a path or a field that cannot be passed on."""
    entrance = ENTRANCES.get(attempt.path)
    if entrance is None:
        raise refused(f"{attempt.path} cannot be translated for this provider.")
    owner = provider(attempt.backend.api)
    fields = orjson.loads(attempt.raw or orjson.dumps(attempt.body))  # LiteLLM changes what it is given
    fields.pop("model", None)
    allowed = attempt.mapping.compat.get("fields", ())
    unknown = fields.keys() - _FIELDS[attempt.path] - set(allowed)
    _check(unknown, is_steering)
    if unknown:
        _check_room(owner, unknown)
        fields["extra_body"] = {name: fields.pop(name) for name in sorted(unknown)}
    if attempt.path == COMPLETIONS:
        fields["messages"] = [{"role": "user", "content": _prompt(fields.pop("prompt", None))}]
    if attempt.is_stream and attempt.path in (CHAT, COMPLETIONS):
        _ask_for_usage(fields, attempt)
    return Request(entrance, _model(attempt, owner), fields, _orders(attempt, owner))


def refused(reason: str, status: int = 400) -> Failure:
    """A refusal as a provider would have written it."""
    told = {"message": reason, "type": "invalid_request_error", "param": None, "code": None}
    return Failure(Outcome.REFUSED, reason, status, orjson.dumps({"error": told}))


def _check(unknown: Iterable[str], is_steering: Callable[[str], bool]) -> None:
    for name in sorted(unknown):
        if is_steering(name) or _ORDERS.search(name):
            raise refused(f"The field {name!r} is not accepted: it would steer the router, not the model.")


def _check_room(owner: str, unknown: Iterable[str]) -> None:
    if owner.startswith(_STRICT):
        named = ", ".join(sorted(unknown))
        raise refused(
            f"Fields that {owner} has no equivalent for: {named}. Leave them out, or name them in "
            "`compat.fields` of the model's mapping."
        )


def _prompt(prompt: Any) -> str:
    texts = prompt if isinstance(prompt, list) else [prompt]
    if len(texts) == 1 and isinstance(texts[0], str):
        return texts[0]
    raise refused("For this provider `prompt` must be one text.")


def _ask_for_usage(fields: dict[str, Any], attempt: Attempt) -> None:
    """Unless the client or the mapping says no."""
    options = fields.get("stream_options") or {}
    if attempt.mapping.reports_stream_usage and "include_usage" not in options:
        fields["stream_options"] = {**options, "include_usage": True}


def _model(attempt: Attempt, owner: str) -> str:
    native = attempt.mapping.native_id.removeprefix(f"{owner}/")
    if attempt.backend.api == RESPONSES and attempt.path in (CHAT, COMPLETIONS, MESSAGES):
        return f"{owner}/responses/{native}"
    return f"{owner}/{native}"


def _orders(attempt: Attempt, owner: str) -> dict[str, Any]:
    """Ours, and those of the mapping's owner (`compat.litellm`), which win."""
    compat = attempt.mapping.compat
    orders = {
        **_access(attempt.backend, owner),
        "drop_params": compat.get("drop_params") is True,
        "num_retries": 0,
        "max_retries": 0,
        "timeout": attempt.backend.timeout_seconds,
    }
    kept = {name: attempt.headers[name] for name in ("user-agent", "x-request-id") if name in attempt.headers}
    if kept:
        orders["extra_headers"] = kept
    if attempt.path == RESPONSE:
        orders["use_chat_completions_api"] = attempt.backend.api == OPENAI
    own = compat.get("litellm")
    return {**orders, **own} if isinstance(own, dict) else orders


def _access(backend: Backend, owner: str) -> dict[str, Any]:
    """Address and key. Each provider's code completes its address in its own manner."""
    key, base = backend.api_key, backend.api_base_url.rstrip("/")
    if owner == "openai":
        return {"api_key": key, "api_base": rules.join(base, "/v1")}
    if owner == "anthropic":
        return {"api_key": key, "api_base": rules.join(base, "/v1").removesuffix("/v1")}
    if owner == "bedrock":
        return {"api_base": base, **_amazon(key, base)}
    if owner.startswith("vertex_ai") and key.startswith("{"):
        return {"api_base": base, "vertex_credentials": key}
    return {"api_key": key, "api_base": base}


def _amazon(key: str, base: str) -> dict[str, str]:
    """A key is `access key:secret key`, or a bearer token of Bedrock."""
    named = re.search(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.", urlsplit(base).netloc)
    region = {"aws_region_name": named[1]} if named else {}
    access, colon, secret = key.partition(":")
    if colon and access.startswith(("AKIA", "ASIA")):
        return {**region, "aws_access_key_id": access, "aws_secret_access_key": secret}
    return {**region, "api_key": key}
