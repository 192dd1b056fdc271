"""The built-in backend: answers by itself so that a desk can be tried before any key is entered.

It says what it is in every answer, costs nothing, and is never used once a real backend exists.
"""

from collections.abc import AsyncIterator
from typing import Any

import orjson

from quarterdeck.router.backend import REHEARSAL, Backend, Mapping, Usage
from quarterdeck.router.exchange import Answer, Attempt, Failure, Outcome, Stream

CHAT = "/v1/chat/completions"


BACKEND = Backend(
    id="bkd_rehearsal",
    name="Rehearsal (built in)",
    api_base_url="",
    api=REHEARSAL,
    rpm_limit=1000,
    mappings={REHEARSAL: Mapping(REHEARSAL, REHEARSAL)},
)
"""The backend itself: one model, called `rehearsal`."""


class RehearsalWay:
    """Answers chats by repeating what was asked."""

    async def send(self, attempt: Attempt) -> Answer | Stream:
        """Raises `Failure` (`refused`) for everything but chats."""
        if attempt.path != CHAT:
            raise Failure(
                Outcome.REFUSED,
                "The rehearsal backend only chats.",
                status=400,
                body=_error("The rehearsal backend only chats. Add a real backend for everything else."),
            )
        said = f"[rehearsal] No model was asked. You said: {_last_words(attempt.body)}"
        usage = Usage(prompt := len(orjson.dumps(attempt.body)) // 4, done := len(said) // 4, prompt + done)
        if attempt.is_stream:
            return _Spoken(attempt, said, usage)
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = _envelope("chat.completion") | {"choices": [choice], "usage": _told(usage)}
        return Answer(200, "application/json", orjson.dumps(body), usage)

    async def close(self) -> None:
        """Nothing is open."""


class _Spoken:
    """The same answer, word by word."""

    headers: tuple[tuple[bytes, bytes], ...] = ()
    first_content_at: float | None = None
    is_begun = True

    def __init__(self, attempt: Attempt, said: str, usage: Usage) -> None:
        self.usage: Usage | None = usage
        self._said = said
        self._wants_usage = attempt.wants_usage

    async def pieces(self) -> AsyncIterator[bytes]:
        for word in self._said.split(" "):
            yield _event({"choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if self._wants_usage and self.usage:
            yield _event({"choices": [], "usage": _told(self.usage)})
        yield b"data: [DONE]\n\n"

    def text(self) -> str:
        return self._said

    async def close(self) -> None:
        """Nothing is open."""


def _last_words(body: Any) -> str:
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else {}
    content = last.get("content") if isinstance(last, dict) else ""
    return (content if isinstance(content, str) else "")[:500]


def _envelope(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-rehearsal", "object": kind, "created": 0, "model": REHEARSAL}


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(_envelope("chat.completion.chunk") | fields) + b"\n\n"


def _told(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
    }


def _error(message: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": "Error_400", "code": "rehearsal"}})
