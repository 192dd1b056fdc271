"""Who is told of an event, and when a message may go. Pure: times and chance come in as arguments."""

from collections.abc import Iterable, Sequence
from datetime import datetime, time, timedelta
from math import isfinite
from zoneinfo import ZoneInfo

from quarterdeck.notify.channels import Window
from quarterdeck.notify.model import Severity, Subscription
from quarterdeck.notify.texts import TOLD

LONGEST_WAIT = timedelta(hours=24)
"""A far side that asks for more, or for nonsense, gets this much peace."""

LONGEST_PAUSE = timedelta(minutes=5)
"""Between attempts at something that is down."""

_SEVERITY = {
    "agent_failed": Severity.ERROR,
    "agent_timed_out": Severity.ERROR,
    "error": Severity.ERROR,
    "gate_failed": Severity.WARNING,
    "approval_requested": Severity.WARNING,
    "item_blocked": Severity.WARNING,
    "breaker_opened": Severity.ERROR,
    "heartbeat_stale": Severity.ERROR,
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
    return _between(now.astimezone(ZoneInfo(subscription.zone)).time(), begin, end)


def _between(moment: time, begin: time, end: time) -> bool:
    if begin <= end:
        return begin <= moment < end
    return moment >= begin or moment < end


def next_slot(windows: Iterable[Window], sends: Sequence[datetime], now: datetime) -> datetime:
    """The earliest time, `now` or later, at which one more message breaks no window."""
    past = sorted(sends)
    return max([now, *(past[-window.count] + window.span for window in windows if len(past) >= window.count)])


def remembered(windows: Iterable[Window], sends: Sequence[datetime], now: datetime) -> list[datetime]:
    """The sends that can still matter, oldest first."""
    horizon = now - max((window.span for window in windows), default=timedelta())
    return sorted(moment for moment in sends if moment > horizon)


def pause(failures: int, jitter: float) -> timedelta:
    """How long to leave something alone that failed so many times in a row (1 = for the first time).

    Doubles from one second to `LONGEST_PAUSE`; `jitter` in [0, 1) takes away up to half of it.
    """
    doubled = min(2.0 ** min(failures - 1, 32), LONGEST_PAUSE.total_seconds())
    return timedelta(seconds=doubled * (1 - jitter / 2))


def obeyed(retry_after: float) -> timedelta:
    """The wait that was asked for, exactly; more than 24 hours or nonsense is 24 hours."""
    if not isfinite(retry_after) or not 0 <= retry_after <= LONGEST_WAIT.total_seconds():
        return LONGEST_WAIT
    return timedelta(seconds=retry_after)
