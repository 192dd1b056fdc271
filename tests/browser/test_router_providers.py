"""Providers on the dashboard in a real browser: added, edited, deleted, explained, reset."""

import json
import time

import pytest
from playwright.sync_api import Page, expect

from quarterdeck.router.limits.standing import ProbeResult
from quarterdeck.router.ways import rehearsal
from tests.browser.steps import (
    MAPPED,
    cells,
    cool,
    fault,
    fill_provider,
    go,
    open_add_form,
    row,
    save,
)
from tests.fakes.router_admin import SmallRouter


def test_limits_that_are_left_empty_are_those_of_new_providers(page: Page, router: SmallRouter):
    router.new = {"rpm_limit": 7, "timeout_seconds": 33}
    open_add_form(page)
    fill_provider(page)
    save(page)
    expect(row(page, "NVIDIA A")).to_contain_text("7 · 0% used")
    page.get_by_role("button", name="Edit NVIDIA A").click()
    dialog = page.get_by_role("dialog", name="Edit NVIDIA A")
    expect(dialog.get_by_label("Timeout s")).to_have_value("33")
    dialog.get_by_label("RPM").fill("")
    page.locator("dialog[open] .save").click()
    expect(page.locator("#rpm_limit-error")).to_contain_text("from 1 to 1000")


def test_a_provider_is_added_edited_and_deleted(page: Page, router: SmallRouter):
    open_add_form(page)
    fill_provider(
        page, Label="free", **{"Model Mappings": json.dumps(MAPPED), "RPM": "60", "Timeout s": "90"}
    )
    save(page)
    expect(page.locator("#notices")).to_contain_text("NVIDIA A was added.")
    shown = row(page, "NVIDIA A")
    expect(shown).to_be_visible()
    assert cells(shown)[:6] == ["NVIDIA A", "free", "primary", "healthy", "60 · 0% used", "1"]
    (stored,) = router.stored.values()
    assert (stored["api_key"], stored["timeout_seconds"], stored["enabled"]) == ("sk-new", 90, True)

    page.get_by_role("button", name="Edit NVIDIA A").click()
    dialog = page.get_by_role("dialog", name="Edit NVIDIA A")
    expect(dialog.get_by_label("API Base URL")).to_have_value("https://a.example/v1")
    assert (
        json.loads(dialog.get_by_label("Model Mappings").input_value())["kimi"]["native_id"] == "vendor/kimi"
    )
    dialog.get_by_label("Name").first.fill("NVIDIA B")
    dialog.get_by_label("Pool").select_option("fallback")
    dialog.get_by_label("Enabled").select_option("no")
    save(page)
    expect(page.locator("#notices")).to_contain_text("NVIDIA B was saved.")
    expect(row(page, "NVIDIA B")).to_contain_text("disabled")
    (stored,) = router.stored.values()
    assert (stored["pool"], stored["enabled"], stored["api_key"]) == ("fallback", False, "sk-new")

    page.get_by_role("button", name="Delete NVIDIA B").click()
    expect(page.get_by_role("dialog", name="Delete NVIDIA B?")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert len(router.stored) == 1
    page.get_by_role("button", name="Delete NVIDIA B").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#notices")).to_contain_text("NVIDIA B was deleted.")
    expect(page.get_by_text("There is no provider yet.")).to_be_visible()
    assert router.stored == {}


def test_a_blank_key_is_kept_on_edit_and_missed_on_add_also_after_an_edit(page: Page, router: SmallRouter):
    router.add(name="A", api_key="sk-old-0123456789")
    go(page, "Providers")
    page.get_by_role("button", name="Edit A").click()
    expect(page.locator("[data-field=api_key] .hint")).to_have_text("Now: sk****. Leave it empty to keep it.")
    save(page)
    expect(page.locator("#provider-dialog")).to_be_hidden()
    assert [stored["api_key"] for stored in router.stored.values()] == ["sk-old-0123456789"]
    page.get_by_role("button", name="Add provider").click()
    fill_provider(page, **{"API Key": ""})
    save(page)
    expect(fault(page, "api_key")).to_contain_text("needs its key")
    expect(page.locator("#api_key")).to_be_focused()
    assert len(router.stored) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n  "a": {"native_id": x}\n}', "Line 2, column 22: “x” is no value"),
        ('{"a": {"native_id": "n"},}', "Line 1, column 25: there is a comma too many"),
        ('{"a": {"native_id": "n"}', "Line 1, column 25: a comma or “}” was expected, not the end."),
        ("{'a': 1}", 'Line 1, column 2: a name in "quotes" was expected, not “\'”.'),
        ('{"a": {"native_id": "n"}}\n]', "Line 2, column 1: nothing more was expected"),
        ('{"a": {"native_id": "n"},\n "a": {"native_id": "m"}}', "Line 2, column 2: “a” appears twice."),
        ('{"a": "\n"}', "Line 1, column 7: this text has no end"),
        ('{"a" 1}', "Line 1, column 6: a colon was expected after “a”, not “1”."),
        ("[]", "The whole must be an object"),
        ('{"a": "n"}', "“a” must be an object with a native_id."),
        ('{"a": {"cost": {}}}', "“a” needs a native_id"),
    ],
)
def test_wrong_mappings_are_explained_where_they_are_wrong(
    page: Page, router: SmallRouter, text: str, said: str
):
    open_add_form(page)
    fill_provider(page, **{"Model Mappings": text})
    expect(page.locator("[data-field=model_mappings] .hint")).to_contain_text(said)
    save(page)
    expect(fault(page, "model_mappings")).to_contain_text(said)
    expect(page.locator("#model_mappings")).to_be_focused()
    assert router.stored == {}


def test_what_the_form_can_tell_itself_is_told_at_every_field(page: Page, router: SmallRouter):
    open_add_form(page)
    fill_provider(
        page, Name="", **{"API Base URL": "ftp://a", "API Key": "", "RPM": "1001", "Timeout s": "9.5"}
    )
    save(page)
    for field in ("name", "api_base_url", "api_key", "rpm_limit", "timeout_seconds"):
        expect(fault(page, field)).to_be_visible()
        expect(page.locator(f"#{field}")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#provider-dialog #name")).to_be_focused()
    assert router.stored == {}


def test_what_the_api_refuses_is_shown_at_its_field_and_nothing_is_lost(page: Page, router: SmallRouter):
    open_add_form(page)
    mapped = {"kimi": {"native_id": "n", "cost": {"input": -1}}}
    fill_provider(page, Name="x" * 201, **{"Model Mappings": json.dumps(mapped)})
    save(page)
    expect(fault(page, "name")).to_contain_text("at most 200 characters")
    expect(fault(page, "model_mappings")).to_contain_text("kimi.cost.input")
    expect(page.locator("#provider-dialog #api_base_url")).to_have_value("https://a.example/v1")
    page.locator("#provider-dialog #name").fill("Good")
    page.locator("#model_mappings").fill("{}")
    save(page)
    expect(row(page, "Good")).to_be_visible()


def test_a_refusal_without_a_field_is_shown_above_the_form(page: Page, router: SmallRouter):
    open_add_form(page)
    fill_provider(page)
    router.is_broken = True
    save(page)
    expect(page.locator("#provider-dialog .form-error")).to_have_text("The database is away.")
    router.is_broken = False
    save(page)
    expect(row(page, "NVIDIA A")).to_be_visible()


def test_a_delete_that_failed_says_so(page: Page, router: SmallRouter):
    router.add(name="A")
    go(page, "Providers")
    page.get_by_role("button", name="Delete A").click()
    router.is_broken = True
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("dialog").locator(".form-error")).to_have_text("The database is away.")
    assert len(router.stored) == 1


def test_a_cooling_provider_says_why_and_can_be_reset(page: Page, router: SmallRouter):
    router.add(name="A", model_mappings=MAPPED)
    cool(router, "kimi", "Used up until tomorrow.", seconds=7265)
    expect(page.locator("#attention")).to_contain_text("Used up until tomorrow.")
    expect(page.locator("[data-pool=primary] [data-count=cooling]")).to_have_text("1")
    go(page, "Providers")
    expect(row(page, "A")).to_contain_text("cooling")
    condition = page.locator(".condition")
    expect(condition).to_contain_text("Used up until tomorrow.")
    expect(condition).to_contain_text("quota used up until a date")
    expect(condition.locator("dd").nth(1)).to_contain_text("(in 2h 1m)")
    for fact in ("Kind", "Until", "Next probe", "429s in a row", "Half-open"):
        expect(condition.get_by_text(fact, exact=True)).to_be_visible()
    page.get_by_role("button", name="Reset A").click()
    expect(page.locator("#notices")).to_contain_text("A may be tried again.")
    expect(row(page, "A")).to_contain_text("healthy")
    expect(condition).to_contain_text("now at most 1 at a time")
    expect(page.get_by_role("button", name="Reset A")).to_be_hidden()


def test_a_provider_that_is_away_is_called_so_wherever_it_is_counted_or_listed(
    page: Page, router: SmallRouter
):
    away, weak = router.add(name="Away", model_mappings=MAPPED), router.add(name="Weak")
    for identity, times in ((away, 3), (weak, 1)):
        backend = next(one for one in router.balancer.backends() if one.id == identity)
        for _ in range(times):
            router.balancer.probed(backend, ProbeResult(0, reason="Not reached: no."), time.time() - 90)
    expect(page.locator("#attention")).to_contain_text("Away")
    pool = page.locator("[data-pool=primary]")
    expect(pool.locator("[data-count=healthy]")).to_have_text("2")
    expect(pool).to_contain_text("Among the healthy: 1 down (not called), 1 degraded (called last).")
    go(page, "Providers")
    assert (cells(row(page, "Away"))[3], cells(row(page, "Weak"))[3]) == ("down", "degraded")
    condition = page.locator(".condition").first
    expect(condition).to_contain_text("Not reached: no.")
    for fact, value in (
        ("Failing since", "(1m)"),
        ("Last probe", "no answer"),
        ("Success, last 5 min", "– (no calls)"),
    ):
        expect(condition.locator("dl > div", has_text=fact)).to_contain_text(value)
    router.balancer.probed(backend, ProbeResult(200), time.time())
    expect(row(page, "Weak")).to_contain_text("healthy")
    go(page, "Dashboard")
    expect(pool).to_contain_text("Among the healthy: 1 down (not called).")


def test_a_large_list_of_mappings_can_be_edited(page: Page, router: SmallRouter):
    many = {f"model-{n}": {"native_id": f"vendor/model-{n}"} for n in range(1000)}
    identity = router.add(name="Many", model_mappings=many)
    go(page, "Providers")
    expect(row(page, "Many")).to_contain_text("1,000")
    page.get_by_role("button", name="Edit Many").click()
    expect(page.locator("[data-field=model_mappings] .hint")).to_have_text("1,000 models")
    mappings = page.locator("#model_mappings")
    mappings.evaluate("(node) => { node.value = node.value.replace('vendor/model-999', 'vendor/other') }")
    save(page)
    expect(page.locator("#provider-dialog")).to_be_hidden()
    assert router.stored[identity]["model_mappings"]["model-999"]["native_id"] == "vendor/other"


def test_the_built_in_backend_is_shown_as_what_it_is(page: Page, router: SmallRouter):
    router.balancer.adopt([rehearsal.BACKEND], time.time())
    expect(page.get_by_text("There is no provider yet: no real model can be called.")).to_be_visible()
    go(page, "Providers")
    expect(row(page, "Rehearsal")).to_contain_text("answers until there is a provider")
    assert row(page, "Rehearsal").get_by_role("button").count() == 0


def test_a_key_takes_the_place_of_a_connection_and_one_of_both_is_needed(page: Page, router: SmallRouter):
    identity = router.add(name="A", key_connection="vault", api_key="")
    go(page, "Providers")
    page.get_by_role("button", name="Edit A").click()
    page.locator("#key_connection").fill("")
    save(page)
    expect(fault(page, "api_key")).to_contain_text("needs its key, or the name of a connection")
    page.locator("#key_connection").fill("vault")
    page.locator("#api_key").fill("sk-new")
    with page.expect_request(f"**/backends/{identity}") as sent:
        save(page)
    assert "key_connection" not in sent.value.post_data_json
    assert sent.value.post_data_json["api_key"] == "sk-new"
