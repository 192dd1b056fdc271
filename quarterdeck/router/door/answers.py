"""What the router itself says to clients: errors as bodies and as events, in the shape that their SDKs read.

The shape is OpenAI's; for `/v1/messages` it is Anthropic's as well (both look into `error`).
"""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson

Header = tuple[bytes, bytes]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
NO_RETRY = (b"x-should-retry", b"false")
"""The OpenAI and Anthropic SDKs obey it."""

_MESSAGES = "/v1/messages"
_RESPONSES = "/v1/responses"


@dataclass(slots=True)
class Refusal(Exception):
    """Why a client gets no answer, with the status that says so."""

    status: int
    message: str
    code: str
    kind: str = ""
    headers: tuple[Header, ...] = field(default=())

    def __str__(self) -> str:
        return self.message

    def error(self) -> dict[str, Any]:
        kind = self.kind or f"Error_{self.status}"
        return {"message": self.message, "type": kind, "param": None, "code": self.code}

    def body(self, path: str) -> bytes:
        whole: dict[str, Any] = {"error": self.error()}
        return orjson.dumps({"type": "error", **whole} if path == _MESSAGES else whole)

    def event(self, path: str) -> bytes:
        """The same as the last event of a stream that has begun."""
        if path == _RESPONSES:
            said = {"type": "error", "code": self.code, "message": self.message, "param": None}
            return b"event: error\ndata: " + orjson.dumps({**said, "error": self.error()}) + b"\n\n"
        name = b"event: error\n" if path == _MESSAGES else b""
        return name + b"data: " + self.body(path) + b"\n\n"


def stopping() -> Refusal:
    """No more calls are taken, and those that take too long are ended."""
    headers = ((b"retry-after", b"2"), (b"connection", b"close"))
    return Refusal(503, "The router is stopping; ask again.", "stopping", headers=headers)


def seconds(wait: float) -> bytes:
    """A wait as `Retry-After` has it: whole seconds, at least one."""
    return str(max(1, -int(-wait // 1))).encode()


async def say(
    send: Send, status: int, body: bytes, headers: tuple[Header, ...] = (), kind: bytes = JSON
) -> None:
    """A whole answer."""
    own = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body})
