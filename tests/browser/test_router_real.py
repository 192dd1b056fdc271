"""The dashboard on a real router, with a provider that answers and one that asks to slow down."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ROOT, Look
from tests.browser.steps import cells, fill_provider, go, open_add_form, row, save, sign_in

TOKEN = "the-admin-token-of-this-test"
STARTED_WITHIN = 180


@contextmanager
def running(log: Path, *arguments: str, **environment: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A process of our own, stopped in order at the end."""
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            cwd=ROOT,
            stdout=written,
            stderr=written,
        )
    try:
        yield process
    finally:
        process.terminate()  # Ctrl-C is ignored by whatever was started in the background
        process.wait(20)


def said(log: Path, pattern: str, process: "subprocess.Popen[bytes]") -> str:
    """What a process wrote, once it did."""
    give_up = time.monotonic() + STARTED_WITHIN
    while time.monotonic() < give_up:
        if found := re.search(pattern, log.read_text() if log.exists() else ""):
            return found[0]
        assert process.poll() is None
        time.sleep(0.05)
    pytest.fail(f"{log.name} never said {pattern}")


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[str]:
    """The address of a fake provider in a process of its own."""
    log = tmp_path / "provider.log"
    with running(log, "tests.fakes.provider") as process:
        yield said(log, r"http://[\d.]+:\d+", process)


@pytest.fixture
def address(tmp_path: Path, database_url: str) -> Iterator[str]:
    """The address of a real router on a database of its own."""
    home = tmp_path / "home"
    announced = home / "run" / "router.json"
    settings = {
        "QUARTERDECK_HOME": str(home),
        "QUARTERDECK_DATABASE_URL": database_url,
        "SIDECAR_PORT": "0",
        "SIDECAR_METRICS_PORT": "0",
        "SIDECAR_ADMIN_TOKEN": TOKEN,
        "SIDECAR_SSE_INTERVAL": "0.1",
    }
    with running(tmp_path / "router.log", "deployments.router", **settings) as process:
        yield json.loads(said(announced, r"(?s)\{.*\}", process))["calls"]


def ask(address: str, model: str, key: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "All hands on deck!"}]}
    headers = {"Authorization": f"Bearer {key}", "X-Quarterdeck-Item": "ET-001"}
    return httpx.post(f"{address}/v1/chat/completions", json=body, headers=headers, timeout=30)


@pytest.fixture
def page(looking: Look, address: str) -> Page:
    opened = looking(address)
    sign_in(opened, TOKEN)
    expect(opened.locator("#connection")).to_contain_text("connected · up")
    return opened


def test_a_day_at_a_real_router(page: Page, address: str, provider: str):
    expect(page.locator("#first-step")).to_be_visible()

    open_add_form(page)
    price = {"input": 0.0000025, "output": 0.00001}
    mapped = {"good": {"native_id": "gpt", "cost": price}, "bad": {"native_id": "429-quota", "cost": price}}
    fill_provider(
        page, Name="Ours", **{"API Base URL": f"{provider}/v1", "Model Mappings": json.dumps(mapped)}
    )
    save(page)
    expect(row(page, "Ours")).to_contain_text("healthy")
    assert cells(row(page, "Ours"))[5] == "2"

    go(page, "Clients")
    page.get_by_role("button", name="Create client key").click()
    page.locator("#client_name").fill("ci")
    page.locator("#client_agent").fill("anna")
    page.locator("#client_tokens").fill("1000000")
    save(page)
    expect(page.locator("#shown-key")).to_be_visible()
    key = page.locator("#shown-key").inner_text()
    page.get_by_role("button", name="I have stored it").click()

    assert ask(address, "good", "wrong").status_code == 401
    answer = ask(address, "good", key)
    assert answer.status_code == 200
    tokens = answer.json()["usage"]["total_tokens"]
    expect(row(page, "ci")).to_contain_text(f"{tokens:,}\nof 1,000,000", use_inner_text=True, timeout=15_000)
    go(page, "Dashboard")
    expect(page.locator("[data-figure=tokens]")).to_have_text(f"{tokens:,}")
    go(page, "Requests")
    expect(row(page, "good")).to_contain_text("anna")
    assert cells(row(page, "good"))[3:6] == ["Ours", "1", "ok"]
    expect(row(page, "good")).to_contain_text("ET-001")
    go(page, "Usage Stats")
    expect(row(page, "good")).to_contain_text("Ours")

    assert ask(address, "bad", key).status_code == 503
    go(page, "Providers")
    expect(row(page, "Ours")).to_contain_text("cooling")
    expect(page.locator(".condition")).to_contain_text("quota used up until a date")
    go(page, "Cooldown Log")
    expect(row(page, "Ours")).to_contain_text("not yet")
    go(page, "Providers")
    page.get_by_role("button", name="Reset Ours").click()
    expect(row(page, "Ours")).to_contain_text("healthy")
    assert ask(address, "good", key).status_code == 200

    page.get_by_role("button", name="Delete Ours").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#notices")).to_contain_text("Ours was deleted.")
    expect(page.locator("#providers-panel")).not_to_contain_text("Ours")
    go(page, "Usage Stats")
    expect(row(page, "good")).to_contain_text("Ours")


def test_what_the_real_admin_api_refuses_is_shown_at_its_field(page: Page):
    open_add_form(page)
    mapped = {"kimi": {"native_id": "n", "cost": {"input": -1}}}
    fill_provider(page, Name="x" * 201, **{"Model Mappings": json.dumps(mapped)})
    save(page)
    expect(page.locator("[data-field=name] .field-error").first).to_contain_text("at most 200 characters")
    expect(page.locator("[data-field=model_mappings] .field-error")).to_contain_text("kimi.cost.input")


def test_a_wrong_token_is_refused_by_the_real_router(looking: Look, address: str):
    page = looking(address)
    sign_in(page, "wrong")
    expect(page.locator("[data-field=token] .field-error")).to_have_text("The admin token is invalid.")
