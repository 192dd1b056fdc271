"""One backend's stream as the rest of another's that broke off before it had said anything."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import orjson

from quarterdeck.router.ways.litellm_stream import OPENINGS
from quarterdeck.router.ways.sse import data_of


async def continued(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The pieces without what the client has: the role, the events that open an answer.

    SDKs would join the role to "assistantassistant", and begin anew at a second opening.
    """
    async with aclosing(pieces):  # type: ignore[type-var]
        async for piece in pieces:
            if rest := b"".join(_without_beginning(event) for event in piece.split(b"\n\n") if event):
                yield rest


def _without_beginning(event: bytes) -> bytes:
    if _kind(event) in OPENINGS:
        return b""
    data = data_of(event) or b""
    if b'"role"' not in data:
        return event + b"\n\n"
    chunk = orjson.loads(data)
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return event + b"\n\n"
    for choice in choices:
        if isinstance(delta := choice.get("delta"), dict):
            delta.pop("role", None)
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _kind(event: bytes) -> str:
    """The name of an event, which chats have none of."""
    return event[7:].partition(b"\n")[0].decode() if event.startswith(b"event: ") else ""
