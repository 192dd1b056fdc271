"""The dashboard in a real browser: who may see it, how it stays live, that text stays text, small screens."""

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import NARROW, Look, Serving
from tests.browser.steps import (
    MAPPED,
    call,
    cool,
    fault,
    fill_provider,
    go,
    open_add_form,
    row,
    save,
    sign_in,
)
from tests.fakes.router_admin import TOKEN, SmallRouter, iso
from tests.fakes.router_week import fill

PAGES = ("dashboard", "providers", "usage", "cooldowns", "requests", "clients")
SCRIPT = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&lt;"


# Who may see it.


def test_nothing_is_shown_and_nothing_is_asked_without_a_token(
    server: Serving, looking: Look, router: SmallRouter
):
    router.add(name="canary")
    page = looking(server.address)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_role("navigation")).to_be_hidden()
    save_nothing = page.get_by_role("button", name="Sign in")
    save_nothing.click()
    expect(fault(page, "token")).to_have_text("Enter the token.")
    assert "canary" not in page.content()


def test_a_wrong_token_is_refused_in_plain_words_and_can_be_corrected(server: Serving, looking: Look):
    page = looking(server.address)
    sign_in(page, "wrong")
    expect(fault(page, "token")).to_have_text("The admin token is not valid.")
    expect(page.get_by_label("Admin token")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0
    sign_in(page)
    expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()


def test_a_token_that_cannot_be_one_is_not_sent(server: Serving, looking: Look):
    page = looking(server.address)
    sign_in(page, "пароль")
    expect(fault(page, "token")).to_contain_text("no letters beyond plain ones")


def test_the_token_is_kept_for_the_tab_only(page: Page, server: Serving, looking: Look):
    expect(page.locator("#chart-cost svg")).to_be_visible()  # nothing is under way when the page goes
    page.reload()
    expect(page.locator("#connection")).to_contain_text("connected")
    assert page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]
    assert TOKEN not in page.url
    other = looking(server.address)
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()


def test_signing_out_forgets_the_token_and_all_that_was_shown(page: Page, router: SmallRouter):
    router.add(name="canary")
    go(page, "Providers")
    expect(row(page, "canary")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    assert "canary" not in page.content()


def test_a_token_that_was_changed_meanwhile_leads_back_to_signing_in(page: Page, router: SmallRouter):
    open_add_form(page)
    fill_provider(page)
    router.token = "another"
    save(page)
    expect(fault(page, "token")).to_have_text("The admin token is not valid.")
    expect(page.locator("#provider-dialog")).to_be_hidden()
    assert router.stored == {}
    sign_in(page, "another")
    expect(page.get_by_role("heading", name="Providers")).to_be_visible()


# The connection.


def test_connected_is_said_only_after_the_first_event(server: Serving, looking: Look):
    page = looking(server.address)
    held: list[Route] = []
    page.route("**/dashboard/sse", lambda route: held.append(route))
    page.evaluate(
        """() => {
          window.said = [];
          const place = document.querySelector("#connection-state");
          new MutationObserver(() => window.said.push(place.textContent))
            .observe(place, {characterData: true, childList: true, subtree: true});
        }"""
    )
    with page.expect_request("**/dashboard/sse"):
        sign_in(page)
    expect(page.get_by_role("button", name="Checking…")).to_be_disabled()
    held[0].fulfill(content_type="text/event-stream", body=": still here\n\n")  # an answer, but no event
    expect(page.locator("[data-field=token] .field-error")).to_contain_text("cannot be reached")
    page.unroute("**/dashboard/sse")
    expect(page.locator("#connection")).to_contain_text("connected · up")
    assert page.evaluate("window.said") == ["connecting…", "disconnected", "connected"]


def test_a_lost_connection_is_said_and_comes_back_by_itself(page: Page, server: Serving, router: SmallRouter):
    router.add(name="Still here")
    go(page, "Providers")
    expect(row(page, "Still here")).to_be_visible()
    server.stop()
    expect(page.locator("#connection")).to_contain_text("disconnected · again in")
    expect(page.locator("#connection")).to_have_attribute("data-state", "off")
    expect(row(page, "Still here")).to_be_visible()
    server.start()
    router.add(name="New")
    expect(page.locator("#connection")).to_contain_text("connected · up")
    expect(row(page, "New")).to_be_visible()


def test_a_person_need_not_wait_for_the_next_try(page: Page, server: Serving):
    page.clock.install()
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 1)  # no try comes by itself
    server.stop()
    expect(page.locator("#connection")).to_have_text("disconnected · again in 1s")
    server.start()
    retry = page.get_by_role("button", name="Retry now")
    retry.click()
    expect(page.locator("#connection")).to_contain_text("connected · up")
    expect(retry).to_be_hidden()


def test_the_stream_is_asked_for_with_the_token(page: Page):
    expect(page.locator("#chart-cost svg")).to_be_visible()  # nothing is under way when the page goes
    with page.expect_request("**/dashboard/sse") as asked:
        page.reload()
    assert asked.value.headers["authorization"] == f"Bearer {TOKEN}"


# Live.


def test_live_changes_leave_rows_focus_selection_and_half_typed_forms_alone(page: Page, router: SmallRouter):
    first = router.add(name="First", model_mappings=MAPPED)
    router.add(name="Second")
    go(page, "Providers")
    edit = page.get_by_role("button", name="Edit Second")
    edit.focus()
    page.evaluate(
        """() => {
          window.before = [...document.querySelectorAll("#providers-panel tbody tr")];
          getSelection().selectAllChildren(window.before[1].cells[0]);
        }"""
    )
    cool(router, "kimi", "Wait.")
    router.add(name="Third")
    expect(row(page, "Third")).to_be_visible()
    expect(page.locator(".condition")).to_be_visible()
    expect(edit).to_be_focused()
    assert page.evaluate("window.before.every((row) => row.isConnected)")
    assert page.evaluate("getSelection().toString()") == "Second"

    edit.click()
    page.locator("#provider-dialog #label").fill("half ty")
    router.stored[first]["name"] = "Renamed"
    router._adopt()
    expect(page.locator("#providers-panel")).to_contain_text("Renamed")
    expect(page.locator("#provider-dialog #label")).to_have_value("half ty")
    expect(page.locator("#provider-dialog #label")).to_be_focused()


def test_an_open_choice_stays_while_backends_come_and_go(page: Page, router: SmallRouter):
    router.add(name="First")
    second = router.add(name="Second")
    go(page, "Usage Stats")
    chosen = page.get_by_label("Backend")
    chosen.select_option("Second")
    router.add(name="Third")
    expect(chosen.locator("option", has_text="Third")).to_be_attached()
    expect(chosen).to_have_value(second)
    assert chosen.locator("option").all_inner_texts() == ["All", "First", "Second", "Third"]


def test_nothing_is_drawn_anew_that_did_not_change(page: Page, router: SmallRouter):
    router.add(name="Quiet")
    go(page, "Providers")
    expect(row(page, "Quiet")).to_be_visible()
    page.evaluate(
        """() => {
          window.changes = 0;
          new MutationObserver((seen) => { window.changes += seen.length; })
            .observe(document.querySelector("#page-providers"),
              {subtree: true, childList: true, characterData: true, attributes: true});
        }"""
    )
    seen = page.locator("#connection").inner_text()
    expect(page.locator("#connection")).not_to_have_text(seen)
    assert page.evaluate("window.changes") == 0


# Text stays text.


def test_script_text_in_every_field_stays_text(page: Page, router: SmallRouter):
    mapped = {SCRIPT: {"native_id": SCRIPT}}
    identity = router.add(name=SCRIPT, label=SCRIPT, model_mappings=mapped)
    client, _ = router.add_client(name=SCRIPT)
    client["key_hint"] = client["agent"] = SCRIPT  # the form takes no such agent; an old row may have it
    at = iso(time.time())
    usage = {"error_count": 1, "total_tokens": 1, "cost": 1.0, "avg_latency_ms": 1}
    router.hourly = [
        {
            "hour_bucket": at,
            "backend_id": identity,
            "model": SCRIPT,
            "pool": "primary",
            "request_count": 1,
            **usage,
        },
        {
            "hour_bucket": at,
            "backend_id": SCRIPT,
            "model": "m",
            "pool": "primary",
            "request_count": 1,
            **usage,
        },
    ]
    router.daily = [
        {
            "date": SCRIPT,
            "pool": SCRIPT,
            "total_requests": 1,
            "total_errors": 0,
            "total_tokens": 1,
            "total_cost": 0.1,
            "unique_backends": 1,
        }
    ]
    router.events = [
        {
            "id": SCRIPT,
            "backend_id": identity,
            "consecutive_count": 1,
            "cooldown_seconds": 30,
            "started_at": at,
            "ended_at": None,
            "response_summary": SCRIPT,
        }
    ]
    router.calls = [
        call(SCRIPT, at, model=SCRIPT, agent=SCRIPT, item=SCRIPT, outcome=SCRIPT, backend_id=identity)
    ]
    cool(router, SCRIPT, SCRIPT)
    for name in ("Dashboard", "Providers", "Usage Stats", "Cooldown Log", "Requests", "Clients"):
        go(page, name)
        shown = page.locator(".page:visible").locator("td, .why", has_text=SCRIPT)
        expect(shown.first).to_be_visible()
    go(page, "Providers")
    page.get_by_role("button", name=f"Edit {SCRIPT}").click()
    expect(page.get_by_role("heading", name=f"Edit {SCRIPT}")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name=f"Delete {SCRIPT}").click()
    expect(page.get_by_role("heading", name=f"Delete {SCRIPT}?")).to_be_visible()
    assert page.locator("main img:visible, main script").count() == 0


def test_markup_cannot_be_made_of_text_even_by_mistake(page: Page, complaints: list[str]):
    made = page.evaluate(
        "() => { try { document.body.innerHTML = 'x'; return 'made'; } catch (e) { return e.name; } }"
    )
    assert made == "TypeError"
    page.evaluate("new Promise(requestAnimationFrame)")  # the browser reports a moment later
    assert complaints.pop().startswith("CSP: require-trusted-types-for")
    assert "requires 'TrustedHTML'" in complaints.pop()


# For the keyboard, and for small screens.


def test_the_keyboard_stays_in_a_dialog_and_returns_to_where_it_was(page: Page):
    go(page, "Providers")
    opener = page.get_by_role("button", name="Add provider")
    opener.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#provider-dialog #name")).to_be_focused()
    inside = "document.querySelector('#provider-dialog').contains(document.activeElement)"
    for key in ["Tab"] * 16 + ["Shift+Tab"] * 20:
        page.keyboard.press(key)
        assert page.evaluate(inside)
    page.keyboard.press("Escape")
    expect(page.locator("#provider-dialog")).to_be_hidden()
    expect(opener).to_be_focused()


def test_everything_can_be_reached_by_keyboard_and_has_a_name(page: Page, router: SmallRouter):
    fill(router)
    for name in ("Dashboard", "Providers", "Usage Stats", "Cooldown Log", "Requests", "Clients"):
        link = page.get_by_role("navigation").get_by_role("link", name=name)
        link.focus()
        page.keyboard.press("Enter")
        expect(link).to_have_attribute("aria-current", "page")
        expect(page.get_by_role("heading", level=1, name=name)).to_be_focused()
    nameless = """[...document.querySelectorAll('button, input, select, textarea, a')].filter((node) =>
        !node.getAttribute('aria-label') && !node.textContent.trim() && !(node.labels ?? []).length).length"""
    assert page.evaluate(nameless) == 0


def test_the_navigation_works_on_a_narrow_screen(server: Serving, looking: Look, router: SmallRouter):
    fill(router)
    page = looking(server.address)
    page.set_viewport_size(NARROW)
    sign_in(page)
    for name in ("Dashboard", "Providers", "Usage Stats", "Cooldown Log", "Requests", "Clients"):
        link = page.get_by_role("navigation").get_by_role("link", name=name)
        expect(link).to_be_in_viewport()
        box = link.bounding_box()
        assert box is not None and box["height"] >= 44
        link.click()
        expect(page.get_by_role("heading", level=1, name=name)).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.evaluate("scrollTo(0, 0)")
    go(page, "Providers")
    page.get_by_role("button", name="Edit NVIDIA A").click()
    expect(page.locator("#provider-dialog .save")).to_be_in_viewport()


@pytest.mark.parametrize("state", ["empty", "full"])
@pytest.mark.parametrize("size", ["wide", "narrow"])
def test_every_page_can_be_looked_at(
    looking: Look,
    server: Serving,
    router: SmallRouter,
    picture: Callable[[Page, str], None],
    state: str,
    size: str,
):
    if state == "full":
        fill(router)
    page = looking(server.address)
    if size == "narrow":
        page.set_viewport_size(NARROW)
    picture(page, f"{state}-{size}-0-sign-in")
    sign_in(page)
    expect(page.locator("#connection")).to_contain_text("connected")
    for number, name in enumerate(PAGES, 1):
        page.locator(f"[data-page={name}]").click()
        expect(page.locator(f"#page-{name}")).to_be_visible()
        expect(page.locator(f"#page-{name} [data-state=loading]")).to_have_count(0)
        if name == "dashboard":
            expect(page.locator("#chart-tokens svg")).to_be_visible()
        picture(page, f"{state}-{size}-{number}-{name}")
    page.locator("[data-page=providers]").click()
    opener = page.get_by_role("button", name="Edit NVIDIA A" if state == "full" else "Add provider")
    opener.click()
    expect(page.locator("#provider-dialog")).to_be_visible()
    if state == "empty":
        page.locator("#model_mappings").fill('{"kimi": }')
        save(page)
    picture(page, f"{state}-{size}-7-form")
