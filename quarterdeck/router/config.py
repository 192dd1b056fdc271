"""What can be tuned: environment over `system_config` over default, per key.

`RouterSettings` is the environment; `Tuning` is what holds at the moment. Keys of `Tuning` take effect
while the router runs and may be rows of `system_config`; so may `host`, `port`, `metrics_port`, `db_path`
and `backup_dir`, of which all but the last need a restart. Secrets are never rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from quarterdeck.kernel.errors import Invalid, Misconfigured, NotFound

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What takes effect while the router runs. Times are in seconds unless the name says otherwise."""

    queue_max_depth: int = 500
    queue_timeout_seconds: float = 30.0
    default_rpm_limit: int = 40
    cooldown_base_seconds: float = 30.0
    cooldown_max_seconds: float = 600.0
    cooldown_exponential_backoff: bool = True
    cooldown_precheck_threshold_seconds: float = 10.0
    emergency_rpm_fraction: float = 0.10
    max_pool_retries: int = 5
    default_request_timeout_seconds: int = 120
    request_deadline_seconds: float = 300.0
    health_check_interval_seconds: float = 60.0
    health_check_timeout_seconds: float = 10.0
    health_probe_endpoint: str = "/v1/models"
    log_level: str = "INFO"
    log_format: str = "console"
    backup_retention_days: int = 7
    rate_limiter_refill_interval_ms: int = 50
    router_refresh_interval_seconds: float = 5.0
    dashboard_sse_interval_seconds: float = 1.0
    stats_refresh_interval_seconds: float = 30.0
    usage_retention_days: int = 400
    calls_retention_days: int = 30
    largest_body_bytes: int = 32_000_000


def _path_only(value: str) -> str:
    if not value.startswith("/") or value.startswith("//") or any(c.isspace() for c in value):
        raise ValueError("must be a path that begins with one '/'")
    return value


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


_Port = Annotated[int, Field(ge=0, le=65535)]
_Days = Annotated[int, Field(ge=1, le=36_500)]
_Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
_Interval = Annotated[float, Field(ge=0.05, le=86_400, allow_inf_nan=False)]
_Rpm = Annotated[int, Field(ge=1, le=1000)]
_Timeout = Annotated[int, Field(ge=10, le=600)]
_Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
_Format = Annotated[Literal["console", "json"], BeforeValidator(_lower)]
_Text = Annotated[str, Field(min_length=1)]


def _env(variable: str, meaning: str) -> Any:
    return Field(default=None, validation_alias=variable, description=meaning)


class RouterSettings(BaseSettings):
    """The environment of the router; None = not set (an empty variable is not set)."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    host: _Text | None = _env("SIDECAR_HOST", "Listen address; anything but loopback needs both tokens.")
    port: _Port | None = _env("SIDECAR_PORT", "Port of model calls, admin API and dashboard.")
    metrics_port: _Port | None = _env("SIDECAR_METRICS_PORT", "Port of the metrics.")
    queue_max_depth: Annotated[int, Field(ge=0, le=100_000)] | None = _env(
        "SIDECAR_QUEUE_MAX", "Requests that may wait; 0 = none."
    )
    queue_timeout_seconds: _Seconds | None = _env("SIDECAR_QUEUE_TIMEOUT", "Longest wait of a request.")
    default_rpm_limit: _Rpm | None = _env("SIDECAR_RATE_RPM", "Requests per minute of new backends.")
    cooldown_base_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] | None = _env(
        "SIDECAR_COOLDOWN_BASE", "First cooldown."
    )
    cooldown_max_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] | None = _env(
        "SIDECAR_COOLDOWN_MAX", "Longest cooldown that we choose ourselves."
    )
    cooldown_exponential_backoff: bool | None = _env(
        "SIDECAR_COOLDOWN_EXPONENTIAL", "Cooldowns double; `false` = they grow by the base."
    )
    cooldown_precheck_threshold_seconds: _Seconds | None = _env(
        "SIDECAR_COOLDOWN_PRECHECK", "A request waits for a cooldown that ends within this time."
    )
    emergency_rpm_fraction: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = _env(
        "SIDECAR_EMERGENCY_RPM_FRACTION", "Overdraft of the emergency channel; 0 = off."
    )
    max_pool_retries: Annotated[int, Field(ge=1, le=100)] | None = _env(
        "SIDECAR_MAX_POOL_RETRIES", "Attempts per request in the pools."
    )
    default_request_timeout_seconds: _Timeout | None = _env(
        "SIDECAR_REQUEST_TIMEOUT", "Longest silence of new backends."
    )
    request_deadline_seconds: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] | None = _env(
        "SIDECAR_REQUEST_DEADLINE", "Until a request's first byte, over all attempts."
    )
    health_check_interval_seconds: _Interval | None = _env("SIDECAR_HEALTH_INTERVAL", "Between probes.")
    health_check_timeout_seconds: _Interval | None = _env("SIDECAR_HEALTH_TIMEOUT", "Longest probe.")
    health_probe_endpoint: Annotated[str, AfterValidator(_path_only)] | None = _env(
        "SIDECAR_HEALTH_ENDPOINT", "Path that is probed."
    )
    log_level: _Level | None = _env("LOG_LEVEL", "Least level logged.")
    log_format: _Format | None = _env("LOG_FORMAT", "Form of log lines: console, json.")
    db_path: _Text | None = _env("SIDECAR_DB_PATH", "A Sidecar V2 file, imported once into an empty router.")
    backup_dir: _Text | None = _env("SIDECAR_BACKUP_DIR", "Folder of backups; unset = `backups` in the home.")
    backup_retention_days: _Days | None = _env("SIDECAR_BACKUP_RETENTION_DAYS", "Age of deleted backups.")
    rate_limiter_refill_interval_ms: Annotated[int, Field(ge=1, le=60_000)] | None = _env(
        "SIDECAR_REFILL_INTERVAL_MS", "Tick at which waiting requests look again."
    )
    router_refresh_interval_seconds: _Interval | None = _env(
        "SIDECAR_ROUTER_REFRESH", "Longest age of what is known of backends and configuration."
    )
    dashboard_sse_interval_seconds: _Interval | None = _env("SIDECAR_SSE_INTERVAL", "Dashboard's pace.")
    stats_refresh_interval_seconds: _Interval | None = _env("SIDECAR_STATS_INTERVAL", "Daily numbers' pace.")
    usage_retention_days: _Days | None = _env("SIDECAR_USAGE_RETENTION_DAYS", "Age of deleted hourly rows.")
    calls_retention_days: _Days | None = _env(
        "SIDECAR_CALLS_RETENTION_DAYS", "Age of deleted single calls and cooldown events."
    )
    largest_body_bytes: Annotated[int, Field(ge=1024, le=1_000_000_000)] | None = _env(
        "SIDECAR_MAX_BODY_BYTES", "Largest request."
    )
    drain_seconds: _Seconds = Field(
        default=30.0,
        validation_alias="SIDECAR_DRAIN_SECONDS",
        description="How long calls under way may go on when the router stops; `up` says 2.",
    )
    admin_token: SecretStr | None = _env("SIDECAR_ADMIN_TOKEN", "Token of the admin API and the dashboard.")
    proxy_token: SecretStr | None = _env("SIDECAR_PROXY_TOKEN", "Token of model calls.")
    encryption_key: SecretStr | None = _env(
        "SIDECAR_ENCRYPTION_KEY", "64 hexadecimal digits; unset = the house's own keyring seals."
    )
    encryption_keys_previous: SecretStr | None = _env(
        "SIDECAR_ENCRYPTION_KEYS_PREVIOUS", "Former keys, separated by commas; they only open."
    )
    api_key: SecretStr | None = _env("SIDECAR_API_KEY", "V1: key of a first backend, made once.")
    upstream: _Text = Field(
        default="https://integrate.api.nvidia.com/v1",
        validation_alias="SIDECAR_UPSTREAM",
        description="V1: base URL of that backend.",
    )


SECRETS = frozenset({"admin_token", "proxy_token", "encryption_key", "encryption_keys_previous", "api_key"})
"""Never stored in, read from, or listed by `system_config`."""

RESTART = ("host", "port", "metrics_port", "db_path")
"""Rows that wait for the next start."""

FIXED_DEFAULTS: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 9190,
    "metrics_port": 9191,
    "db_path": "",
    "backup_dir": "",
}
"""Defaults of the keys that are no tuning; '' = none, and `backups` in the home."""

TUNED = tuple(field.name for field in fields(Tuning))
KEYS = (*FIXED_DEFAULTS, *TUNED)
"""What may be a row of `system_config`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the router listens and keeps files: read once, at its start."""

    host: str
    port: int
    metrics_port: int
    db_path: str


def load() -> RouterSettings:
    """The environment of this process. Raises `Misconfigured` naming the variable, never its value."""
    try:
        return RouterSettings()
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        wrong = "; ".join(f"{str(e['loc'][0]).upper()}: {_said(e)}" for e in found)
        raise Misconfigured(
            f"A setting is wrong: {wrong}.",
            "See docs/reference/router.md, correct the variable, start again.",
        ) from None


def variable(key: str) -> str:
    """The environment variable of a key."""
    return str(RouterSettings.model_fields[key].validation_alias)


def parse(key: str, text: str) -> Any:
    """The value of a row, by the key's declared type.

    Raises `NotFound` for a key that may not be a row, `Invalid` for a value that is none.
    """
    if key not in KEYS:
        raise NotFound.among("setting", key, KEYS)
    try:
        return _reader(key).validate_python(text.strip())
    except ValidationError as error:
        raise Invalid(
            f"{key}: {_said(error.errors(include_input=False)[0])}.", "Correct the value.", field="value"
        ) from None


@cache
def _reader(key: str) -> TypeAdapter[Any]:
    info = RouterSettings.model_fields[key]
    kind: Any = next(part for part in _alternatives(info.annotation) if part is not type(None))
    return TypeAdapter(kind)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return tuple(getattr(annotation, "__args__", (annotation,)))


def _said(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def values(settings: RouterSettings, rows: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Every key with its value and whence it is: `environment`, `database` or `default`."""
    defaults = FIXED_DEFAULTS | {field.name: field.default for field in fields(Tuning)}
    found: dict[str, tuple[Any, str]] = {}
    for key in KEYS:
        if (given := getattr(settings, key)) is not None:
            found[key] = (given, "environment")
        elif key in rows and (stored := _stored(key, rows[key])) is not None:
            found[key] = (stored, "database")
        else:
            found[key] = (defaults[key], "default")
    return found


@lru_cache(maxsize=256)
def _stored(key: str, text: str) -> Any:
    """A row's value; None where it is not one: that is warned of once, not at every refresh."""
    if not text.strip():
        return None
    try:
        return parse(key, text)
    except Invalid as error:
        log.warning("setting_ignored", key=key, reason=error.detail)
        return None


def tuning(settings: RouterSettings, rows: Mapping[str, str]) -> Tuning:
    """What holds now. Never raises: a wrong row is ignored with a warning."""
    now = values(settings, rows)
    return replace(Tuning(), **{key: now[key][0] for key in TUNED})


def place(settings: RouterSettings, rows: Mapping[str, str]) -> Place:
    """Where to listen. Raises `Misconfigured` for an open address without both tokens."""
    now = {key: value for key, (value, _) in values(settings, rows).items()}
    found = Place(now["host"], now["port"], now["metrics_port"], now["db_path"])
    if not is_loopback(found.host) and not (settings.admin_token and settings.proxy_token):
        raise Misconfigured(
            f"The router would listen on {found.host}, open to others, without a token for each door.",
            "Set SIDECAR_ADMIN_TOKEN and SIDECAR_PROXY_TOKEN, or SIDECAR_HOST=127.0.0.1.",
            code="router_open",
        )
    return found


def backup_folder(settings: RouterSettings, rows: Mapping[str, str], home: Path) -> Path:
    """Where backups go now."""
    chosen = values(settings, rows)["backup_dir"][0]
    return Path(chosen) if chosen else home / "backups"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
