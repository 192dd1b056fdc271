"""A stream of the OpenAI dialect on its way through: checked event by event, with our name of the model."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import orjson

from quarterdeck.router.backend import Usage
from quarterdeck.router.exchange import Attempt, Failure, Outcome
from quarterdeck.router.limits.rules import outcome_of
from quarterdeck.router.ways.connection_failure import failure_of, in_words
from quarterdeck.router.ways.openai_dialect import (
    brings_more_than_a_role,
    error_status,
    said_in,
    usage_of,
)
from quarterdeck.router.ways.outgoing import Reply
from quarterdeck.router.ways.raw_json import quoted, with_model
from quarterdeck.router.ways.sse import Splitter, data_of

DONE = b"data: [DONE]\n\n"
ALIVE = b": alive\n\n"
"""What becomes of a provider's comments: they keep connections open, their text is nobody's business."""

ENDING_SECONDS = 0.2
"""How long to wait for the end of a body whose last event has come: its connection can be used again then."""


class OpenAIStream:
    """A `Stream`. It reads while it is asked for pieces, and not ahead of them."""

    __slots__ = (
        "_attempt",
        "_failure",
        "_finishes",
        "_is_done",
        "_is_open",
        "_is_sent",
        "_model",
        "_now",
        "_ready",
        "_renamed",
        "_response",
        "_said",
        "_splitter",
        "_wanted",
        "first_content_at",
        "headers",
        "is_begun",
        "usage",
    )

    def __init__(
        self,
        attempt: Attempt,
        response: Reply,
        headers: tuple[tuple[bytes, bytes], ...],
        now: Callable[[], float],
    ) -> None:
        self.headers = headers
        self.usage: Usage | None = None
        self.first_content_at: float | None = None
        self.is_begun = False
        self._attempt = attempt
        self._response = response
        self._now = now
        self._splitter = Splitter()
        self._model = quoted(attempt.mapping.model)
        self._renamed = _renaming(quoted(attempt.mapping.native_id), self._model)
        self._said: list[str] = []
        self._ready = b""
        self._finishes = 0
        self._wanted = _choices(attempt.body.get("n"))
        self._is_open = False
        self._is_sent = False
        self._failure: Failure | None = None
        self._is_done = False

    async def open(self, first: bytes) -> "OpenAIStream":
        """Read until the first event that goes to the client. Raises `Failure`."""
        data = first
        while data:
            self._ready = self._pass_on(data)
            if self._failure:
                raise self._failure
            if self._is_open:
                return self
            data = await self._response.some()
        self._ready = self._last()
        return self

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises `Failure` when the stream breaks off."""
        self._is_sent = True
        self._response.deadline = None
        if self._ready:
            yield self._ready
        while not self._is_done:
            data = await self._read()
            piece = self._pass_on(data) if data else self._last()
            if piece:
                yield piece
            if self._failure:
                raise self._failure

    async def _read(self) -> bytes:
        try:
            return await self._response.some()
        except TimeoutError as error:  # also aiohttp's own
            raise self._ended(Failure(Outcome.TIMED_OUT, "The stream stood still for too long.")) from error
        except (aiohttp.ClientError, OSError) as error:
            reason = f"The stream broke off: {in_words(error)}."
            raise self._ended(Failure(Outcome.CUT, reason) if self.is_begun else failure_of(error)) from error

    def text(self) -> str:
        if len(self._said) > 1:
            self._said = ["".join(self._said)]
        return self._said[0] if self._said else ""

    async def close(self) -> None:
        response = self._response
        if self._is_done and not response.is_at_end:
            with suppress(TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout(ENDING_SECONDS):
                    while await response.some():
                        pass
        response.close()

    def _pass_on(self, data: bytes) -> bytes:
        """What the client gets for these bytes, up to the first that is wrong: then there is a failure."""
        passed = []
        try:
            for event in self._splitter.feed(data):
                if self._is_done:
                    break
                passed.append(self._checked(event))
        except Failure as failure:
            self._failure = failure
        except ValueError as error:
            self._failure = self._broken(f"The stream cannot be read: {error}.")
        return b"".join(passed)

    def _checked(self, event: bytes) -> bytes:
        """One event as the client gets it; nothing for one that it did not ask for."""
        data = data_of(event)
        if data is None:
            return ALIVE if self._is_open and event.strip() else b""
        if data == b"[DONE]":
            self._is_done = self._is_open = True
            return DONE
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise self._broken("The stream has a line that is no JSON.") from None
        if type(chunk) is not dict:
            raise self._broken("The stream has an event that is no object.")
        if chunk.get("error"):
            raise self._refused(chunk["error"], data)
        if self._look_at(chunk):
            return b""
        self._is_open = True
        return self._with_our_name(event, chunk) + b"\n\n"

    def _look_at(self, chunk: dict[str, Any]) -> bool:
        """Note tokens, text and end. Is it a report of tokens that the client has not asked for?"""
        usage = chunk.get("usage")
        if usage is not None:
            self.usage = usage_of(usage) or self.usage
        choices = chunk.get("choices")
        if not choices:
            return usage is not None and not self._attempt.wants_usage
        for choice in choices if type(choices) is list else (choices,):
            if type(choice) is not dict:
                raise self._broken("The stream has a choice that is no object.")
            if said := said_in(choice):
                if self.first_content_at is None:
                    self.first_content_at = self._now()
                self._said.append(said)
            if choice.get("finish_reason"):  # some write "" until there is one
                self._finishes += 1
            if not self.is_begun:
                self.is_begun = brings_more_than_a_role(choice)
        return False

    def _with_our_name(self, event: bytes, chunk: dict[str, Any]) -> bytes:
        """All chunks write the model alike, mostly as it was asked for: that is looked for first."""
        name = chunk.get("model")
        if not isinstance(name, str):
            return event
        if event.count(b'"model"') == 1:
            renamed = event.replace(*self._renamed, 1)
            if renamed is not event:
                return renamed
        self._renamed = _renaming(orjson.dumps(name), self._model)
        return with_model_in_event(event, self._model)

    def _last(self) -> bytes:
        """The body has ended: what is still due to the client. Raises `Failure` when that is too early."""
        rest = self._splitter.rest()
        piece = self._checked(rest) if rest and not self._is_done else b""
        if not self._is_done:
            if self._finishes < self._wanted:
                raise self._broken("The stream ended before the model had finished.")
            self._is_done = True
            piece += DONE
        return piece

    @property
    def _is_cut(self) -> bool:
        """Whether a failure now would leave the client with a part of an answer."""
        return self._is_sent and self.is_begun

    def _broken(self, reason: str) -> Failure:
        outcome = Outcome.CUT if self._is_cut else Outcome.BROKEN
        return self._ended(Failure(outcome, reason, self._response.status))

    def _ended(self, failure: Failure) -> Failure:
        failure.is_charged, failure.usage = self._is_open, self.usage
        return failure

    def _refused(self, error: Any, data: bytes) -> Failure:
        status = error_status(error)
        outcome = Outcome.CUT if self._is_cut else outcome_of(status, data)
        reason = f"The provider sent an error ({status}) in its stream."
        told = dict(self._response.headers)
        return Failure(outcome, reason, status, data, headers=told, passed_on=self.headers)


def with_model_in_event(event: bytes, name: bytes) -> bytes:
    """The event with another model in its data. Data in several lines become one."""
    start = event.find(b"{") if event.startswith(b"data:") and b"\n" not in event else -1
    if start >= 0:
        return event[:start] + with_model(event[start:], name)
    fields = [line for line in event.split(b"\n") if not line.startswith((b"data:", b":"))]
    data = with_model((data_of(event) or b"").replace(b"\n", b" "), name)
    return b"\n".join([*fields, b"data: " + data])


def _renaming(theirs: bytes, ours: bytes) -> tuple[bytes, bytes]:
    """What is replaced by what where the model is written without spaces, as almost everybody does."""
    return b'"model":' + theirs, b'"model":' + ours


def _choices(wanted: Any) -> int:
    return wanted if isinstance(wanted, int) and wanted > 0 else 1
