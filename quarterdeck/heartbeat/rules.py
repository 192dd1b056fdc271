"""What a sweep decides beside stagnation: dependencies, rounds, breaker, budgets, patrol, watchdog.

Pure: what is known comes in as values, the time too.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from zoneinfo import ZoneInfo

from croniter import croniter

from quarterdeck.heartbeat.overview import Overview, Piece, of_all
from quarterdeck.heartbeat.roster import Budget, Heartbeat, Limits
from quarterdeck.heartbeat.work import Answer, Found, Need, Status, Trouble

GRACE = timedelta(seconds=60)
"""What the watchdog allows beyond two intervals (heartbeat.md 14)."""


class Gate(StrEnum):
    """Whether the dependencies of a piece of work let it begin."""

    READY = "ready"
    WAITING = "waiting"
    CANCELLED = "cancelled"  # what it needs will never come: a person decides
    UNRESPONSIVE = "unresponsive"  # what it needs stands still itself, or cannot be looked up
    CYCLE = "cycle"


@dataclass(frozen=True)
class Dependencies:
    """How they stand; `needs` are those that are not met, `way` is the cycle."""

    gate: Gate
    needs: tuple[Need, ...] = ()
    way: tuple[str, ...] = ()


def dependencies(piece: Piece, overview: Overview, stuck: frozenset[str] = frozenset()) -> Dependencies:
    """What a piece of work waits for. An unknown status is not met; `stuck` are refs that timed out."""
    unmet = tuple(need for need in piece.needs if need.status is not Status.DONE)
    if not unmet:
        return Dependencies(Gate.READY)
    if way := overview.cycle(piece.ref):
        return Dependencies(Gate.CYCLE, unmet, way)
    if any(need.status is Status.CANCELLED for need in unmet):
        return Dependencies(Gate.CANCELLED, unmet)
    if any(need.status in (None, Status.BLOCKED) or str(need.ref) in stuck for need in unmet):
        return Dependencies(Gate.UNRESPONSIVE, unmet)
    return Dependencies(Gate.WAITING, unmet)


def executor(need: Need, overview: Overview) -> str | None:
    """Whose work is waited for, where a source says it."""
    place: Found | None = overview.by_ref.get(need.ref)
    return place.agent if place else None


class Turn(StrEnum):
    """What the number of rounds asks for."""

    NONE = "none"
    WARN = "warn"
    PAUSE = "pause"


def turn(rounds: int, limits: Limits, raised: int | None = None) -> Turn:
    """A warning at 80 %, a pause at the limit; `raised` is the limit that somebody gave this work."""
    most = raised or limits.max_rounds
    if rounds >= most:
        return Turn.PAUSE
    warn = limits.warn_rounds if raised is None else -(-most * 4 // 5)
    return Turn.WARN if rounds >= warn else Turn.NONE


def fingerprint(agent: str, ref: str, reason: str, *outcome: object) -> str:
    """Who did what because of what, and what came of it; numbers and spaces do not make a difference."""
    said = " ".join(re.sub(r"\d+", "#", str(part)).casefold() for part in outcome)
    whole = "\x1f".join((agent, ref, reason, " ".join(said.split())))
    return hashlib.sha256(whole.encode("utf-8", "replace")).hexdigest()


def repeats(before: str, count: int, now: str) -> int:
    """How often the same thing came in a row, this time included."""
    return count + 1 if before == now else 1


@dataclass(frozen=True)
class Spent:
    """What was spent on an item, or by an agent today."""

    rounds: int = 0
    tokens: int = 0
    usd: Decimal = Decimal(0)


def item_over(budget: Budget, spent: Spent) -> str:
    """Which limit of the item is reached, in words; empty = none."""
    if budget.item_tokens is not None and spent.tokens >= budget.item_tokens:
        return f"{spent.tokens} of {budget.item_tokens} tokens are spent on it"
    if budget.item_usd is not None and spent.usd >= budget.item_usd:
        return f"{spent.usd:.2f} of {budget.item_usd} USD are spent on it"
    return ""


def day_over(budget: Budget, spent: Spent) -> str:
    """Which limit of the agent's day is reached, in words; empty = none."""
    if budget.day_rounds is not None and spent.rounds >= budget.day_rounds:
        return f"{spent.rounds} of {budget.day_rounds} runs of the day are used"
    if budget.day_tokens is not None and spent.tokens >= budget.day_tokens:
        return f"{spent.tokens} of {budget.day_tokens} tokens of the day are used"
    if budget.day_usd is not None and spent.usd >= budget.day_usd:
        return f"{spent.usd:.2f} of {budget.day_usd} USD of the day are spent"
    return ""


def day_begins(now: datetime, zone: str) -> datetime:
    """Midnight of today where the agent works."""
    return now.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Backlog:
    """How much is open on one platform; `first` are some of it, in words."""

    source: str
    todo: int
    in_progress: int
    total: int
    first: tuple[str, ...] = ()


def backlog(answer: Answer, shown: int) -> Backlog:
    """One platform's open work, with the first few pieces (heartbeat.md 9)."""
    places = of_all(answer)
    todo = [place for place in places if place.status is Status.TODO]
    running = sum(place.status is Status.IN_PROGRESS for place in places)
    return Backlog(answer.source, len(todo), running, len(places), tuple(map(line, todo[:shown])))


def line(place: Found) -> str:
    """Short id, owner, title."""
    return f"{(place.shown or place.ref.id)[:12]} {(place.agent or 'unassigned')[:12]} {place.title[:60]}"


def report(place: Found) -> str:
    """Source, short id, priority, title: how a sweep tells of a piece of work (heartbeat.md 3)."""
    return f"{place.ref.source} {place.shown or place.ref.id[:8]} {place.priority or '?'} {place.title[:60]}"


def is_told(told: Mapping[str, int], found: Backlog, over: int) -> bool:
    """Whether the warning is due: over the threshold, and another number than the last time."""
    return found.todo > over and told.get(found.source) != found.todo


def is_failed(answer: Answer) -> bool:
    """A source that was to be looked into, and could not be."""
    return answer.trouble not in (None, Trouble.NOT_CONFIGURED)


def is_stale(beat: Heartbeat, last: datetime, now: datetime) -> bool:
    """No sweep was finished for two intervals and a minute; a rarer `cron` of its own counts by its ticks."""
    if now - last <= 2 * beat.interval + GRACE:
        return False
    return now > next_sweep(beat, next_sweep(beat, last)) + GRACE


class Standstill(StrEnum):
    """Whether an agent whose heartbeat stopped is alone with that."""

    ALONE = "alone"
    TOGETHER = "together"  # whoever wakes them all is what is down
    UNDECIDED = "undecided"  # the others were not due since


def standstill(
    agent: str, group: Mapping[str, Heartbeat], lasts: Mapping[str, datetime], now: datetime
) -> Standstill:
    """Of an agent that is stale, among all that one scheduler wakes; `lasts`: each one's last sweep.

    Another one that was swept since it missed its turn shows that turns come; one that missed its own, that
    they do not. While neither is known it may take one more interval.
    """
    others = [name for name in group if name != agent]
    missed = next_sweep(group[agent], lasts[agent])
    if not others or any(lasts[name] > missed for name in others):
        return Standstill.ALONE
    if any(now > next_sweep(group[name], lasts[name]) + GRACE for name in others):
        return Standstill.TOGETHER
    is_long = now - lasts[agent] > 3 * group[agent].interval + GRACE
    return Standstill.ALONE if is_long else Standstill.UNDECIDED


def next_sweep(beat: Heartbeat, now: datetime) -> datetime:
    """When the agent is swept next."""
    local = (now - timedelta(seconds=beat.delay)).astimezone(ZoneInfo(beat.zone))
    moment: datetime = croniter(beat.cron, local).get_next(datetime)
    return moment + timedelta(seconds=beat.delay)
