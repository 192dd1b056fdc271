"""The router's configuration: environment over row over default, each key by its declared type."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from quarterdeck.kernel.errors import Invalid, Misconfigured, NotFound
from quarterdeck.router import config
from quarterdeck.router.config import KEYS, SECRETS, RouterSettings, Tuning

# key: variable, default, what the environment says and means, what a row says and means, what is refused
EXAMPLES: dict[str, tuple[str, Any, str, Any, str, Any, str]] = {
    "host": ("SIDECAR_HOST", "127.0.0.1", "::1", "::1", "127.0.0.2", "127.0.0.2", ""),
    "port": ("SIDECAR_PORT", 9190, "1", 1, "2", 2, "65536"),
    "metrics_port": ("SIDECAR_METRICS_PORT", 9191, "1", 1, "2", 2, "-1"),
    "queue_max_depth": ("SIDECAR_QUEUE_MAX", 500, "0", 0, "9", 9, "nine"),
    "queue_timeout_seconds": ("SIDECAR_QUEUE_TIMEOUT", 30.0, "1.5", 1.5, "2", 2.0, "nan"),
    "default_rpm_limit": ("SIDECAR_RATE_RPM", 40, "1000", 1000, "7", 7, "1001"),
    "cooldown_base_seconds": ("SIDECAR_COOLDOWN_BASE", 30.0, "0.5", 0.5, "3", 3.0, "0"),
    "cooldown_max_seconds": ("SIDECAR_COOLDOWN_MAX", 600.0, "60", 60.0, "70", 70.0, "inf"),
    "cooldown_exponential_backoff": (
        "SIDECAR_COOLDOWN_EXPONENTIAL", True, "false", False, "false", False, "perhaps",
    ),
    "cooldown_precheck_threshold_seconds": ("SIDECAR_COOLDOWN_PRECHECK", 10.0, "0", 0.0, "3", 3.0, "-1"),
    "emergency_rpm_fraction": ("SIDECAR_EMERGENCY_RPM_FRACTION", 0.10, "0", 0.0, "0.2", 0.2, "1.1"),
    "max_pool_retries": ("SIDECAR_MAX_POOL_RETRIES", 5, "1", 1, "2", 2, "0"),
    "default_request_timeout_seconds": ("SIDECAR_REQUEST_TIMEOUT", 120, "10", 10, "600", 600, "9"),
    "request_deadline_seconds": ("SIDECAR_REQUEST_DEADLINE", 300.0, "20", 20.0, "30", 30.0, "0"),
    "health_check_interval_seconds": ("SIDECAR_HEALTH_INTERVAL", 60.0, "5", 5.0, "6.5", 6.5, "0"),
    "health_check_timeout_seconds": ("SIDECAR_HEALTH_TIMEOUT", 10.0, "1", 1.0, "2", 2.0, "x"),
    "health_probe_endpoint": ("SIDECAR_HEALTH_ENDPOINT", "/v1/models", "/up", "/up", "/ok", "/ok", "//x"),
    "log_level": ("LOG_LEVEL", "INFO", "debug", "DEBUG", "Warning", "WARNING", "loud"),
    "log_format": ("LOG_FORMAT", "console", "json", "json", "JSON", "json", "xml"),
    "db_path": ("SIDECAR_DB_PATH", "", "v2.db", "v2.db", "/x/v2.db", "/x/v2.db", ""),
    "backup_dir": ("SIDECAR_BACKUP_DIR", "", "/b", "/b", "c", "c", ""),
    "backup_retention_days": ("SIDECAR_BACKUP_RETENTION_DAYS", 7, "1", 1, "2", 2, "0"),
    "rate_limiter_refill_interval_ms": ("SIDECAR_REFILL_INTERVAL_MS", 50, "1", 1, "20", 20, "0.5"),
    "router_refresh_interval_seconds": ("SIDECAR_ROUTER_REFRESH", 5.0, "1", 1.0, "2", 2.0, "0"),
    "dashboard_sse_interval_seconds": ("SIDECAR_SSE_INTERVAL", 1.0, "2", 2.0, "3", 3.0, "0"),
    "stats_refresh_interval_seconds": ("SIDECAR_STATS_INTERVAL", 30.0, "2", 2.0, "3", 3.0, "-3"),
    "usage_retention_days": ("SIDECAR_USAGE_RETENTION_DAYS", 400, "1", 1, "2", 2, "0"),
    "calls_retention_days": ("SIDECAR_CALLS_RETENTION_DAYS", 30, "1", 1, "2", 2, "0"),
    "largest_body_bytes": ("SIDECAR_MAX_BODY_BYTES", 32_000_000, "2048", 2048, "4096", 4096, "12"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing about the router."""
    for name in RouterSettings.model_fields:
        monkeypatch.delenv(config.variable(name), raising=False)


def now(rows: dict[str, str] | None = None) -> dict[str, Any]:
    found = config.values(config.load(), rows or {})
    return {key: value for key, (value, _) in found.items()}


def test_every_key_is_in_these_examples() -> None:
    assert set(EXAMPLES) == set(KEYS)
    assert {field.name for field in fields(Tuning)} < set(KEYS)


@pytest.mark.parametrize("key", EXAMPLES)
def test_environment_wins_over_row_and_row_over_default(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, default, said, meant, row, row_meant, _ = EXAMPLES[key]
    assert config.variable(key) == variable
    assert now()[key] == default
    assert now({key: row})[key] == row_meant
    monkeypatch.setenv(variable, said)
    assert now({key: row})[key] == meant
    assert type(now()[key]) is type(default)
    monkeypatch.setenv(variable, "")
    assert now({key: row})[key] == row_meant  # empty is not set
    others = {name: value for name, value in now({key: row}).items() if name != key}
    assert others == {name: EXAMPLES[name][1] for name in others}


@pytest.mark.parametrize("key", [key for key in EXAMPLES if EXAMPLES[key][6]])
def test_a_wrong_value_stops_the_start_is_rejected_on_write_and_ignored_on_read(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, default, *_, wrong = EXAMPLES[key]
    with pytest.raises(Invalid, match=key):
        config.parse(key, wrong)
    config._stored.cache_clear()
    with capture_logs() as lines:
        assert now({key: wrong})[key] == default
        assert now({key: wrong})[key] == default
    assert [(line["event"], line["key"]) for line in lines] == [("setting_ignored", key)]
    monkeypatch.setenv(variable, wrong)
    with pytest.raises(Misconfigured, match=variable):
        config.load()


def test_what_is_tuned_reaches_the_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_QUEUE_MAX", "7")
    tuning = config.tuning(config.load(), {"queue_max_depth": "8", "log_level": "error"})
    assert asdict(tuning) == asdict(Tuning()) | {"queue_max_depth": 7, "log_level": "ERROR"}


@pytest.mark.parametrize("text", ["false", "False", " FALSE "])
def test_the_word_false_is_false(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.parse("cooldown_exponential_backoff", text) is False
    monkeypatch.setenv("SIDECAR_COOLDOWN_EXPONENTIAL", text.strip())
    assert config.load().cooldown_exponential_backoff is False


@pytest.mark.parametrize("name", [*SECRETS, "upstream", "no_such_key"])
def test_no_secret_and_nothing_unknown_may_be_a_row(name: str) -> None:
    with pytest.raises(NotFound):
        config.parse(name, "x")
    assert name not in KEYS
    assert name not in now({name: "x"})


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(config.variable(name), f"canary-{name}")
    settings = config.load()
    assert "canary" not in repr(settings) and "canary" not in str(now())
    assert isinstance(settings.admin_token, SecretStr)


def test_an_error_of_the_environment_does_not_show_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_PORT", "canary")
    with pytest.raises(Misconfigured) as error:
        config.load()
    assert "canary" not in str(error.value) and "SIDECAR_PORT" in str(error.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "router.example"])
@pytest.mark.parametrize("given", [(), ("SIDECAR_ADMIN_TOKEN",), ("SIDECAR_PROXY_TOKEN",)])
def test_an_open_address_without_both_tokens_refuses_to_start(
    host: str, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in given:
        monkeypatch.setenv(name, "a-token")
    with pytest.raises(Misconfigured, match="SIDECAR_ADMIN_TOKEN and SIDECAR_PROXY_TOKEN"):
        config.place(config.load(), {"host": host})


def test_an_open_address_with_both_tokens_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_ADMIN_TOKEN", "one")
    monkeypatch.setenv("SIDECAR_PROXY_TOKEN", "two")
    monkeypatch.setenv("SIDECAR_HOST", "0.0.0.0")
    assert config.place(config.load(), {}).host == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_tokens(host: str) -> None:
    assert config.place(config.load(), {"host": host, "port": "1"}) == config.Place(host, 1, 9191, "")


def test_backups_lie_in_the_home_unless_told_otherwise(tmp_path: Path) -> None:
    assert config.backup_folder(config.load(), {}, tmp_path) == tmp_path / "backups"
    assert config.backup_folder(config.load(), {"backup_dir": "/b"}, tmp_path) == Path("/b")


def test_v1_settings_are_read_and_have_the_specified_default() -> None:
    assert config.load().api_key is None
    assert config.load().upstream == "https://integrate.api.nvidia.com/v1"
