"""What can be tuned: environment over `system_config` over default, per key."""

from dataclasses import dataclass


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
