"""The `heartbeat:` part of an agent in `crew.yaml`: what people write, and what it means.

The category gives every value; an entry replaces single cells (heartbeat.md 2.3, the authoritative matrix).
Durations are written in minutes. The crew keeps the entry as it was written; this room reads it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from math import ceil
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from quarterdeck.heartbeat.work import Watched
from quarterdeck.kernel.documents import Place
from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.kernel.outside import STORABLE

DAY_MINUTES = 24 * 60


class Category(StrEnum):
    """What kind of work an agent does; decides its default limits."""

    HIGH_FREQUENCY = "high-frequency"
    DEVELOPMENT = "development"
    BUSINESS = "business"


class Scheduler(StrEnum):
    """Who wakes the agent: never both."""

    PREFECT = "prefect"
    OPENCLAW = "openclaw"


class Patrol(StrEnum):
    """What an agent has to do with the backlog of all: tell of it, see what another found, or nothing."""

    ALERTS = "alerts"
    READS = "reads"
    OFF = "off"


@dataclass(frozen=True)
class Limits:
    """From when on work counts as stuck, and how long it may turn. Comparisons are strict."""

    max_rounds: int
    stagnation: timedelta
    recovery: timedelta
    dependency_wait: timedelta
    no_progress: int = 3
    runtime: timedelta | None = None

    @property
    def warn_rounds(self) -> int:
        """The mark at which a warning is due: 80 %."""
        return ceil(self.max_rounds * 4 / 5)


@dataclass(frozen=True)
class Budget:
    """What may be spent before an item, or an agent's day, is stopped; `None` = no limit."""

    item_tokens: int | None = None
    item_usd: Decimal | None = None
    day_rounds: int | None = None
    day_tokens: int | None = None
    day_usd: Decimal | None = None

    @property
    def is_set(self) -> bool:
        return self != Budget()


@dataclass(frozen=True)
class Heartbeat:
    """How one agent is watched. `cron` has five fields; `delay` is the second of the minute, in seconds.

    `notify` and `escalate` are names; `creator` stands for whoever the source names as author.
    `escalate` is who is told of the second and of the third timeout (heartbeat.md 6.3).
    """

    agent: str
    category: Category
    interval: timedelta
    limits: Limits
    notify: tuple[str, ...]
    cron: str
    delay: int = 0
    zone: str = "UTC"
    scheduler: Scheduler = Scheduler.PREFECT
    escalate: tuple[str, str] = ("coo", "owner")
    multica_id: str = ""
    workspace: str = ""
    checks: tuple[str, ...] = ()
    patrol: Patrol = Patrol.OFF
    backlog_over: int = 5
    backlog_shown: int = 10
    run_limit: timedelta = timedelta(minutes=30)
    budget: Budget = Budget()

    @cached_property  # asked for by every sweep of every agent
    def watched(self) -> Watched:
        """The agent as sources know it."""
        return Watched(self.agent, self.multica_id, self.workspace)

    @property
    def is_global(self) -> bool:
        """Whether it looks at the work of all."""
        return self.patrol is Patrol.ALERTS


@dataclass(frozen=True)
class _Row:
    interval: int
    max_rounds: int
    stagnation: int
    recovery: int
    dependency_wait: int
    notify: tuple[str, ...]


MATRIX: Mapping[Category, _Row] = {
    Category.HIGH_FREQUENCY: _Row(10, 50, 20, 30, 60, ("coo",)),
    Category.DEVELOPMENT: _Row(15, 100, 30, 45, 120, ("coo", "creator")),
    Category.BUSINESS: _Row(15, 30, 30, 45, 120, ("creator",)),
}
"""The default of every cell, by category; durations in minutes."""

Minutes = Annotated[int, Field(ge=1, le=7 * DAY_MINUTES)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,49}$")]
Text = Annotated[str, Field(max_length=300), STORABLE]
Usd = Annotated[Decimal, Field(gt=0, le=1_000_000)]
Count = Annotated[int, Field(ge=1, le=10**12)]


class BudgetEntry(BaseModel):
    """`budget:` of an entry."""

    model_config = ConfigDict(extra="forbid")

    item_tokens: Count | None = None
    item_usd: Usd | None = None
    day_rounds: Count | None = None
    day_tokens: Count | None = None
    day_usd: Usd | None = None


class Entry(BaseModel):
    """`heartbeat:` of an agent, as people write it."""

    model_config = ConfigDict(extra="forbid")

    category: Category
    interval: Minutes | None = None
    cron: str | None = None
    offset: Annotated[int, Field(ge=0, lt=DAY_MINUTES * 60)] | None = None
    zone: str = "UTC"
    scheduler: Scheduler = Scheduler.PREFECT
    multica_id: Text = ""
    workspace: Text = ""
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] | None = None
    stagnation: Minutes | None = None
    recovery: Minutes | None = None
    dependency_wait: Minutes | None = None
    runtime_limit: Minutes | None = None
    run_limit: Minutes = 30
    no_progress: Annotated[int, Field(ge=2, le=100)] = 3
    notify: list[Name] | None = None
    escalate: Annotated[list[Name], Field(min_length=2, max_length=2)] = ["coo", "owner"]
    checks: list[Text] = []
    patrol: Patrol | Literal[False] = Patrol.OFF  # YAML reads a bare `off` as false
    backlog_over: Annotated[int, Field(ge=0, le=100_000)] = 5
    backlog_shown: Annotated[int, Field(ge=1, le=100)] = 10
    budget: BudgetEntry = BudgetEntry()
    enabled: bool = True

    @field_validator("zone")
    @classmethod
    def _is_zone(cls, zone: str) -> str:
        try:
            return ZoneInfo(zone).key
        except (ValueError, OSError, KeyError):
            raise ValueError(f"{zone!r} is not a time zone such as Asia/Shanghai") from None

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str | None) -> str | None:
        if cron is not None and (len(cron.split()) != 5 or not croniter.is_valid(cron)):
            raise ValueError(f"{cron!r} is not a cron expression of five fields such as */15 * * * *")
        if cron is not None and not _comes(cron):
            raise ValueError(f"{cron!r} never comes")
        return cron

    @field_validator("interval")
    @classmethod
    def _is_regular(cls, interval: int | None) -> int | None:
        if interval is not None and 60 % interval and (interval % 60 or DAY_MINUTES % interval):
            raise ValueError("must divide an hour, or be hours that divide a day; else say `cron`")
        return interval

    @model_validator(mode="after")
    def _is_in_order(self) -> "Entry":
        row = MATRIX[self.category]
        if (self.recovery or row.recovery) < (self.stagnation or row.stagnation):
            raise ValueError("recovery must not be shorter than stagnation")
        return self

    def heartbeat(self, agent: str) -> Heartbeat:
        """What the entry means, alone: `spread` gives it a time of its own among others."""
        row = MATRIX[self.category]
        limits = Limits(
            max_rounds=self.max_rounds or row.max_rounds,
            stagnation=timedelta(minutes=self.stagnation or row.stagnation),
            recovery=timedelta(minutes=self.recovery or row.recovery),
            dependency_wait=timedelta(minutes=self.dependency_wait or row.dependency_wait),
            no_progress=self.no_progress,
            runtime=timedelta(minutes=self.runtime_limit) if self.runtime_limit else None,
        )
        interval = self.interval or row.interval
        return Heartbeat(
            agent=agent,
            category=self.category,
            interval=timedelta(minutes=interval),
            limits=limits,
            notify=row.notify if self.notify is None else tuple(self.notify),
            cron=self.cron or cron_of(interval, (self.offset or 0) // 60),
            delay=(self.offset or 0) % 60,
            zone=self.zone,
            scheduler=self.scheduler,
            escalate=(self.escalate[0], self.escalate[1]),
            multica_id=self.multica_id.strip(),
            workspace=self.workspace,
            checks=tuple(self.checks),
            patrol=self.patrol or Patrol.OFF,
            backlog_over=self.backlog_over,
            backlog_shown=self.backlog_shown,
            run_limit=timedelta(minutes=self.run_limit),
            budget=Budget(**self.budget.model_dump()),
        )


def _comes(cron: str) -> bool:
    """Not the thirtieth of February."""
    try:
        croniter(cron).get_next()
    except CroniterBadDateError:
        return False
    return True


def cron_of(interval: int, offset: int) -> str:
    """Every `interval` minutes, at most a day, `offset` minutes later than the clock strikes."""
    minute = offset % min(interval, 60)
    if interval < 60:
        return f"{minute}-59/{interval} * * * *" if minute else f"*/{interval} * * * *"
    if interval == 60:
        return f"{minute} * * * *"
    hours = interval // 60
    hour = offset // 60 % hours
    return f"{minute} {hour}-23/{hours} * * *" if hours < 24 else f"{minute} {hour} * * *"


def read(agent: str, raw: Any) -> Heartbeat | None:
    """An entry that was checked before; `None` = switched off. Raises `Misconfigured`."""
    if complaint := wrong(raw):
        place, what = complaint
        raise Misconfigured(
            f"heartbeat of {agent}: {'.'.join(map(str, place))}: {what}.",
            "Correct it in the roster, then `quarterdeck setup --apply`.",
            code="heartbeat_wrong",
        )
    entry = Entry.model_validate(raw)
    return entry.heartbeat(agent) if entry.enabled else None


def read_all(entries: Mapping[str, Any]) -> dict[str, Heartbeat]:
    """The heartbeats of agents (slug -> entry), each at a second of its own."""
    read_ones = {agent: read(agent, raw) for agent, raw in sorted(entries.items()) if raw is not None}
    return spread({agent: one for agent, one in read_ones.items() if one}, entries)


def spread(heartbeats: Mapping[str, Heartbeat], entries: Mapping[str, Any]) -> dict[str, Heartbeat]:
    """Who names no time of its own gets one: up to sixty agents never share a second (heartbeat.md 11)."""
    given, many = {}, max(len(heartbeats), 1)
    for number, (agent, one) in enumerate(heartbeats.items()):
        raw = entries[agent]
        minutes = int(one.interval.total_seconds()) // 60
        if raw.get("offset") is None:
            one = replace(one, delay=number * 60 // many if many <= 60 else number % 60)
            if raw.get("cron") is None:
                one = replace(one, cron=cron_of(minutes, number * min(minutes, 60) // many))
        given[agent] = one
    return given


def wrong(raw: Any) -> tuple[Place, str] | None:
    """What is wrong with an entry, and where in it."""
    try:
        Entry.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        words = {"extra_forbidden": "is not known here", "missing": "is missing"}
        return tuple(first["loc"]), words.get(first["type"], message)
    return None


def complaints(entries: Sequence[tuple[str, Any]]) -> Iterator[tuple[int, Place, str]]:
    """What is wrong with the heartbeats of a roster: position, place in the entry, and what."""
    taken: dict[tuple[str, str], str] = {}
    for position, (agent, raw) in enumerate(entries):
        if raw is None:
            continue
        if complaint := wrong(raw):
            yield position, *complaint
            continue
        for name, value, why in _alone(Entry.model_validate(raw)):
            if (other := taken.setdefault((name, value), agent)) != agent:
                yield position, (name,), f"{other} {why}"


def _alone(entry: Entry) -> Iterator[tuple[str, str, str]]:
    """What only one agent may have: key, value, and what is said of whoever has it already."""
    if not entry.enabled:
        return
    if entry.patrol is Patrol.ALERTS:
        yield "patrol", entry.patrol, "tells of the backlog already; one does"
    if entry.multica_id.strip():
        yield "multica_id", entry.multica_id.strip(), "has this one already; by it one of both would be found"
    if entry.workspace:
        yield "workspace", entry.workspace, "has this one already, and both would begin the same lines"
