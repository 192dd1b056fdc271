"""Heartbeats as the API shows them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from quarterdeck.heartbeat.model import Pulse, Result, Sweep, Work
from quarterdeck.heartbeat.naming import name_of_row
from quarterdeck.heartbeat.roster import Heartbeat


class SourceState(BaseModel):
    """What a source told the last time."""

    state: str = Field(examples=["ok"], description="`ok`, or why it could not be looked into.")
    found: int = Field(description="Unfinished work of all agents.")
    todo: int = Field(default=0, description="Work of all, of whomever, that is to do.")
    in_progress: int = Field(default=0, description="Work of all, of whomever, that is in progress.")
    own: int = Field(description="Unfinished work of this agent.")
    first: list[str] = Field(
        default=[],
        description="Some of this agent's own: source, short id, priority, title.",
        examples=[["multica ENG-12 high Fix the login"]],
    )
    detail: str = ""
    cached: bool = False
    at: datetime


class SweepCard(BaseModel):
    """One sweep."""

    id: int
    agent: str = Field(examples=["developer"])
    cause: str = Field(examples=["schedule"])
    started_at: datetime
    finished_at: datetime | None
    result: Result
    sources: dict[str, SourceState]
    found: int = Field(description="Work that was to do.")
    started: int = Field(description="Runs that were started.")
    suspected: list[str]
    confirmed: list[str]
    warnings: list[str]
    detail: str


class Breaker(BaseModel):
    """Work that is held back, or was; `reason` is empty when it is not. `name` is what people call it."""

    work: str = Field(examples=["multica:9f0c2d1e-4b6a-4c1d-8e55-0a1b2c3d4e5f"])
    name: str = Field(examples=["multica:ENG-12"])
    item: str | None = Field(examples=["HB-001"])
    title: str
    reason: str = Field(examples=["3 runs in a row ended the same way: no change"])
    since: datetime | None
    rounds: int
    timeouts: int
    finished: list[str] = Field(description="Steps of it that are finished, as far as its runs told.")
    unfinished: list[str] = Field(description="Steps that are left.")

    @classmethod
    def of(cls, row: Work) -> "Breaker":
        return cls(
            work=f"{row.source}:{row.ref}",
            name=name_of_row(row),
            item=row.item_key,
            title=row.title,
            reason=row.breaker,
            since=row.broken_at,
            rounds=row.rounds,
            timeouts=row.timeouts,
            finished=row.progress.get("finished", []),
            unfinished=row.progress.get("unfinished", []),
        )


class HeartbeatCard(BaseModel):
    """How the heartbeat of one agent stands."""

    agent: str = Field(examples=["developer"])
    category: str = Field(examples=["development"])
    scheduler: str = Field(examples=["prefect"])
    cron: str = Field(examples=["*/15 * * * *"])
    zone: str = Field(examples=["Asia/Shanghai"])
    last: SweepCard | None
    last_finished: datetime | None
    next_at: datetime
    is_stale: bool = Field(
        description="No sweep was finished for two intervals, or ticks of its `cron`, and a minute."
    )
    is_deferred: bool = Field(description="Waits for the end of a conversation.")
    skipped: int = Field(description="Ticks that came while a sweep went on.")
    swept: dict[str, int] = Field(
        description="How many sweeps ended how, also those whose rows are gone.", examples=[{"quiet": 95}]
    )
    breakers: list[Breaker]
    waiting: list[Breaker] = Field(description="Waits for a yes: money, or outside resources.")


def sweep_card(row: Sweep) -> SweepCard:
    return SweepCard.model_validate(row.model_dump())


def heartbeat_card(
    beat: Heartbeat,
    pulse: Pulse | None,
    last: Sweep | None,
    broken: Sequence[Work],
    waiting: Sequence[Work] = (),
    *,
    is_stale: bool,
    next_at: datetime,
) -> HeartbeatCard:
    known: dict[str, Any] = pulse.model_dump() if pulse else {}
    return HeartbeatCard(
        agent=beat.agent,
        category=beat.category.value,
        scheduler=beat.scheduler.value,
        cron=beat.cron,
        zone=beat.zone,
        last=sweep_card(last) if last else None,
        last_finished=known.get("last_finished"),
        next_at=next_at,
        is_stale=is_stale,
        is_deferred=known.get("is_deferred", False),
        skipped=known.get("skipped", 0),
        swept=known.get("swept", {}),
        breakers=[Breaker.of(row) for row in broken],
        waiting=[Breaker.of(row) for row in waiting],
    )
