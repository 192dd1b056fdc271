"""What a person does on the dashboard, and what it shows; rows as the API gives them."""

import time

from playwright.sync_api import Locator, Page, expect

from quarterdeck.router.backend import Limit
from quarterdeck.router.limits.rules import LimitHint
from tests.fakes.router_admin import TOKEN, SmallRouter, iso

MAPPED = {"kimi": {"native_id": "vendor/kimi"}}


def sign_in(page: Page, token: str = TOKEN) -> None:
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def go(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()


def row(page: Page, text: str) -> Locator:
    return page.locator("tbody tr:visible", has_text=text).first


def cells(found: Locator) -> list[str]:
    return [cell.inner_text().strip() for cell in found.locator("td").all()]


def fault(page: Page, field: str) -> Locator:
    return page.locator(f"[data-field={field}] .field-error")


def cool(router: SmallRouter, model: str, summary: str, seconds: float = 3600.0) -> None:
    now = time.time()
    admission = router.balancer.admit(model, (), now)
    assert admission is not None
    router.balancer.limited(admission, now, LimitHint(Limit.QUOTA, seconds), summary)


def open_add_form(page: Page) -> None:
    go(page, "Providers")
    page.get_by_role("button", name="Add provider").click()


def fill_provider(page: Page, **fields: str) -> None:
    for label, value in (
        {"Name": "NVIDIA A", "API Base URL": "https://a.example/v1", "API Key": "sk-new"} | fields
    ).items():
        page.locator("#provider-dialog").get_by_label(label).first.fill(value)


def save(page: Page) -> None:
    page.locator("dialog[open] .save").click()


def hour(backend: str, *, requests: int, errors: int, cost: float, model: str = "kimi") -> dict[str, object]:
    return {
        "hour_bucket": iso(time.time() // 3600 * 3600),
        "backend_id": backend,
        "model": model,
        "pool": "primary",
        "request_count": requests,
        "error_count": errors,
        "total_tokens": 1_500_000,
        "cost": cost,
        "avg_latency_ms": 812,
    }


def call(identity: str, at: str, **values: object) -> dict[str, object]:
    return {
        "id": identity,
        "at": at,
        "attempt": 1,
        "backend_id": "",
        "is_emergency": False,
        "model": "kimi",
        "client_id": "",
        "agent": "",
        "item": "",
        "outcome": "limited",
        "status": 429,
        "total_tokens": 1200,
        "is_estimate": False,
        "cost": 0.001,
        "latency_ms": 900,
        "ttft_ms": None,
    } | values
