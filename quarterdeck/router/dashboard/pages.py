"""The dashboard's doors: the page, its files, and its live stream."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from quarterdeck.router.dashboard.snapshot import Feed, Source
from quarterdeck.router.ways import dialects

PACKAGE = "quarterdeck.router.dashboard"

KINDS = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}

Refuse = Callable[[Request], Response | None]
"""The admin API's own answer to those who may not read it; None for those who may."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect", "font")),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Only our own files; no inline code; text can never become markup (trusted types)."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

STREAM_HEADERS = {
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One entry of the navigation: `id` is its place in the address, `lead` says what it shows."""

    id: str
    title: str
    lead: str


PAGES = (
    Page("dashboard", "Dashboard", "All calls since the first one."),
    Page("providers", "Providers", "One provider is one key at one address."),
    Page("usage", "Usage Stats", "What was used, by hour and by day."),
    Page("cooldowns", "Cooldown Log", "The last 100 times that a provider said: too many requests."),
    Page("requests", "Requests", "The latest attempts at providers, newest first."),
    Page("clients", "Clients", "Who may call: a key each, and what a day may cost."),
)


class Dashboard:
    """An ASGI application with `/dashboard`, `/dashboard/sse` and `/dashboard/static/*`."""

    def __init__(self, source: Source, refuse: Refuse, interval: Callable[[], float]) -> None:
        self._feed = Feed(source, interval)
        self._refuse = refuse
        self._static = _static()
        self._app = Starlette(
            routes=[
                Route("/dashboard", self._show),
                Route("/dashboard/sse", self._stream),
                Route("/dashboard/static/{name}", self._file),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def close(self) -> None:
        """Ends every live stream."""
        self._feed.close()

    async def _show(self, request: Request) -> Response:
        return _page().answer(request)

    async def _stream(self, request: Request) -> Response:
        refusal = self._refuse(request)
        return refusal or StreamingResponse(
            self._feed.frames(), headers=STREAM_HEADERS, media_type="text/event-stream"
        )

    async def _file(self, request: Request) -> Response:
        if document := self._static.get(request.path_params["name"]):
            return document.answer(request)
        return JSONResponse({"detail": "There is no such file."}, 404)


@dataclass(frozen=True, slots=True)
class _Document:
    """A file that is sent whole, or not at all when the browser has it already."""

    content: bytes
    headers: dict[str, str]

    def answer(self, request: Request) -> Response:
        if request.headers.get("if-none-match") == self.headers["ETag"]:
            return Response(status_code=304, headers=self.headers)
        return Response(self.content, headers=self.headers)


def _document(content: bytes, kind: str) -> _Document:
    mark = hashlib.sha256(content).hexdigest()[:16]
    return _Document(content, HEADERS | {"Content-Type": f"{kind}; charset=utf-8", "ETag": f'"{mark}"'})


def _static() -> dict[str, _Document]:
    """All files beside the page, by name; few and small, so that they are kept in memory."""
    found = [file for file in files(PACKAGE).joinpath("static").iterdir() if file.is_file()]
    return {file.name: _document(file.read_bytes(), KINDS[file.name.rpartition(".")[2]]) for file in found}


@cache
def _page() -> _Document:
    from jinja2 import Environment, PackageLoader  # 2 MB, for those who look

    environment = Environment(loader=PackageLoader(PACKAGE), autoescape=True, trim_blocks=True)
    template = environment.get_template("dashboard.html")
    content = template.render(pages=PAGES, dialects=dialects.names()).encode()
    return _document(content, "text/html")
