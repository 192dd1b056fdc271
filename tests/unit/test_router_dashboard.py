"""The dashboard's doors: who may see what, what the page may do, and how the live stream is shared."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Any

import httpx
import pytest

from quarterdeck.router.backend import Limit
from quarterdeck.router.dashboard.pages import PAGES
from quarterdeck.router.dashboard.snapshot import KEEP_ALIVE, Feed
from quarterdeck.router.limits.rules import LimitHint
from tests.fakes.router_admin import TOKEN, SmallRouter

STATIC = files("quarterdeck.router.dashboard").joinpath("static")
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def router() -> SmallRouter:
    return SmallRouter()


@pytest.fixture
async def browser(router: SmallRouter) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(router.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        yield client


@dataclass
class Stream:
    """An answer that has no end, as its viewer sees it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: "asyncio.Queue[bytes]" = field(default_factory=asyncio.Queue)
    is_over: bool = False

    async def event(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            part = await self.parts.get()
        assert part.startswith(b"data: ") and part.endswith(b"\n\n")
        return dict(json.loads(part[6:]))


@asynccontextmanager
async def watching(router: SmallRouter, headers: dict[str, str]) -> AsyncIterator[Stream]:
    """A viewer of the live stream, who leaves at the end."""
    stream, asked, leaves, answered = Stream(), asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not asked.is_set():
            asked.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            stream.status = message["status"]
            stream.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            answered.set()
        elif message["body"]:
            stream.parts.put_nowait(message["body"])

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/dashboard/sse", "query_string": b"", "headers": raw}
    answering = asyncio.create_task(router.app(scope, receive, send))
    answering.add_done_callback(lambda _: setattr(stream, "is_over", True))
    await answered.wait()
    yield stream
    leaves.set()
    async with asyncio.timeout(20):
        await answering


async def test_the_page_is_open_to_everyone_and_tells_nothing(
    router: SmallRouter, browser: httpx.AsyncClient
):
    before = (await browser.get("/dashboard")).text
    router.add(name="canary-provider", label="canary-label")
    router.add_client(name="canary-client")
    assert (await browser.get("/dashboard")).text == before
    for page in PAGES:
        assert f'id="page-{page.id}"' in before and f'href="#{page.id}"' in before


async def test_the_page_may_run_and_load_only_what_is_its_own(browser: httpx.AsyncClient):
    for path in ("/dashboard", "/dashboard/static/app.js", "/dashboard/static/style.css"):
        headers = (await browser.get(path)).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect", "font")} == {"'self'"}
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


async def test_the_page_has_no_inline_code_and_no_address_of_another_host(browser: httpx.AsyncClient):
    page = (await browser.get("/dashboard")).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == [""]
    asked_for = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert asked_for and all(path.startswith("dashboard/static/") for path in asked_for)
    for path in asked_for:
        assert (await browser.get(f"/{path}")).status_code == 200


@pytest.mark.parametrize("name", sorted(file.name for file in STATIC.iterdir()))
async def test_every_file_is_served_and_asks_for_nothing_elsewhere(browser: httpx.AsyncClient, name: str):
    answer = await browser.get(f"/dashboard/static/{name}")
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert answer.headers["content-type"] == f"{kinds[name.rpartition('.')[2]]}; charset=utf-8"
    assert set(re.findall(r"\w+://\w[^\s\"'`)]+", answer.text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|url\(", answer.text
    )
    for module in re.findall(r'(?:from |import\()"\./([^"]+)"', answer.text):
        assert STATIC.joinpath(module).is_file()


async def test_what_the_browser_has_already_is_not_sent_again(browser: httpx.AsyncClient):
    first = await browser.get("/dashboard/static/app.js")
    again = await browser.get("/dashboard/static/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["none.js", "../pages.py", "..%2fpages.py", "%2e%2e/templates/dashboard.html"]
)
async def test_no_other_file_is_served(browser: httpx.AsyncClient, path: str):
    assert (await browser.get(f"/dashboard/static/{path}")).status_code == 404


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}])
async def test_the_live_stream_needs_the_admin_token(router: SmallRouter, headers: dict[str, str]):
    router.add(name="canary")
    async with watching(router, headers) as stream:
        assert stream.status == 401
        assert stream.headers["www-authenticate"] == "Bearer"
        assert b"canary" not in await stream.parts.get()


async def test_a_snapshot_tells_how_every_backend_stands(router: SmallRouter):
    router.add(name="A", label="tag", rpm_limit=60, model_mappings={"m": {"native_id": "n"}})
    async with watching(router, AUTHORIZED) as stream:
        assert {
            name: stream.headers[name] for name in ("cache-control", "connection", "x-accel-buffering")
        } == {
            "cache-control": "no-cache",
            "connection": "keep-alive",
            "x-accel-buffering": "no",
        }
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = await stream.event()
    assert told.keys() == {"type", "pool", "total", "backends", "uptime_seconds", "timestamp"}
    assert told["type"] == "snapshot"
    assert told["pool"]["primary"] == {"total": 1, "enabled": 1, "healthy": 1, "cooling": 0, "error": 0}
    assert told["pool"]["fallback"]["total"] == 0
    assert told["total"] == router.totals
    backend = told["backends"][0]
    assert (
        backend
        | {
            "name": "A",
            "label": "tag",
            "pool": "primary",
            "enabled": True,
            "status": "healthy",
            "rpm_limit": 60,
            "cooldown_until": None,
            "consecutive_429_count": 0,
            "model_count": 1,
            "half_open": None,
        }
        == backend
    )
    assert backend["rate_limiter"]["capacity"] == 60


async def test_a_cooling_backend_says_why_since_when_and_until_when(router: SmallRouter):
    identity = router.add(name="A", model_mappings={"m": {"native_id": "n"}})
    at = router.started_at
    admission = router.balancer.admit("m", (), at)
    assert admission is not None
    router.balancer.limited(admission, at, LimitHint(Limit.QUOTA, 90.5), "Used up.")
    async with watching(router, AUTHORIZED) as stream:
        backend = (await stream.event())["backends"][0]
    assert (backend["id"], backend["status"], backend["kind"], backend["reason"]) == (
        *(identity, "cooling", "quota"),
        "Used up.",
    )
    until = router.balancer.view(identity, at).until
    assert until is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", backend["cooldown_until"])
    assert until <= datetime.fromisoformat(backend["cooldown_until"]).timestamp() < until + 1
    assert backend["next_probe_at"] == backend["cooldown_until"]
    assert (backend["consecutive_429_count"], backend["half_open"]) == (1, 1)


async def test_a_snapshot_never_holds_a_key(router: SmallRouter):
    router.add(name="A", api_key="sk-canary-0123456789abcdef")
    async with watching(router, AUTHORIZED) as stream:
        assert "canary" not in json.dumps(await stream.event())


class Counted:
    """A source of snapshots that counts them."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> dict[str, int]:
        self.made += 1
        return {"number": self.made}


def number(frame: bytes) -> int:
    return int(json.loads(frame[6:])["number"])


async def test_all_viewers_get_the_same_snapshot_made_once():
    source = Counted()
    feed = Feed(source, lambda: 3600.0)
    viewers = [feed.frames() for _ in range(20)]
    assert {await anext(viewer) for viewer in viewers} == {await anext(feed.frames())}
    assert source.made == 1


async def test_a_snapshot_is_made_no_more_often_than_the_interval_says():
    now = 0.0
    source = Counted()
    feed = Feed(source, lambda: 1.0, clock=lambda: now)
    seen = []
    for now in (0.0, 0.4, 0.99, 1.0, 1.5, 2.1, 9.0):  # noqa: B007
        seen.append(number(await anext(feed.frames())))
    assert seen == [1, 1, 1, 2, 2, 3, 4]


async def test_no_snapshot_is_made_while_nobody_watches():
    source = Counted()
    feed = Feed(source, lambda: 0.001)
    viewer = feed.frames()
    assert [number(await anext(viewer)) for _ in range(3)] == [1, 2, 3]
    await viewer.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert source.made == 3


async def test_a_changed_interval_takes_effect_at_once():
    now, interval = 0.0, 3600.0
    feed = Feed(Counted(), lambda: interval, clock=lambda: now)
    assert number(await anext(feed.frames())) == 1
    now = 10.0
    assert number(await anext(feed.frames())) == 1
    interval = 5.0
    assert number(await anext(feed.frames())) == 2


async def test_a_long_silence_is_broken_by_comments():
    feed = Feed(Counted(), lambda: 3600.0, longest_silence=0.001)
    viewer = feed.frames()
    await anext(viewer)
    assert [await anext(viewer) for _ in range(3)] == [KEEP_ALIVE] * 3
    assert KEEP_ALIVE.startswith(b":") and KEEP_ALIVE.endswith(b"\n\n")


async def test_a_stopping_router_ends_the_streams_of_its_viewers(router: SmallRouter):
    async with watching(router, AUTHORIZED) as stream:
        await stream.event()
        router.dashboard.close()
        async with asyncio.timeout(20):
            while not stream.is_over:
                await asyncio.sleep(0)
