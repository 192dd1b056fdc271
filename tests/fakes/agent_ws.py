"""A small working agent behind the WebSocket protocol, with the real ones' surprises.

async with FakeAgent() as agent:
    agent.says([Say("Hello "), Say("world")])
    ...                                # agent.base("agent_17"), whatever the prefix
    assert agent.messages[0]["text"] == "hi"
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import WSMsgType, web

STATUS = {"type": "STATUS"}
END = {"type": "AGENT_EVENT_END"}


def say(text: str) -> dict[str, Any]:
    return {"type": "AGENT_EVENT_TEXT_CHUNK", "text": text}


def send(path: str) -> dict[str, Any]:
    return {"type": "AGENT_EVENT_SEND_FILE", "path": path}


@dataclass
class Pause:
    """The agent thinks, or hangs."""

    seconds: float


class Hangup:
    """The connection breaks."""


Step = dict[str, Any] | str | bytes | Pause | Hangup


class FakeAgent:
    """Listens on a free port of the loopback from `async with` on; every path that ends right is a chat."""

    def __init__(self) -> None:
        self.first: Step | None = STATUS
        self.messages: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.open = 0
        self.most_open: dict[str, int] = {}
        self._open_chats: dict[str, int] = {}
        self._scripts: list[list[Step]] = [[say("Done."), END]]
        self._runner: web.AppRunner | None = None
        self.port = 0

    def says(self, *scripts: list[Step]) -> None:
        """What the agent does for each message; the last script again and again."""
        self._scripts = list(scripts)

    def base(self, prefix: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/{prefix}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        if "/v1/agent_ws/" not in request.path or not request.path.endswith("/"):
            return web.Response(status=404)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.open += 1
        chats, path = self._open_chats, request.path
        chats[path] = chats.get(path, 0) + 1
        self.most_open[path] = max(self.most_open.get(path, 0), chats[path])
        try:
            await self._talk(socket)
        finally:
            self.open -= 1
            chats[path] -= 1
        return socket

    async def _talk(self, socket: web.WebSocketResponse) -> None:
        if self.first is not None and not await _do(socket, self.first):
            return
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                return
            self.messages.append(json.loads(message.data))
            script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
            working = asyncio.create_task(_play(socket, script))
            leaving = asyncio.create_task(socket.receive())
            try:
                await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (working, leaving):
                    task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)
            return


async def _play(socket: web.WebSocketResponse, script: list[Step]) -> None:
    for step in script:
        if not await _do(socket, step):
            return
    await asyncio.sleep(0.2)


async def _do(socket: web.WebSocketResponse, step: Step) -> bool:
    match step:
        case Pause():
            await asyncio.sleep(step.seconds)
        case Hangup():
            await socket.close()
            return False
        case str():
            await socket.send_str(step)
        case bytes():
            await socket.send_bytes(step)
        case _:
            await socket.send_json(step)
    return True
