"""LiteLLM as this house wants it: no network of its own, no logs, no callbacks, no caches, no retries.

Importing this module takes seconds and 200 MB: only `litellm_way` does, in a thread. Some of what is replaced
is private to LiteLLM: safe as long as its version is pinned and the tests of this way pass.
"""

import asyncio
import importlib
import logging
import os
import sys
import warnings
from contextlib import suppress
from datetime import datetime
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx

from quarterdeck.router.ways.litellm_failure import EndedEarly
from quarterdeck.router.ways.litellm_wire import CURRENT, Transport, Wire

__all__ = ["CURRENT", "Quiet", "Wire", "is_steering", "litellm", "quiet"]

_SETTINGS = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_MODE": "PRODUCTION",  # else it reads a .env file
    "LITELLM_LOG": "CRITICAL",
}


def _imported() -> Any:
    os.environ.update(_SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = importlib.import_module("litellm")
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai", "httpx"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # they log prompts
    return library


UNUSED_TIMEOUT = 600.0
"""httpx wants one; the wire has its own."""

litellm: Any = _imported()
_logging: Any = importlib.import_module("litellm.litellm_core_utils.litellm_logging")
_handlers: Any = importlib.import_module("litellm.llms.custom_httpx.http_handler")
_openai_responses: Any = importlib.import_module("litellm.llms.openai.responses.transformation")
_streams: Any = importlib.import_module("litellm.litellm_core_utils.streaming_handler")
_threads: Any = importlib.import_module("litellm.litellm_core_utils.thread_pool_executor")
_types: Any = importlib.import_module("litellm.types.utils")


class Quiet(_logging.Logging):  # type: ignore[misc]
    """Its record of a call, which it insists on, without anything being done with it."""

    def pre_call(self, *_: Any, **__: Any) -> None: ...

    def post_call(self, *_: Any, **__: Any) -> None: ...

    def claim_async_success_log(self) -> bool:
        return False

    def handle_sync_success_callbacks_for_async_calls(self, *_: Any, **__: Any) -> None: ...

    def success_handler(self, *_: Any, **__: Any) -> None: ...

    async def async_success_handler(self, *_: Any, **__: Any) -> None: ...

    async def dispatch_success_handlers(self, *_: Any, **__: Any) -> None: ...

    def failure_handler(self, *_: Any, **__: Any) -> None: ...

    async def async_failure_handler(self, *_: Any, **__: Any) -> None: ...

    async def dispatch_failure_handlers(self, *_: Any, **__: Any) -> None: ...


def quiet(call_type: str, model: str, body: dict[str, Any]) -> Quiet:
    """A record for one call."""
    record = Quiet(
        model=model,
        messages=body.get("messages") or body.get("input") or body.get("prompt"),
        stream=bool(body.get("stream")),
        call_type=call_type,
        start_time=datetime.now(),  # naive, as it expects
        litellm_call_id="",
        function_id="",
        kwargs={},
        supports_correlation_logging=False,
    )
    record.update_environment_variables(
        model=model,
        user="",
        optional_params={},
        litellm_params={"api_base": ""},
        stream_options=body.get("stream_options"),
    )
    return record


def is_steering(field: str) -> bool:
    """Whether LiteLLM takes this field of a body as an order to itself."""
    return bool(_types.is_litellm_owned_kwarg(field))


async def _finish(stream: Any, **_: Any) -> Any:
    """Instead of its end of a stream, which invents a reason to stop and counts tokens nobody told."""
    reason = stream.received_finish_reason or stream.intermittent_finish_reason
    if reason is None:
        raise EndedEarly
    if not stream.sent_last_chunk:
        stream.sent_last_chunk = True
        return stream.finish_reason_handler()
    told = [chunk.usage for chunk in stream.chunks if getattr(chunk, "usage", None) is not None]
    if not told or stream.sent_stream_usage:
        raise StopAsyncIteration
    stream.sent_stream_usage = True
    report = stream.model_response_creator()
    report.usage = told[-1]
    return report


def _without_gateway() -> None:
    """No tool is looked up in a gateway of LiteLLM's own: that needs packages that are not here.

    Without this every request with tools fails at an import.
    """
    handler, helper = (ModuleType(f"litellm.responses.mcp.{name}") for name in _GATEWAY)
    never = SimpleNamespace(should_use_litellm_mcp_gateway=lambda **_: False)
    handler.__dict__["LiteLLM_Proxy_MCP_Handler"] = never
    helper.__dict__["acompletion_with_mcp"] = None
    sys.modules |= {module.__name__: module for module in (handler, helper)}


_GATEWAY = ("litellm_proxy_mcp_handler", "chat_completions_handler")


def _configure() -> None:
    litellm.suppress_debug_info = True
    litellm.set_verbose = False
    litellm.turn_off_message_logging = True
    litellm.num_retries = 0
    litellm.drop_params = False
    litellm.modify_params = False
    litellm.cache = None
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = 1_000_000  # it would break streams off that repeat a word
    litellm.use_chat_completions_url_for_anthropic_messages = True
    litellm.aclient_session = httpx.AsyncClient(transport=Transport(), timeout=UNUSED_TIMEOUT)
    _streams.CustomStreamWrapper._finalize_completed_stream = _finish
    _openai_responses.OpenAIResponsesAPIConfig.should_fake_stream = lambda *_, **__: False
    _threads.executor.submit = lambda *_, **__: None  # for logging alone
    _handlers.AsyncHTTPHandler.create_async_transport = staticmethod(lambda **_: Transport())
    _without_gateway()


class _Rehearsal:
    """Stands for a wire while nothing is sent. The first answer to each request is a refusal."""

    def __init__(self) -> None:
        self._refused: set[bytes] = set()

    async def send(self, request: httpx.Request) -> httpx.Response:
        if request.content not in self._refused:
            self._refused.add(request.content)
            return httpx.Response(400, content=b"{}", request=request)
        is_stream = b'"stream": true' in request.content or b'"stream":true' in request.content
        dialect = "anthropic" if "anthropic-version" in request.headers else "openai"
        body = _SAID[dialect][is_stream]
        return httpx.Response(200, content=body, request=request)


_SAID = {
    "openai": (
        b'{"id":"1","object":"chat.completion","created":1,"model":"none","choices":[{"index":0,'
        b'"finish_reason":"stop","message":{"role":"assistant","content":"."}}],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}',
        b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"none","choices":[{"index":0,'
        b'"delta":{"role":"assistant","content":"."},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
    ),
    "anthropic": (
        b'{"id":"1","type":"message","role":"assistant","model":"none","content":[{"type":"text","text":"."}],'
        b'"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}',
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"."}}\n\n'
        b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}\n\n'
        b'data: {"type":"message_stop"}\n\n',
    ),
}


async def _rehearse() -> None:
    CURRENT.set(_Rehearsal())
    for model in ("openai/none", "anthropic/none"):
        for is_stream in (False, True):
            body = {"messages": [{"role": "user", "content": "."}], "stream": is_stream}
            with suppress(Exception):
                await _said(model, body)
            answer = await _said(model, body)
            if is_stream:
                await anext(aiter(answer))


def _said(model: str, body: dict[str, Any]) -> Any:
    record = quiet("acompletion", model, body)
    place = {"api_base": "http://none.invalid", "api_key": "none", "max_retries": 0}
    return litellm.acompletion(model=model, **body, **place, litellm_logging_obj=record)


def _warm_up() -> None:
    """The first call of each kind costs up to a second; better now than while others wait."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(_rehearse())


_configure()
_warm_up()
