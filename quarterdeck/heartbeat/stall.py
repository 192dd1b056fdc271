"""What stands still, and how it is brought on: stagnation and the ladder of recovery (heartbeat.md 5 and 6).

Times are aware, so the zone of the host means nothing here (H1). Comparisons are strict: idle for exactly
the threshold is not stuck yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from quarterdeck.heartbeat.roster import Heartbeat, Limits
from quarterdeck.heartbeat.work import Status

SILENT = 3
"""From so many rounds without output on, rounds are no progress any more."""

LAST = 3
"""The timeout after which nothing is tried again by itself."""

OWNER, CREATOR = "owner", "creator"


class Standing(StrEnum):
    """How a piece of work in progress stands."""

    MOVING = "moving"
    SUSPECTED = "suspected"
    CONFIRMED = "confirmed"
    UNMEASURABLE = "unmeasurable"


def standing(sign: datetime | None, now: datetime, limits: Limits, *, rounds_moved: bool = False) -> Standing:
    """Idle since its last sign of life; rounds that moved, and are few without output, count as life."""
    if sign is None:
        return Standing.UNMEASURABLE
    idle = now - sign
    if idle <= limits.stagnation:
        return Standing.MOVING
    if idle <= limits.recovery or rounds_moved:
        return Standing.SUSPECTED
    return Standing.CONFIRMED


def sign_that_counts(seen: datetime | None, own: datetime | None, before: datetime | None) -> datetime | None:
    """What we did to the work ourselves is no sign of its life."""
    return before if seen is not None and seen == own and before is not None else seen


class Rung(StrEnum):
    """What is to be done about work that stands still."""

    NOTHING = "nothing"
    RESUMED = "resumed"  # it moves again after a retry: written down, nobody is alarmed
    RETRY = "retry"  # the current step once more
    ACT = "act"  # the retry brought nothing: mark it on its platform, tell people
    GIVE_UP = "give up"  # the third time: blocked, and nothing more by itself


@dataclass(frozen=True)
class Episode:
    """What is remembered of a work's timeouts: how many, the last sign before the last of them, its end."""

    timeouts: int = 0
    timed_out_at: datetime | None = None
    acted: bool = False


def rung(episode: Episode, state: Standing, sign: datetime | None) -> Rung:
    """The next step of the ladder. One timeout is one sign of life that was the last for too long."""
    began, same = episode.timed_out_at, sign == episode.timed_out_at
    if began is not None and not episode.acted and not same and sign is not None:
        return Rung.RESUMED
    if state is not Standing.CONFIRMED:
        return Rung.NOTHING
    if began is not None and same:
        return Rung.NOTHING if episode.acted else Rung.ACT
    return Rung.GIVE_UP if episode.timeouts + 1 >= LAST else Rung.RETRY


def climbed(episode: Episode, step: Rung, sign: datetime | None) -> Episode:
    """What is remembered after a step."""
    match step:
        case Rung.RETRY:
            return Episode(episode.timeouts + 1, sign, acted=False)
        case Rung.GIVE_UP:
            return Episode(episode.timeouts + 1, sign, acted=True)
        case Rung.ACT | Rung.RESUMED:
            return Episode(episode.timeouts, episode.timed_out_at, acted=True)
    return episode


def recipients(beat: Heartbeat, number: int, *, resumed: bool, creator: str | None) -> tuple[str, ...]:
    """Who is told of a timeout, once it is known whether the retry helped (heartbeat.md 6.3)."""
    told: list[str] = []
    if not resumed:
        told += beat.notify
    if number >= 2:
        told.append(beat.escalate[0])
    if number >= LAST and not resumed:
        told.append(beat.escalate[1])
    return people(told, creator)


def people(names: Iterable[str], creator: str | None) -> tuple[str, ...]:
    """Names without repetition; the creator by name, or the owner where the source names none."""
    return tuple(dict.fromkeys((creator or OWNER) if name == CREATOR else name for name in names))


def may_be_recovered(status: Status, *, waits_for_a_person: bool) -> bool:
    """Only what is in progress and waits for nobody's decision can be stuck."""
    return status is Status.IN_PROGRESS and not waits_for_a_person
