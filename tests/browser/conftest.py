"""A headless Chromium for the tests of pages, and a place for what they looked like."""

import asyncio
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.steps import sign_in
from tests.fakes.router_admin import SmallRouter

ROOT = Path(__file__).parents[2]
ARTEFACTS = ROOT / "artefacts" / "dashboard"
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = {"width": 1440, "height": 900}
NARROW = {"width": 390, "height": 844}

REFUSED = re.compile(r"Failed to load resource: (the server responded|net::ERR_)")
"""What Chromium itself says about an answer that a test wanted to be an error."""

Look = Callable[..., Page]
"""Opens a window on the dashboard at an address."""

expect.set_options(timeout=10_000)


class Serving:
    """A web server in a thread, on a free port; it can be stopped and started on the same one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self.port = 0

    def start(self) -> None:
        config = uvicorn.Config(
            self._make(),
            host="127.0.0.1",
            port=self.port,
            log_level="warning",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.005)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def _serve(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            runner.run(self._server.serve())

    def call(self, what: Callable[[], object]) -> None:
        """Do something where the server's own events and streams may be touched: in its thread."""
        self._loop.call_soon_threadsafe(what)

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(make: Callable[[], Any]) -> Iterator[Serving]:
    """`make` gives an application for each start: what waits in it belongs to one event loop."""
    made = Serving(make)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a file of tests; each test has a context of its own in it."""
    if CHROMIUM is None:
        pytest.fail("There is no Chromium here. Install it (Debian: apt install chromium).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """Whatever a page complains about, or asks of another host; what is left in it fails the test."""
    return []


@pytest.fixture
def looking(chromium: Browser, complaints: list[str]) -> Iterator[Look]:
    """Opens windows."""
    contexts: list[BrowserContext] = []

    def look(address: str, **options: Any) -> Page:
        context = chromium.new_context(viewport=WIDE, timezone_id="UTC", locale="en-US", **options)
        contexts.append(context)
        context.add_init_script(
            "addEventListener('securitypolicyviolation',"
            "(event) => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`))"
        )
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"a script spoke: {dialog.message}"))
        page.on("console", lambda message: _listen(message, complaints))
        page.on("request", lambda request: request.url.startswith(address) or complaints.append(request.url))
        page.goto(f"{address}/dashboard")
        return page

    yield look
    for context in contexts:
        context.close()
    assert complaints == []


def _listen(message: Any, complaints: list[str]) -> None:
    if message.type in ("error", "warning") and not REFUSED.match(message.text):
        complaints.append(message.text)


@pytest.fixture
def router() -> SmallRouter:
    return SmallRouter()


@pytest.fixture
def server(router: SmallRouter) -> Iterator[Serving]:
    with serving(lambda: router.app) as running:
        yield running
        running.call(router.dashboard.close)


@pytest.fixture
def page(server: Serving, looking: Look) -> Page:
    """The dashboard of that router, signed in; closed before the router, which it may be loading from."""
    opened = looking(server.address)
    sign_in(opened)
    expect(opened.locator("#connection")).to_contain_text("connected · up")
    return opened


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Keeps what a page looks like."""

    def keep(page: Page, name: str) -> None:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        (ARTEFACTS / f"{name}.png").write_bytes(page.screenshot(full_page=True))

    return keep
