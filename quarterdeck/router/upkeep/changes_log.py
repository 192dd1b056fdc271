"""What became of backends, as log lines: each cooldown from its beginning to its end, who is out of order.

What a single call saw is told at the call (`door.attempts`); probes tell what they found by themselves.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from quarterdeck.router.backend import Status
from quarterdeck.router.limits.standing import (
    Change,
    CooldownEnded,
    CooldownExtended,
    CooldownStarted,
    HealthChanged,
    StatusChanged,
)

log = structlog.get_logger(__name__)


def tell(changes: Sequence[Change]) -> None:
    """Write the changes that a person may have to act on, in their order."""
    for change in changes:
        _tell(change)


def _tell(change: Change) -> None:
    backend = change.backend_id
    match change:
        case CooldownStarted():
            facts = {"kind": change.kind.value, "count": change.count, "until": _iso(change.until)}
            log.warning("cooldown_started", backend=backend, seconds=round(change.seconds, 1), **facts)
        case CooldownExtended():
            log.warning("cooldown_extended", backend=backend, until=_iso(change.until))
        case CooldownEnded():
            log.info("cooldown_cleared", backend=backend)
        case StatusChanged(status=Status.ERROR):
            log.error("backend_out_of_order", backend=backend, reason=change.reason)
        case HealthChanged():
            log.debug("backend_health", backend=backend, state=change.state.value, failures=change.failures)
        case _:
            pass


def _iso(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
