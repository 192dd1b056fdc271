"""One backend's stream as the rest of another's that broke off before it had said anything."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import orjson

from quarterdeck.router.ways.sse import data_of


async def continued(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The pieces without the role, which the client has: SDKs would join it to "assistantassistant"."""
    async with aclosing(pieces):  # type: ignore[type-var]
        async for piece in pieces:
            yield b"".join(_without_role(event) for event in piece.split(b"\n\n") if event)


def _without_role(event: bytes) -> bytes:
    data = data_of(event) or b""
    if b'"role"' not in data:
        return event + b"\n\n"
    chunk = orjson.loads(data)
    for choice in chunk.get("choices") or ():
        if isinstance(delta := choice.get("delta"), dict):
            delta.pop("role", None)
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
