"""The long way: LiteLLM translates for providers that do not speak the OpenAI dialect.

LiteLLM is imported when it is first needed, in a thread: three seconds of CPU and 200 MB. Meanwhile the loop
stands still for up to 0.15 s at a time, so a router with such backends calls `prepare` before it serves.
Routes that a provider has itself are passed on without it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import aiohttp

from quarterdeck.router.exchange import Answer, Attempt, Failure, Outcome, Stream
from quarterdeck.router.ways.litellm_answer import answer_of
from quarterdeck.router.ways.litellm_failure import failure_from
from quarterdeck.router.ways.litellm_request import request_of
from quarterdeck.router.ways.litellm_stream import stream_of
from quarterdeck.router.ways.openai_way import check_fit
from quarterdeck.router.ways.outgoing import KEPT_ALIVE_SECONDS
from quarterdeck.router.ways.pool import Pool

if TYPE_CHECKING:
    from quarterdeck.router.ways.litellm_wire import Wire


def _wire() -> Any:
    return import_module("quarterdeck.router.ways.litellm_wire")


@cache
def _library() -> Any:
    return import_module("quarterdeck.router.ways.litellm_library")


class LiteLLMWay:
    """A `Way` for chat, completions, embeddings, responses and messages at any provider LiteLLM knows."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    async def prepare(self) -> None:
        """Import LiteLLM, unless that was done. Calls do it themselves; this is for doing it in good time."""
        if not _library.cache_info().currsize:
            await asyncio.to_thread(_library)

    async def send(self, attempt: Attempt) -> Answer | Stream:
        """Raises `Failure`. Whatever goes wrong, the connection is let go."""
        if not attempt.backend.api_key or attempt.backend.fault:
            raise Failure(Outcome.BAD_KEY, attempt.backend.fault or "The backend has no key.")
        attempt = _sendable(attempt)
        wire: Wire = _wire().Wire(
            self._opened(), attempt.backend.timeout_seconds, whole=not attempt.is_stream
        )
        try:
            async with asyncio.timeout(attempt.patience):
                return await self._called(attempt, wire)
        except BaseException as error:
            wire.close()
            if isinstance(error, Failure) or not isinstance(error, Exception):
                raise
            raise failure_from(error, wire) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _called(self, attempt: Attempt, wire: "Wire") -> Answer | Stream:
        native = import_module("quarterdeck.router.ways.litellm_native")
        if native.is_native(attempt):
            answer: Answer | Stream = await native.relay(attempt, wire, self._now)
            return answer
        await self.prepare()
        library = _library()
        request = request_of(attempt, library.is_steering)
        library.CURRENT.set(wire)
        result = await getattr(library.litellm, request.entrance)(
            model=request.model,
            **request.fields,
            **request.orders,
            litellm_logging_obj=library.quiet(request.entrance, request.model, request.fields),
        )
        if hasattr(result, "__aiter__"):
            return await stream_of(attempt.path)(result, attempt, wire, self._now).open()
        return answer_of(result, attempt, wire)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = Pool(limit=0, keepalive_timeout=KEPT_ALIVE_SECONDS, ttl_dns_cache=60)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


def _sendable(attempt: Attempt) -> Attempt:
    """With the client's headers in ASCII: httpx and LiteLLM send no more. Raises `Failure` (refused)."""
    values = "".join(attempt.headers.values())
    check_fit(values)
    if values.isascii():
        return attempt
    headers = {name: value.encode("ascii", "replace").decode() for name, value in attempt.headers.items()}
    return replace(attempt, headers=headers)
