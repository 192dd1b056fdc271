"""Who is told of an event, and whether with a sound. Pure: times come in as arguments."""

from datetime import UTC, datetime, time, tzinfo
from zoneinfo import ZoneInfo

from quarterdeck.notify.model import Severity, Subscription
from quarterdeck.notify.texts import TOLD

_SEVERITY = {
    "agent_failed": Severity.ERROR,
    "agent_timed_out": Severity.ERROR,
    "error": Severity.ERROR,
    "gate_failed": Severity.WARNING,
    "approval_requested": Severity.WARNING,
    "item_blocked": Severity.WARNING,
    "breaker_opened": Severity.ERROR,
    "heartbeat_stale": Severity.ERROR,
    "heartbeats_stopped": Severity.ERROR,
    "sources_down": Severity.ERROR,
    "rounds_exhausted": Severity.ERROR,
    "work_timed_out": Severity.WARNING,
    "work_unfinished": Severity.WARNING,
    "work_waits": Severity.WARNING,
    "work_needs_approval": Severity.WARNING,
    "work_runs_long": Severity.WARNING,
    "dependency_cancelled": Severity.WARNING,
    "dependency_cycle": Severity.WARNING,
    "rounds_warning": Severity.WARNING,
    "day_budget_spent": Severity.WARNING,
    "backlog_warning": Severity.WARNING,
    "work_of_strangers": Severity.WARNING,
}


def severity(kind: str) -> Severity:
    """How much an event of this kind matters."""
    return _SEVERITY.get(kind, Severity.INFO)


def project_of(item_key: str | None) -> str | None:
    """`ET` of `ET-007`."""
    return item_key.rpartition("-")[0] if item_key else None


def wants(subscription: Subscription, kind: str, project: str | None) -> bool:
    """Whether a subscription asks for an event; naming a kind beats its being no message by default."""
    ranks = list(Severity)
    return (
        subscription.enabled
        and (kind in subscription.events if subscription.events else kind in TOLD)
        and subscription.project in (None, project)
        and ranks.index(severity(kind)) >= ranks.index(subscription.severity)
    )


def is_quiet(subscription: Subscription, now: datetime) -> bool:
    """Whether messages should arrive without a sound now."""
    begin, end = subscription.quiet_from, subscription.quiet_to
    if begin is None or end is None:
        return False
    return _between(now.astimezone(_zone(subscription.zone)).time(), begin, end)


def _zone(name: str) -> tzinfo:
    """A zone that was known when the roster was read may be gone since, with an upgrade of the system."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


def _between(moment: time, begin: time, end: time) -> bool:
    if begin <= end:
        return begin <= moment < end
    return moment >= begin or moment < end
