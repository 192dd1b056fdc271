"""Responses and messages at providers that have that very route: passed on as they are, without LiteLLM."""

import httpx
import orjson

from quarterdeck.router.exchange import Answer, Attempt, Stream
from quarterdeck.router.limits import rules
from quarterdeck.router.ways.dialects import RESPONSES, provider
from quarterdeck.router.ways.litellm_answer import answer_of
from quarterdeck.router.ways.litellm_request import MESSAGES, RESPONSE
from quarterdeck.router.ways.litellm_stream import EventStream, Now
from quarterdeck.router.ways.litellm_wire import Wire

ANTHROPIC_VERSION = "2023-06-01"
"""Sent where the client names none."""


def is_native(attempt: Attempt) -> bool:
    """Whether the backend has the route itself: by its dialect, or because its mapping's `compat` says so."""
    api, compat = attempt.backend.api, attempt.mapping.compat
    if attempt.path == MESSAGES:
        return provider(api) == "anthropic" or compat.get("messages") is True
    return attempt.path == RESPONSE and (api in (RESPONSES, "openai") or compat.get("responses") is True)


async def relay(attempt: Attempt, wire: Wire, now: Now) -> Answer | Stream:
    """Raises `Failure`, and what `failure_from` makes one of."""
    backend = attempt.backend
    address = rules.join(backend.api_base_url, attempt.path, attempt.query)
    content = orjson.dumps({**attempt.body, "model": attempt.mapping.native_id})
    response = await wire.send(httpx.Request("POST", address, headers=_headers(attempt), content=content))
    response.raise_for_status()
    if attempt.is_stream and not response.headers.get("content-type", "").startswith("application/json"):
        return await EventStream(response.aiter_raw(), attempt, wire, now).open()
    answer = orjson.loads(await response.aread())
    if answer.get("error"):
        raise ValueError("an error with a good status")
    return answer_of(answer, attempt, wire)


def _headers(attempt: Attempt) -> dict[str, str]:
    key, given = attempt.backend.api_key, attempt.headers
    access = {"authorization": f"Bearer {key}"}
    if attempt.path == MESSAGES:
        access = {"x-api-key": key, "anthropic-version": ANTHROPIC_VERSION}
    return {"accept": "*/*", **access, **given, "content-type": "application/json"}
