"""Streams that LiteLLM translates, as bytes for the client. One that ends too early raises here."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from quarterdeck.router.backend import Usage
from quarterdeck.router.exchange import Attempt, Failure
from quarterdeck.router.ways.litellm_answer import dumped, passed_on, plain, text_choice, tokens_of
from quarterdeck.router.ways.litellm_failure import EndedEarly, failure_from, failure_in_stream
from quarterdeck.router.ways.litellm_request import COMPLETIONS, MESSAGES, RESPONSE
from quarterdeck.router.ways.openai_dialect import (
    brings_more_than_a_role,
    said_in,
    usage_of,
)
from quarterdeck.router.ways.openai_stream import DONE
from quarterdeck.router.ways.sse import Splitter, data_of

if TYPE_CHECKING:
    from quarterdeck.router.ways.litellm_wire import Wire

Now = Callable[[], float]


class LiteLLMStream:
    """A `Stream` over what LiteLLM iterates. How events look, and which is the last, the dialects say."""

    def __init__(self, result: Any, attempt: Attempt, wire: "Wire", now: Now) -> None:
        self.headers = passed_on(wire)
        self.usage: Usage | None = None
        self.first_content_at: float | None = None
        self.is_begun = False
        self._source = aiter(result)
        self._result = result
        self._attempt = attempt
        self._wire = wire
        self._now = now
        self._said: list[str] = []
        self._ready = b""
        self._is_open = False
        self._is_finished = False
        """The model has said that it has finished."""

    async def open(self) -> "LiteLLMStream":
        """Read until the first event that goes to the client. Raises `Failure`."""
        piece = await self._piece()
        self._ready = piece if piece is not None else self._last()
        self._is_open = True
        return self

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises `Failure` when the stream breaks off."""
        yield self._ready
        while (piece := await self._piece()) is not None:
            yield piece
        if rest := self._last():
            yield rest

    def text(self) -> str:
        return "".join(self._said)

    async def close(self) -> None:
        self._wire.close()
        with suppress(Exception):
            await self._result.aclose()

    async def _piece(self) -> bytes | None:
        """The next that goes to the client; None at the end."""
        try:
            async for item in self._source:
                if piece := self._passed(item):
                    return piece
        except Exception as error:
            raise self._broken(error) from error
        return None

    @abstractmethod
    def _passed(self, item: Any) -> bytes:
        """What the client gets of it; nothing for what it did not ask for."""

    def _last(self) -> bytes:
        """What is still due when all has been read. Raises `Failure` when the model had not finished."""
        if not self._is_finished:
            raise self._broken(EndedEarly())
        return b""

    def _broken(self, error: Exception) -> Failure:
        """With what was told of the prompt, for when nothing of an answer had come."""
        failure = failure_from(error, self._wire, is_open=self._is_cut)
        if failure.is_charged and self.usage is not None:
            failure.usage = replace(self.usage, completion=0, total=self.usage.prompt)
        return failure

    @property
    def _is_cut(self) -> bool:
        """Whether a failure now would leave the client with a part of an answer."""
        return self._is_open and self.is_begun

    def _heard(self, said: str) -> None:
        if not said:
            return
        if self.first_content_at is None:
            self.first_content_at = self._now()
        self._said.append(said)

    def _book(self, told: Usage | None) -> None:
        """Until the model has finished, its answer is at least as many tokens as pieces came."""
        if told is None:
            return
        if not self._is_finished:
            completion = max(told.completion, len(self._said))
            told = replace(told, completion=completion, total=told.prompt + completion, is_estimate=True)
        self.usage = told


class ChatStream(LiteLLMStream):
    """Chunks of chat completions."""

    def __init__(self, result: Any, attempt: Attempt, wire: "Wire", now: Now) -> None:
        super().__init__(result, attempt, wire, now)
        self._told: dict[str, Any] | None = None
        self._counted = 0
        self._head: dict[str, Any] = {}

    def _passed(self, item: Any) -> bytes:
        chunk = plain(item)
        chunk["model"] = self._attempt.mapping.model
        chunk.pop("usage", None)
        choices = [choice for choice in chunk.get("choices") or () if _brings_something(choice)]
        if self._attempt.path == COMPLETIONS:
            chunk |= {"object": "text_completion", "choices": [text_choice(choice) for choice in choices]}
        for choice in choices:
            self._heard(said_in(choice))
            self._is_finished |= bool(choice.get("finish_reason"))
            self.is_begun |= brings_more_than_a_role(choice)
        self._head = {name: chunk[name] for name in ("id", "object", "created", "model") if name in chunk}
        self._take_usage()
        return b"data: " + dumped(chunk) + b"\n\n" if choices else b""

    def _last(self) -> bytes:
        super()._last()
        self._take_usage()
        wants = self._attempt.wants_usage and self._told
        chunk = dumped({**self._head, "choices": [], "usage": self._told}) if wants else b""
        return b"data: " + chunk + b"\n\n" + DONE if chunk else DONE

    def _take_usage(self) -> None:
        """LiteLLM keeps what was told apart. Providers tell it once, or more each time."""
        chunks = self._result.chunks
        for chunk in chunks[self._counted :]:
            if (told := getattr(chunk, "usage", None)) is not None:
                content = plain(told)
                self._told = content if usage_of(content) else self._told
        self._counted = len(chunks)
        self._book(usage_of(self._told))


def _brings_something(choice: dict[str, Any]) -> bool:
    """LiteLLM's reports of tokens come with an empty choice."""
    return bool(choice.get("finish_reason") or choice.get("delta"))


OPENINGS = frozenset(("message_start", "ping", "response.created", "response.queued", "response.in_progress"))
"""Events that tell of an answer before anything of it has come."""


class EventStream(LiteLLMStream):
    """Events of `/v1/responses` and `/v1/messages`, which have a last one of their own."""

    _LAST = frozenset(("message_stop", "response.completed", "response.incomplete"))

    def __init__(self, result: Any, attempt: Attempt, wire: "Wire", now: Now) -> None:
        super().__init__(result, attempt, wire, now)
        self._splitter = Splitter()
        self._tokens: dict[str, Any] = {}
        self._passed_on = 0
        self._failure: Failure | None = None
        """What the event that was passed on last means: nothing good comes after it."""

    async def _piece(self) -> bytes | None:
        if self._failure is not None:
            raise self._failure
        return await super()._piece()

    def _passed(self, item: Any) -> bytes:
        """Up to the first event that is wrong: what came with it, but before it, is not lost."""
        passed: list[bytes] = []
        try:
            passed.extend(self._checked(event) for event in self._events(item))
        except Exception as error:
            if not (self._is_open and passed):
                raise
            self._failure = self._broken(error)
        return b"".join(passed)

    def _events(self, item: Any) -> Iterator[dict[str, Any]]:
        if not isinstance(item, (bytes, str)):
            yield plain(item)
            return
        for raw in self._splitter.feed(item if isinstance(item, bytes) else item.encode()):
            if (data := data_of(raw)) is not None and data != b"[DONE]":
                yield _event(data)

    def _checked(self, event: dict[str, Any]) -> bytes:
        kind = str(getattr(event.get("type"), "value", event.get("type", "")))
        if kind == "error":
            raise self._told(event.get("error") or {**event, "type": None})
        if kind == "response.failed":
            self._failure = self._failed(event)
            if not self._is_cut:
                raise self._failure
        for name in ("message", "response"):
            inner = event.get(name)
            if isinstance(inner, dict):
                inner["model"] = self._attempt.mapping.model
                self._take_usage(inner.get("usage"))
        self._take_usage(event.get("usage"))
        self._heard(_said_in(event))
        self._is_finished |= kind in self._LAST
        self.is_begun |= kind not in OPENINGS
        self._book(tokens_of(self._tokens, self._attempt.path))
        if self._attempt.path == RESPONSE:
            event.setdefault("sequence_number", self._passed_on)
        self._passed_on += 1
        return b"event: " + kind.encode() + b"\ndata: " + dumped(event) + b"\n\n"

    def _failed(self, event: dict[str, Any]) -> Failure:
        response = event.get("response")
        return self._told(response.get("error") if isinstance(response, dict) else None)

    def _told(self, error: Any) -> Failure:
        failure: Failure = failure_in_stream(error, self._wire, is_cut=self._is_cut)
        return failure

    def _take_usage(self, told: Any) -> None:
        """Anthropic tells the prompt's tokens first and the answer's last."""
        if isinstance(told, dict):
            self._tokens |= {name: value for name, value in told.items() if value is not None}


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        event = None
    if not isinstance(event, dict):
        raise ValueError("an event that is no object")
    return event


def _said_in(event: dict[str, Any]) -> str:
    """Anthropic's deltas are objects, those of responses are texts."""
    delta = event.get("delta")
    if isinstance(delta, str):
        return delta
    if not isinstance(delta, dict):
        return ""
    texts = (delta.get(name) for name in ("text", "thinking", "partial_json"))
    return "".join(text for text in texts if isinstance(text, str))


def stream_of(path: str) -> type[LiteLLMStream]:
    """The kind of stream that a path answers with."""
    return EventStream if path in (MESSAGES, RESPONSE) else ChatStream
