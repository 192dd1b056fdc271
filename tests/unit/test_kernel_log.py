"""Logs: one form for our lines and the libraries', and no secret in any of them."""

import ast
import io
import json
import logging
import warnings
from typing import Any, Literal
from urllib.parse import quote

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from deployments.supervisor import ROOT
from quarterdeck.kernel import log
from quarterdeck.kernel.settings import Settings

Form = Literal["console", "json"]
Level = Literal["debug", "info", "warning", "error"]
CANARY = "canary-7f3a/ö+9"


@pytest.fixture(autouse=True)
def _nothing_registered(logs_left_as_they_were: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_registered", {})


def lines_of(form: Form, level: Level = "info", **others: Any) -> io.StringIO:
    output = io.StringIO()
    log.set_up(Settings(log_format=form, log_level=level, **others), stream=output)
    return output


def test_our_lines_and_those_of_libraries_look_alike() -> None:
    output = lines_of("json")
    structlog.get_logger("ours").info("item_filed", item="ET-007", tokens=12)
    logging.getLogger("theirs").warning("answered %s", 200)

    ours, theirs = map(json.loads, output.getvalue().splitlines())
    assert (ours["event"], ours["item"], ours["tokens"], ours["logger"]) == (
        "item_filed",
        "ET-007",
        12,
        "ours",
    )
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("answered 200", "warning", "theirs")
    assert ours.keys() >= {"timestamp", "level"}


def test_lines_below_the_level_are_left_out() -> None:
    output = lines_of("console", "warning")
    structlog.get_logger("ours").info("quiet")
    logging.getLogger("theirs").info("quiet")
    structlog.get_logger("ours").warning("loud")

    assert "quiet" not in output.getvalue()
    assert "loud" in output.getvalue()


def test_warnings_become_lines() -> None:
    output = lines_of("console")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("mind the gap", stacklevel=1)
    assert "mind the gap" in output.getvalue()


def test_setting_up_again_does_not_double_the_lines() -> None:
    before, now = lines_of("console"), lines_of("console")
    structlog.get_logger("ours").info("once")
    assert (before.getvalue() + now.getvalue()).count("once") == 1


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("make", [structlog.get_logger, logging.getLogger], ids=["ours", "theirs"])
def test_a_registered_secret_appears_nowhere(form: Form, make: Any) -> None:
    log.hide(CANARY)
    output = lines_of(form)
    logger = make("any")
    logger.info(f"a {CANARY} b")
    logger.info("a %s b", CANARY)
    logger.info("at https://host/%s", quote(CANARY, safe=""))
    try:
        raise ValueError(f"refused {CANARY}") from KeyError(CANARY)
    except ValueError:
        logger.exception("failed")

    shown = output.getvalue()
    assert "ValueError" in shown
    assert "refused ***" in shown
    for form_of_it in (CANARY, quote(CANARY), quote(CANARY, safe=""), json.dumps(CANARY)[1:-1]):
        assert form_of_it not in shown


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_registered_secret_is_found_at_any_depth(form: Form) -> None:
    log.hide(CANARY)
    output = lines_of(form)

    class Thing:
        def __repr__(self) -> str:
            return f"Thing({CANARY})"

    deep = {"list": [{"x": (CANARY, Thing())}], "bytes": {CANARY}, "thing": Thing()}
    structlog.get_logger("ours").info("deep", **deep)
    assert "canary" not in output.getvalue()


@pytest.mark.parametrize(
    "key",
    [
        "token",
        "bot_token",
        "TOKEN",
        "apiKey",
        "api_key",
        "api-key",
        "password",
        "passwd",
        "client_secret",
        "Authorization",
        "Set-Cookie",
        "credentials",
        "private_key",
        "master_key",
    ],
)
def test_values_of_keys_that_sound_like_secrets_are_hidden(key: str) -> None:
    output = lines_of("json")
    structlog.get_logger("ours").info("x", **{key: "canary"})
    structlog.get_logger("ours").info("x", headers={key: ["canary"]})
    structlog.get_logger("ours").info("x", value=SecretStr("canary"))
    assert "canary" not in output.getvalue()


@pytest.mark.parametrize("key", ["item_key", "key", "stage", "idempotency_key", "author"])
def test_values_of_other_keys_are_shown(key: str) -> None:
    output = lines_of("json")
    structlog.get_logger("ours").info("x", **{key: "ET-007"})
    assert "ET-007" in output.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            f"POST https://api.telegram.org/bot{12345678}:{'A' * 35}/send",
            "POST https://api.telegram.org/bot***/send",
        ),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer ***"),
        ("postgresql+psycopg://app:pass@host/db", "postgresql+psycopg://app:***@host/db"),
        ("redis://:pass@host:1", "redis://:***@host:1"),
        ("GET /hook?access_token=abc&x=1", "GET /hook?access_token=***&x=1"),
        ('{"bot_token": "abc", "chat": "1"}', '{"bot_token": "***", "chat": "1"}'),
        ("{'password': 'a b'}", "{'password': '***'}"),
        ("key sk-abcdefghijklmnopqrst", "key ***"),
        (f"it is qd_{'x' * 40}.", "it is ***."),
        (
            "ET-007: 12345:67 at https://host:80/a@b, tokens 12",
            "ET-007: 12345:67 at https://host:80/a@b, tokens 12",
        ),
    ],
)
def test_secrets_are_known_by_their_looks(text: str, shown: str) -> None:
    assert log.redact(text) == shown


plain = st.characters(exclude_characters="*")


@given(before=st.text(), after=st.text(), secret=st.text(plain, min_size=log.SHORTEST))
@example(before="", after="", secret="canary\ud800")
def test_no_surroundings_bring_a_registered_secret_back(before: str, after: str, secret: str) -> None:
    log.hide(secret)
    assert secret not in log.redact(f"{before} {secret} {after}")


def test_short_values_are_not_registered() -> None:
    log.hide("a")
    assert log.redact("a cat") == "a cat"


def test_the_secrets_of_a_mapping_are_registered_and_nothing_else() -> None:
    log.hide_secrets_of({"bot_token": "canary1", "chat_id": "-100200300", "inner": {"api_key": "canary2"}})
    assert log.redact("canary1 -100200300 canary2") == "*** -100200300 ***"


def test_the_secrets_of_the_settings_are_hidden_from_the_start() -> None:
    output = lines_of("console", token=SecretStr("canary-of-the-owner"))
    structlog.get_logger("ours").info("said canary-of-the-owner")
    assert "said ***" in output.getvalue()


def test_a_level_of_the_caller_overrules_that_of_the_settings() -> None:
    output = io.StringIO()
    log.set_up(Settings(log_level="error"), level="debug", stream=output)
    structlog.get_logger("ours").debug("loud")
    assert "loud" in output.getvalue()


def test_no_line_of_ours_names_its_event_twice() -> None:
    """`log.warning("said", event=…)` is a TypeError in the middle of what was to be reported."""
    told = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for package in ("quarterdeck", "flows", "tasks", "blocks", "deployments")
        for path in (ROOT / package).rglob("*.py")
        if "event=" in (source := path.read_text("utf-8"))
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and getattr(call.func.value, "id", "") == "log"
        and any(keyword.arg == "event" for keyword in call.keywords)
    ]
    assert told == []
