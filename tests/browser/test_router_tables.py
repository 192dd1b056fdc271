"""Figures, charts, tables and clients on the dashboard in a real browser."""

import time

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NARROW, Look, Serving
from tests.browser.steps import MAPPED, call, cells, cool, fault, go, hour, row, save, sign_in
from tests.fakes.router_admin import SmallRouter, iso


def test_figures_are_written_for_people(page: Page, router: SmallRouter):
    router.totals = {
        "total_requests": 1_284_093,
        "total_errors": 8_123,
        "total_tokens": 2_403_881,
        "total_prompt_tokens": 1_900_112,
        "total_completion_tokens": 503_769,
        "total_cost": 3120.48213,
    }
    for figure, text in (
        ("requests", "1,284,093"),
        ("error-rate", "0.6% errors"),
        ("tokens", "2,403,881"),
        ("token-kinds", "1,900,112 prompt · 503,769 completion"),
        ("cost", "$3,120.4821"),
    ):
        expect(page.locator(f"[data-figure={figure}]")).to_have_text(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3600, "1h"), (93_840, "1d 2h 4m"), (864_000, "10d")],
)
def test_durations_are_written_in_days_hours_and_minutes(page: Page, seconds: int, text: str):
    assert page.evaluate(f"import('/dashboard/static/format.js').then((f) => f.duration({seconds}))") == text


def test_usage_is_shown_by_name_filtered_and_with_errors_in_their_colour(page: Page, router: SmallRouter):
    first, second = router.add(name="First"), router.add(name="Second")
    router.hourly = [
        hour(first, requests=1234, errors=0, cost=1.5),
        hour(second, requests=7, errors=2, cost=0.0000125),
        hour("bkd_gone", requests=1, errors=0, cost=0.0),
    ]
    router.totals |= {"total_requests": 1}
    go(page, "Usage Stats")
    expect(row(page, "First")).to_be_visible()
    assert cells(row(page, "First"))[1:] == ["First", "kimi", "1,234", "0", "1,500,000", "$1.500000", "812"]
    assert cells(row(page, "Second"))[6] == "$0.000013"
    expect(page.locator("#hourly")).to_contain_text("bkd_gone (deleted)")
    assert (
        row(page, "First").locator("td").nth(4).evaluate("(c) => getComputedStyle(c).color")
        == "rgb(35, 209, 96)"
    )
    assert "is-bad" in (row(page, "Second").locator("td").nth(4).get_attribute("class") or "")
    page.get_by_label("Backend").select_option("Second")
    expect(page.locator("#hourly tbody tr")).to_have_count(1)
    expect(page.locator("#hourly")).to_contain_text("Second")


def test_long_tables_are_shown_in_parts(page: Page, router: SmallRouter):
    identity = router.add(name="A")
    router.hourly = [hour(identity, requests=n, errors=0, cost=0.0, model=f"m{n}") for n in range(450)]
    go(page, "Usage Stats")
    expect(page.locator("#hourly tbody tr")).to_have_count(200)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#hourly tbody tr")).to_have_count(400)


def test_charts_follow_the_calls_and_have_at_most_twelve_ticks(page: Page, router: SmallRouter):
    identity = router.add(name="A")
    router.hourly = [hour(identity, requests=1, errors=0, cost=2.5)]
    router.totals |= {"total_requests": 1}
    chart = page.get_by_role("img", name="Cost Over Time")
    expect(chart).to_have_attribute("aria-label", "Cost Over Time: $2.5000 in the last 168 hours")
    labels = page.locator("#chart-cost .tick[text-anchor=middle]")
    page.set_viewport_size({"width": 1090, "height": 900})  # there would be room for more
    expect(labels).to_have_count(2 * 12)
    page.set_viewport_size(NARROW)
    expect(labels).to_have_count(2 * 7)
    router.hourly = [hour(identity, requests=2, errors=0, cost=5.0)]
    router.totals |= {"total_requests": 2}
    expect(chart).to_have_attribute(
        "aria-label", "Cost Over Time: $5.0000 in the last 168 hours", timeout=15_000
    )
    chart.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#chart-cost .chart-note")).to_contain_text("$5.0000 · ")


def test_the_page_works_without_its_charts(
    server: Serving, looking: Look, router: SmallRouter, complaints: list[str]
):
    router.add(name="A")
    page = looking(server.address)
    page.route("**/chart.js", lambda route: route.fulfill(status=404))
    sign_in(page)
    expect(page.locator("#chart-cost .chart-note")).to_contain_text("No chart")
    expect(page.locator("[data-figure=requests]")).to_have_text("0")
    go(page, "Providers")
    expect(row(page, "A")).to_be_visible()
    assert all("chart.js" in complaint for complaint in complaints)
    complaints.clear()


# The other pages.


def test_requests_run_by_live_and_can_be_held(page: Page, router: SmallRouter):
    identity = router.add(name="A")
    page.clock.install()
    go(page, "Requests")
    expect(page.get_by_text("No call yet.")).to_be_visible()
    router.calls = [call("1", iso(time.time()), backend_id=identity, agent="anna", item="ET-001")]
    router.totals |= {"total_requests": 1}
    shown = page.locator("#calls tbody tr")
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("anna")
    expect(shown).to_contain_text("ET-001")
    expect(shown).to_contain_text("limited · 429")
    page.get_by_role("button", name="Pause").click()
    router.calls = [call("2", iso(time.time()), backend_id=identity), *router.calls]
    router.totals |= {"total_requests": 2}
    go(page, "Dashboard")
    expect(page.locator("[data-figure=requests]")).to_have_text("2")
    asked: list[str] = []
    page.clock.fast_forward(30_000)  # long enough for another look
    page.on("request", lambda request: "/api/admin/calls" in request.url and asked.append(request.url))
    go(page, "Requests")
    since = page.locator("#connection-since").inner_text()
    expect(page.locator("#connection-since")).not_to_have_text(since)
    assert asked == []
    expect(shown).to_have_count(1)
    page.get_by_role("button", name="Resume").click()
    expect(shown).to_have_count(2)


def test_a_cooldown_that_ends_is_seen_in_the_log(page: Page, router: SmallRouter):
    identity = router.add(name="A", model_mappings=MAPPED)
    event = {
        "id": "1",
        "backend_id": identity,
        "consecutive_count": 3,
        "cooldown_seconds": 1200,
        "response_summary": "Wait.",
    }
    go(page, "Cooldown Log")
    expect(page.get_by_text("No provider has ever asked")).to_be_visible()
    cool(router, "kimi", "Wait.")
    router.events = [event | {"started_at": "2026-01-05T12:00:00Z", "ended_at": None}]
    expect(row(page, "Wait.")).to_be_visible()
    assert cells(row(page, "Wait.")) == ["2026-01-05 12:00:00", "A", "3", "1,200", "not yet", "Wait."]
    router.balancer.reset(identity, time.time())
    router.events = [event | {"started_at": "2026-01-05T12:00:00Z", "ended_at": "2026-01-05T12:20:00Z"}]
    expect(row(page, "Wait.")).to_contain_text("2026-01-05 12:20:00")


def test_a_client_key_is_shown_once(page: Page, router: SmallRouter):
    go(page, "Clients")
    page.get_by_role("button", name="Create client key").click()
    save(page)
    expect(fault(page, "client_name")).to_have_text("Give it a name.")
    dialog = page.locator("#client-dialog")
    dialog.get_by_label("Name").fill("ci")
    dialog.get_by_label("Agent").fill("anna")
    dialog.get_by_label("Tokens per day").fill("5000000")
    dialog.get_by_label("Dollars per day").fill("2.5")
    save(page)
    (key,) = router.keys.values()
    expect(page.locator("#shown-key")).to_have_text(key)
    (client,) = router.clients.values()
    assert (client["agent"], client["tokens_per_day"], client["cost_per_day"]) == ("anna", 5_000_000, 2.5)
    page.get_by_role("button", name="I have stored it").click()
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(page.locator("#shown-key")).to_be_empty()
    assert key not in page.content()
    assert cells(row(page, "anna"))[:7] == [
        *("ci", "anna", client["key_hint"], "enabled", "0"),
        *("0\nof 5,000,000", "$0.0000\nof $2.50"),
    ]


def test_a_client_is_edited_disabled_given_a_new_key_and_deleted(page: Page, router: SmallRouter):
    client, first = router.add_client(name="ci", tokens_per_day=10)
    client |= {"tokens_today": 10}
    go(page, "Clients")
    expect(row(page, "ci")).to_contain_text("budget used up")
    page.get_by_role("button", name="Edit ci").click()
    page.locator("#client_tokens").fill("")
    save(page)
    expect(row(page, "ci")).to_contain_text("enabled")
    assert router.clients[client["id"]]["tokens_per_day"] is None
    page.get_by_role("button", name="Disable ci").click()
    expect(row(page, "ci")).to_contain_text("disabled")
    page.get_by_role("button", name="Enable ci").click()
    expect(row(page, "ci")).to_contain_text("enabled")
    page.get_by_role("button", name="New key for ci").click()
    page.get_by_role("button", name="Make a new key").click()
    expect(page.locator("#shown-key")).to_have_text(router.keys[client["id"]])
    assert router.keys[client["id"]] != first
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Delete ci").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("Nobody has a key of their own yet.")).to_be_visible()


def test_a_name_that_is_taken_is_said_in_the_form(page: Page, router: SmallRouter):
    router.add_client(name="ci")
    go(page, "Clients")
    page.get_by_role("button", name="Create client key").click()
    page.locator("#client_name").fill("ci")
    save(page)
    expect(page.locator("#client-dialog .form-error")).to_have_text("The name is taken. Choose another.")


def test_a_table_that_cannot_be_loaded_says_so_and_can_be_tried_again(page: Page, router: SmallRouter):
    identity = router.add(name="A")
    router.is_broken = True
    router.hourly = [hour(identity, requests=5, errors=0, cost=0.0)]
    go(page, "Usage Stats")
    failed = page.locator("#hourly .is-failed")
    expect(failed).to_contain_text("The database is away.")
    router.is_broken = False
    failed.get_by_role("button", name="Try again").click()
    expect(row(page, "kimi")).to_be_visible()
    expect(failed).to_be_hidden()
