"""What became of the week: every job's fate, who did how much, and whether what must hold did hold."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any

from deployments.simulation.jobs import Job, Nature
from deployments.simulation.outside import APART
from deployments.simulation.people import HELD
from deployments.simulation.virtual_time import BEGIN
from deployments.simulation.week import Week
from quarterdeck.crew.model import AgentRun
from quarterdeck.heartbeat.model import Pulse, Work
from quarterdeck.heartbeat.rules import day_begins
from quarterdeck.heartbeat.work import Status

BLOCKING = frozenset({"work_timed_out", "work_unfinished", "breaker_opened", "rounds_exhausted"})
"""Events that say why work stands blocked, and whose move it is."""

WAITING = frozenset({"dependency_cycle", "dependency_cancelled", "work_waits"})
"""Events that say that work waits for other work in vain, or for long."""

SHORTLY = timedelta(hours=4)
"""Work that is tried again has its turn at least that often, and waits no longer without a word."""


class Fate(StrEnum):
    """What became of a job."""

    DONE = "done"
    WITHDRAWN = "withdrawn"  # people cancelled it
    HELD = "held"  # it stands blocked or waits, and somebody was told why
    GOES_ON = "goes on"  # it is at work, or had its last turn shortly before
    FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class Row:
    """One agent. `recovered`: done, though a run of it had failed or it had stood still; `escalated`: told to
    somebody.
    """

    agent: str
    found: int = 0
    started: int = 0
    done: int = 0
    recovered: int = 0
    escalated: int = 0
    blocked: int = 0
    forgotten: int = 0
    doubled: int = 0


COLUMNS = tuple(Row.__dataclass_fields__)[1:]


@dataclass(frozen=True)
class Verdict:
    """`broken`: sentences about what must hold and did not; empty = all is well."""

    rows: tuple[Row, ...]
    total: Row
    injected: Mapping[str, int]
    sweeps: Mapping[str, int]
    broken: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def fate(week: Week, job: Job) -> Fate:
    """As it really is, by what stands in the places themselves."""
    if all(card.status is Status.CANCELLED for card in job.cards):
        return Fate.WITHDRAWN
    if job.completed and job.is_closed:
        return Fate.DONE
    if job.completed == 0 and (_is_blocked(job) or _waits(job) or _is_day_over(week, job.agent)):
        return Fate.HELD
    return Fate.GOES_ON if job.completed == 0 and _goes_on(week, job) else Fate.FORGOTTEN


def _is_blocked(job: Job) -> bool:
    """It stands so now, with the reason written there."""
    blocked = (card for card in job.cards if card.status in HELD)
    return bool(job.told & BLOCKING) and any(card.said for card in blocked)


def _waits(job: Job) -> bool:
    """For a yes, or for other work, and somebody knows."""
    if "work_needs_approval" in job.told and not job.is_allowed:
        return True
    return bool(job.told & WAITING) and any(card.needs for card in job.cards)


def _is_day_over(week: Week, agent: str) -> bool:
    """The agent spent what it may spend today."""
    told, zone = week.people.days_over.get(agent), week.beats[agent].zone
    return told is not None and day_begins(told, zone) == day_begins(BEGIN + week.plan.end, zone)


def _goes_on(week: Week, job: Job) -> bool:
    """A run of it, or whoever began it by himself, gave a sign shortly before the end."""
    since = BEGIN + week.plan.end - SHORTLY
    by_itself = [card.at for card in job.cards if card.status is Status.IN_PROGRESS]
    return any(at > since for at in (*by_itself, *([job.at] if job.at else ())))


def is_doubled(job: Job) -> bool:
    """Two runs at once, done twice, or taken out of the hands of whoever was at it."""
    is_robbed = job.nature is Nature.SLOW and job.runs > 0
    return job.most_open > 1 or job.completed > 1 or is_robbed


def judged(week: Week) -> Verdict:
    """Look at everything that happened."""
    rows = tuple(_row(week, agent) for agent in sorted(week.beats))
    total = Row("all", **{name: sum(getattr(row, name) for row in rows) for name in COLUMNS})
    injected = week.seen.injected + _lapses(week)
    broken = (*_of_jobs(week), *_of_agents(week), *_of_doors(week), *week.seen.failed)
    return Verdict(rows, total, dict(sorted(injected.items())), dict(week.seen.sweeps), broken)


def _lapses(week: Week) -> Counter[str]:
    return Counter({"an answer of a source lost": sum(place.lapsed for place in week.outside.values())})


def _row(week: Week, agent: str) -> Row:
    jobs = [job for job in week.jobs if job.agent == agent]
    fates = [fate(week, job) for job in jobs]
    troubled = {"work_unfinished", "work_timed_out", "work_resumed", "breaker_opened", "rounds_exhausted"}
    done = [job for job, found in zip(jobs, fates, strict=True) if found is Fate.DONE]
    return Row(
        agent,
        found=len(jobs),
        started=sum(run.agent == agent for run in week.database.tables.rows[AgentRun].values()),
        done=len(done),
        recovered=sum(bool(job.told & troubled) or job.nature is Nature.STALLS for job in done),
        escalated=sum(bool(job.told) for job in jobs),
        blocked=fates.count(Fate.HELD),
        forgotten=fates.count(Fate.FORGOTTEN),
        doubled=sum(map(is_doubled, jobs)),
    )


def _of_jobs(week: Week) -> list[str]:
    broken = [f"forgotten: {_named(job)}" for job in week.jobs if fate(week, job) is Fate.FORGOTTEN]
    broken += [f"doubled: {_named(job)}" for job in week.jobs if is_doubled(job)]
    for job in week.jobs:
        most = week.beats[job.agent].limits.no_progress * _memories(week, job)
        if job.most_same > most:
            broken.append(f"{job.most_same} runs ended the same way, {most} are allowed: {_named(job)}")
        tokens = week.beats[job.agent].budget.item_tokens
        if tokens is not None and job.most_spent >= tokens:
            broken.append(f"a run after {job.most_spent} of {tokens} tokens: {_named(job)}")
    return broken


def _memories(week: Week, job: Job) -> int:
    """Places that were met apart, as one of them was down, are remembered and counted apart."""
    rows = week.database.tables.rows[Work]
    return max(1, sum((card.ref.source, card.ref.id) in rows for card in job.cards))


def _named(job: Job) -> str:
    where = ", ".join(f"{card.ref} {card.status}" for card in job.cards)
    return f"{job.name} of {job.agent} ({where}; {job.nature.value}; {job.runs} runs)"


def _of_agents(week: Week) -> list[str]:
    broken = [f"{week.seen.together} sweeps of an agent at once"] if week.seen.together else []
    for agent, most in week.workshop.most_at_once.items():
        if most > week.plan.slots:
            broken.append(f"{agent} had {most} runs at once")
    for agent, beat in week.beats.items():
        last = week.database.tables.rows[Pulse][agent].last_finished
        if last is None or last < BEGIN + week.plan.end - 3 * beat.interval:
            broken.append(f"{agent} was swept no more")
        runs = list(week.database.tables.runs_of[agent].values())
        if beat.budget.day_rounds is not None:
            broken += _days_over(runs, beat.budget.day_rounds, agent, beat.zone)
    return broken


def _days_over(runs: list[AgentRun], most: int, agent: str, zone: str) -> list[str]:
    days: dict[datetime, int] = {}
    for run in runs:
        day = day_begins(run.created_at, zone)
        days[day] = days.get(day, 0) + 1
    return [
        f"{agent} had {many} runs on {day:%A}, {most} are allowed"
        for day, many in days.items()
        if many > most
    ]


def _of_doors(week: Week) -> list[str]:
    broken = []
    for place in week.outside.values():
        gaps = [after - before for before, after in pairwise(sorted(place.calls))]
        if min(gaps, default=APART) < APART - timedelta(milliseconds=1):
            broken.append(f"two calls of {place.name} within {min(gaps).total_seconds():.2f} s")
    owed = [row for row in week.database.tables.rows[Work].values() if row.owed and not row.run_id]
    late = BEGIN + week.plan.end - timedelta(hours=2)
    broken += [f"{row.source}:{row.ref} is still owed {row.owed}" for row in owed if row.updated_at < late]
    return broken
