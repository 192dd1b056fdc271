"""A small Multica: one server and one program over the same books."""

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.fakes.installed import multica_books as books
from tests.fakes.installed.state_file import opened
from tests.fakes.programs import installed


class FakeMultica:
    """Its server answers while it is open; `program` is its command line."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._state = folder / "multica.json"
        self.program = installed(folder / "bin", "multica", "multica_program.py", self._state)
        self.released = Event()
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def connection(self, via: str) -> dict[str, Any]:
        """What a desk must be told, for either way."""
        state = self.state
        return {"via": via, "workspace_id": state["workspace"], "url": self.url,
                "token": state["token"], "program": str(self.program)}  # fmt: skip

    @property
    def state(self) -> dict[str, Any]:
        return self.change(dict)

    def change(self, do: Callable[[dict[str, Any]], Any]) -> Any:
        with opened(self._state, books.EMPTY) as state:
            return do(state)

    def file(self, title: str, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.change(lambda state: books.create(state, title, **fields))
        return made

    def issue(self, identity: str) -> dict[str, Any]:
        found: dict[str, Any] = self.change(lambda state: dict(books.find(state, identity)))
        return found

    def comments(self, identity: str) -> list[str]:
        return [c["content"] for c in self.change(lambda state: books.comments(state, identity))]

    def set(self, **values: Any) -> None:
        self.change(lambda state: state.update(values))


def _handler(multica: FakeMultica) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def _body(self) -> dict[str, Any]:
            size = int(self.headers.get("Content-Length") or 0)
            return json.loads(self.rfile.read(size)) if size else {}

        def _any(self) -> None:
            body, fault = self._body(), multica.state["fault"]
            if fault == "hang":
                multica.released.wait(20)
                self.close_connection = True
                return
            if fault in ("half", "rubbish", "huge"):
                raw = {
                    "half": b'{"issues": [',
                    "rubbish": b"<html>",
                    "huge": b'{"issues": ["' + b"x" * 50_000_000,
                }
                self._send(200, raw[fault])
                return
            if fault in ("exit", "network"):
                self._send(500, b'{"error": "it does not work"}')
                return
            try:
                told = multica.change(lambda state: self._answer(state, body))
            except books.Trouble as trouble:
                self._send(trouble.status, json.dumps({"error": trouble.words}).encode())
                return
            self._send(200, json.dumps(told).encode())

        def _answer(self, state: dict[str, Any], body: dict[str, Any]) -> Any:
            state["calls"].append([self.command, self.path, self.headers.get("X-Workspace-ID", "")])
            if self.headers.get("Authorization") != f"Bearer {state['token']}":
                raise books.Trouble(401, "invalid token")
            if self.headers.get("X-Workspace-ID") != state["workspace"]:
                raise books.Trouble(400, "workspace_id is required")
            parts = urlsplit(self.path)
            path, asked = unquote(parts.path), dict(parse_qsl(parts.query))
            if path == "/api/issues":
                return books.listed(state, asked)
            if match := re.fullmatch(r"/api/issues/([^/]+)/comments", path):
                if self.command == "POST":
                    return books.comment(state, match[1], body.get("content", ""))
                return books.comments(state, match[1])
            if match := re.fullmatch(r"/api/issues/([^/]+)", path):
                if self.command == "PUT":
                    return books.update(state, match[1], body)
                found = books.find(state, match[1])
                return found | {"status_category": state["custom"].get(found["status"], found["status"])}
            if match := re.fullmatch(r"/api/comments/([^/]+)", path):
                return books.delete_comment(state, match[1])
            raise books.Trouble(404, "not found")

        def _send(self, status: int, body: bytes) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815

    return Handler
