"""The words of messages."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.supervisor import ROOT
from quarterdeck.notify.markup import MAX_UNITS, escape, plain, shorten, units
from quarterdeck.notify.texts import KINDS, LANGUAGES, MESSAGES, catalogue, render
from tests.fakes.telegram import parsed

TABLE = [
    (
        "stage_changed",
        None,
        {"from": "analysis", "to": "architecture", "agent": "architect"},
        "🔄 ET-007: analysis → architecture (запущен architect)",
    ),
    ("agent_started", 26, {"agent": "analyst"}, "🚀 ET-007: analyst запущен (run_id=26)"),
    (
        "agent_finished",
        26,
        {"agent": "analyst", "exit_code": 0, "seconds": 481.7},
        "✅ ET-007: analyst завершил (8 мин, exit_code=0)",
    ),
    (
        "agent_failed",
        27,
        {"agent": "developer", "exit_code": 1, "seconds": 3.0},
        "❌ ET-007: developer упал (exit_code=1)",
    ),
    (
        "agent_timed_out",
        28,
        {"agent": "developer", "limit_seconds": 1800},
        "⏰ ET-007: developer убит по таймауту (30 мин)",
    ),
    ("gate_passed", None, {"gate": "check_ci_green"}, "✅ ET-007: QG check_ci_green — passed"),
    (
        "gate_failed",
        None,
        {"gate": "check_ci_green", "reason": "CI state: pending"},
        "⚠️ ET-007: QG check_ci_green — failed: CI state: pending",
    ),
    (
        "approval_requested",
        None,
        {"stage": "analysis", "approval": "1"},
        "📋 ET-007: BRD/ТЗ/AC готовы. Жду :approved: в Plane",
    ),
    ("item_done", None, {}, "🎉 ET-007: задача завершена! PR merged."),
    ("error", None, {"reason": "Failed to launch agent"}, "🔴 ET-007: ERROR — Failed to launch agent"),
]

NAMES = ["agent", "from", "to", "gate", "reason", "exit_code", "seconds", "limit_seconds", "stage", "by"]
NAMES += ["door", "comment", "title", "whose", "todo", "approved", "commit", "state", "item_id"]
ANY_FACTS = st.dictionaries(
    st.sampled_from(NAMES),
    st.none() | st.text() | st.integers() | st.floats() | st.booleans() | st.lists(st.text(max_size=3)),
)


@pytest.mark.parametrize(("kind", "run", "data", "text"), TABLE, ids=[row[0] for row in TABLE])
def test_the_ten_messages_are_exact_in_russian(kind, run, data, text):
    assert render("ru", kind, "ET-007", run, data).encode() == text.encode()


def test_the_table_covers_every_message():
    assert {row[0] for row in TABLE} == MESSAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_says_the_same_things(language):
    def holes(name: str) -> dict[str, set[str]]:
        return {key: set(re.findall(r"{(\w+)}", text)) for key, text in catalogue(name).items()}

    assert holes(language) == holes("ru")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_a_text_of_its_own(kind):
    assert render("en", kind, "ET-007", 1, {}) != render("en", "something_else", "ET-007", 1, {}).replace(
        "something_else", kind
    )


def test_every_kind_that_the_code_records_has_a_text():
    recorded = {
        kind
        for file in (ROOT / "quarterdeck").rglob("*.py")
        for kind in re.findall(r"\.record\(\s*\"([a-z_]+)\"", file.read_text("utf-8"))
    }
    assert len(recorded) > 20
    assert recorded - KINDS == set()


def test_a_pause_lists_the_finished_and_the_unfinished_steps_below():
    data = {"work": "ENG-1", "title": "Fix", "rounds": 30, "limit": 30, "to": "anna"}
    data |= {"finished": ["find <it>"], "unfinished": ["mend it", "test it"]}
    text = render("en", "rounds_exhausted", None, None, data)
    assert text.splitlines() == [
        "⏸ ENG-1 «Fix»: paused, 30 of 30 rounds are used → anna",
        "☑ find &lt;it&gt;",
        "☐ mend it",
        "☐ test it",
    ]
    assert len(render("en", "rounds_exhausted", None, None, data | {"finished": "rubbish"}).splitlines()) == 3


def test_a_backlog_warning_says_how_much_is_to_do():
    data = {"source": "multica", "todo": 6, "in_progress": 2, "to": "coo", "list": "ENG-12 developer Fix it"}
    text = render("en", "backlog_warning", None, None, data)
    assert text.startswith("📚 multica: 6 to do, 2 in progress;")
    assert text.endswith("→ coo\nENG-12 developer Fix it")


def test_a_remark_on_an_item_is_told_in_words():
    data = {"by": "heartbeat", "comment": "The same work was finished in Multica."}
    text = render("en", "item_remarked", "ET-007", None, data)
    assert text == "💬 ET-007: remark (heartbeat): The same work was finished in Multica."


def test_the_bracket_of_a_stage_change_is_there_only_when_an_agent_starts():
    data = {"from": "review", "to": "merge", "agent": None}
    assert render("ru", "stage_changed", "ET-007", None, data) == "🔄 ET-007: review → merge"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 с"),
        (42.4, "42 с"),
        (59.4, "59 с"),
        (59.6, "1 мин"),
        (60, "1 мин"),
        (89, "1 мин"),
        (90, "2 мин"),
        (480, "8 мин"),
        (7200, "120 мин"),
    ],
)
def test_durations_are_whole_minutes_from_one_minute_on(seconds, shown):
    data = {"agent": "analyst", "exit_code": 0, "seconds": seconds}
    assert (
        render("ru", "agent_finished", "ET-007", 1, data)
        == f"✅ ET-007: analyst завершил ({shown}, exit_code=0)"
    )


def test_a_limit_below_a_minute_is_shown_in_seconds():
    data = {"agent": "developer", "limit_seconds": 2.0}
    assert render("ru", "agent_timed_out", "ET-007", 1, data) == "⏰ ET-007: developer убит по таймауту (2 с)"


def test_an_unknown_duration_is_left_out():
    data = {"agent": "analyst", "exit_code": 0, "seconds": None}
    assert render("ru", "agent_finished", "ET-007", 1, data) == "✅ ET-007: analyst завершил (exit_code=0)"


def test_without_a_key_the_id_is_shown_and_without_an_item_the_system():
    assert render("ru", "item_done", None, None, {"item_id": 12}).startswith("🎉 task-12: ")
    assert render("ru", "error", None, None, {"reason": "x"}) == "🔴 system: ERROR — x"


def test_text_from_outside_is_escaped():
    text = render("ru", "error", "ET-007", None, {"reason": '<b>1 < 2 & "3"</b> {key}'})
    assert text == '🔴 ET-007: ERROR — &lt;b&gt;1 &lt; 2 &amp; "3"&lt;/b&gt; {key}'


def test_what_no_column_can_hold_is_replaced():
    assert render("ru", "error", "ET-007", None, {"reason": "a\x00b\ud800c"}).endswith("a\ufffdb\ufffdc")


def test_a_decision_says_who_made_it_and_why():
    data = {"approved": False, "by": "anna", "door": "api", "comment": "too vague"}
    assert (
        render("en", "approval_decided", "ET-007", None, data) == "👎 ET-007: rejected (anna, api): too vague"
    )


def test_a_blocked_item_says_whose_move_it_is_and_what_to_do():
    data = {"reason": "CI is red on main", "whose": "anna", "todo": "Repair main."}
    text = render("en", "item_blocked", "ET-007", None, data)
    assert text == "⛔ ET-007: needs a person (anna): CI is red on main → Repair main."


@given(st.sampled_from(LANGUAGES), st.sampled_from(sorted(KINDS)) | st.text(), ANY_FACTS)
def test_whatever_an_event_holds_its_text_can_be_sent(language, kind, data):
    text = render(language, kind, "ET-007", 1, data)
    assert 1 <= len(parsed(text).encode("utf-16-le")) // 2 <= MAX_UNITS


@given(st.text(min_size=1), st.integers(500, 5000))
def test_a_long_reason_is_shortened_with_a_mark(piece, times):
    text = render("ru", "error", "ET-007", None, {"reason": piece * times})
    assert units(text) <= MAX_UNITS
    assert parsed(text) == plain(text)
    if len(piece) * times > MAX_UNITS:
        assert text.endswith("…")
        assert units(text) >= MAX_UNITS - 3


def _nested(children):
    return st.tuples(st.sampled_from(["b", "i", 'a href="https://x/?a=1&amp;b"']), children).map(
        lambda pair: f"<{pair[0]}>{''.join(pair[1])}</{pair[0].split()[0]}>"
    )


HTML = st.lists(
    st.recursive(st.text(max_size=20).map(escape), lambda inner: _nested(st.lists(inner, max_size=4)))
).map("".join)


@given(HTML, st.integers(1, 60))
def test_shortening_keeps_html_whole_and_cuts_only_the_end(text, limit):
    short = shorten(text, limit)
    assert units(short) <= limit
    assert parsed(short) == plain(short)
    kept = plain(short).removesuffix("…")
    assert plain(text).startswith(kept)


@given(HTML)
def test_a_text_that_fits_is_not_touched(text):
    assert shorten(text, units(text)) == text


@given(st.text())
def test_plain_undoes_escaping(text):
    assert plain(escape(text)) == re.sub("[\x00\ud800-\udfff]", "\ufffd", text)
