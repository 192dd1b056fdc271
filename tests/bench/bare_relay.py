"""The least a gateway in Python can do: raw ASGI on uvicorn, one aiohttp client, the model rewritten.

    BARE_UPSTREAM=http://127.0.0.1:PORT uvicorn tests.bench.bare_relay:app

One key is checked; there is no ledger, no limit, no retry, no look at the answer.
"""

import os
from typing import Any

import aiohttp
import orjson

from tests.bench.router_mock import NATIVE_MODEL

_UPSTREAM = os.environ["BARE_UPSTREAM"]
_KEYS = {b"Bearer " + os.environ["BARE_KEY"].encode()}
_HEADERS = {"authorization": "Bearer bench-upstream", "content-type": "application/json"}


class _Relay:
    """The application; its client lives as long as its server."""

    def __init__(self) -> None:
        self._client: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif _key(scope) not in _KEYS:
            await _say(send, 401, b'{"error":{"message":"wrong key"}}')
        else:
            await self._relay(scope, await _read(receive), send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        connector = aiohttp.TCPConnector(limit=0)
        self._client = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._client.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _relay(self, scope: Any, body: bytes, send: Any) -> None:
        assert self._client is not None
        wanted = orjson.loads(body)
        wanted["model"] = NATIVE_MODEL
        url = _UPSTREAM + scope["path"]
        async with self._client.post(url, data=orjson.dumps(wanted), headers=_HEADERS) as answer:
            if not wanted.get("stream"):
                await _say(send, answer.status, await answer.read())
                return
            await send(_start(answer.status, b"text/event-stream"))
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _key(scope: Any) -> bytes:
    return next((value for name, value in scope["headers"] if name == b"authorization"), b"")


async def _read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def _start(status: int, kind: bytes, length: int | None = None) -> dict[str, Any]:
    headers = [(b"content-type", kind)]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _say(send: Any, status: int, body: bytes) -> None:
    await send(_start(status, b"application/json", len(body)))
    await send({"type": "http.response.body", "body": body})


app = _Relay()
