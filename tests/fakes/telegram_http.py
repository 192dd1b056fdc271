"""The door of the fake Bot API server: HTTP on a loopback port, in a thread of its own."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.telegram_state import Ask, Upload

LARGEST_REQUEST = 2**31


@dataclass(frozen=True)
class Answer:
    """What goes back. `drops` breaks the connection instead."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drops: bool = False
    kind: str = "application/json"


class Door:
    """Serves `answer` (methods) and `file` (downloads) until it is closed."""

    def __init__(
        self, answer: Callable[[Ask], Awaitable[Answer]], file: Callable[[str, str], Answer]
    ) -> None:
        self.port = 0
        self._answer, self._file = answer, file
        self._runner: web.AppRunner | None = None
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fake-telegram", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def up(self) -> None:
        """Listen, on the same port as before."""
        application = web.Application(client_max_size=LARGEST_REQUEST)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            application, access_log=None, handler_cancellation=True, shutdown_timeout=0.01
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        """Stop listening and break every connection."""
        if self._runner is None:
            return
        for site in list(self._runner.sites):
            await site.stop()
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()
        self._runner = None

    async def _serve(self, request: web.Request) -> web.Response:
        parts = request.path.split("/")
        if parts[1] == "file":
            answer = self._file(parts[2].removeprefix("bot") if len(parts) > 2 else "", "/".join(parts[3:]))
        else:
            answer = await self._answer(await _ask(request, parts))
        if answer.drops:
            if request.transport is not None:
                request.transport.abort()
            await asyncio.Event().wait()  # the broken connection ends this
        return web.Response(
            status=answer.status, body=answer.body, headers={"Content-Type": answer.kind, **answer.headers}
        )


async def _ask(request: web.Request, parts: list[str]) -> Ask:
    """Parameters come as JSON, as a form, or in the address."""
    known = len(parts) == 3 and parts[1].startswith("bot")
    token, method = (parts[1][3:], parts[2]) if known else ("", "")
    body: dict[str, Any] = dict(request.query)
    if request.content_type == "application/json":
        return Ask(token, method, body | json.loads(await request.read() or b"{}"))
    files = {}
    for name, value in (await request.post()).items():
        if isinstance(value, web.FileField):
            files[name] = Upload(value.filename, value.content_type, value.file.read())
        else:
            body[name] = value
    return Ask(token, method, body, files)
