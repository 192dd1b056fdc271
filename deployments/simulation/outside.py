"""The places where work waits, as programs outside: slow, cached for a minute, sometimes down or half deaf.

Each does with an order what its real counterpart does: OpenClaw's WorkBoard cannot give a card back but only
block it, Plane's backlog is its way of blocking and what is done stays in progress there until somebody
closes it, our own board wakes its engine, and lets nobody take from it what it works on or has done.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from deployments.simulation.memory import MemoryRecords
from quarterdeck.heartbeat.sources.every import GLANCE
from quarterdeck.heartbeat.sources.polling import FRESH, Look, Polling, Turns
from quarterdeck.heartbeat.sources.trouble import unavailable
from quarterdeck.heartbeat.work import Answer, Found, Need, Ref, Status, Trouble, Watched
from quarterdeck.kernel.database import Database

APART = timedelta(seconds=1)
"""Between two calls through one door, as in the shipped settings."""

PATIENCE, HANGS = 30, 200
"""Seconds after which a call is given up; a look goes on for longer than a sweep waits for it."""

PAUSE = 2.0
"""Seconds between two looks whether another sweep has looked by now; fewer would only cost time."""

CLOSED = (Status.DONE, Status.CANCELLED)
OPEN_AGAIN = {"workboard": Status.BLOCKED, "plane": Status.TODO}
"""What becomes of work that is given back, where it is not simply to do again."""


@dataclass(eq=False)
class Card:
    """One piece of work in one place. `is_reported`: done, and in progress until a person closes it."""

    ref: Ref
    title: str
    agent: str | None
    status: Status
    at: datetime
    made: datetime
    priority: str | None = None
    labels: tuple[str, ...] = ()
    needs: list[Ref] = field(default_factory=list)
    rounds: int | None = None
    said: list[str] = field(default_factory=list)
    is_reported: bool = False

    @property
    def is_in_review(self) -> bool:
        return self.is_reported or self.status is Status.IN_REVIEW

    def change(self, now: datetime, status: Status | None = None) -> None:
        self.is_reported = self.is_reported and status is None
        self.status, self.at = status or self.status, now


@dataclass(frozen=True)
class Outage:
    """A time in which a place does not answer; `hangs`: it does not even refuse."""

    begin: datetime
    end: datetime
    trouble: Trouble = Trouble.FAILED

    @property
    def hangs(self) -> bool:
        return self.trouble is Trouble.TIMED_OUT


class Outside:
    """One place, with the door through which it is asked. `lapses`: how many calls in a thousand go wrong."""

    def __init__(
        self, name: str, rank: int, database: Database, chance: random.Random, *, is_driven: bool = False
    ) -> None:
        self.name, self.rank, self.is_driven = name, rank, is_driven
        records = MemoryRecords()
        self.cards: dict[str, Card] = {}
        self.outages: list[Outage] = []
        self.lapses = 0
        self.calls: list[datetime] = []
        self.lapsed = 0
        self.on_start: Callable[[Card], None] = lambda card: None
        self._database = database
        self._chance = chance
        self._polling = Polling(
            database, name, fresh=GLANCE if is_driven else FRESH, pause=PAUSE, shared=records
        )
        self._turns = Turns(database, name, APART, records)

    def now(self) -> datetime:
        return self._database.clock.now()

    def put(self, card: Card) -> None:
        self.cards[card.ref.id] = card

    # What a sweep asks

    async def look(self, agents: Sequence[Watched]) -> Answer:
        return await self._polling.answer(self.name, agents, self._ask, {a.slug: a.slug for a in agents})

    async def _ask(self) -> Look:
        await self._call(HANGS)
        return Look(tuple(self._found(c) for c in self.cards.values() if c.status not in CLOSED))

    async def filed_since(self, moment: datetime) -> Sequence[str]:
        return [c.title for c in self.cards.values() if c.made >= moment and c.status not in CLOSED]

    async def read(self, ref: Ref) -> Found | None:
        await self._call()
        card = self.cards.get(ref.id)
        return self._found(card) if card else None

    def _found(self, card: Card) -> Found:
        needs = (Need(ref, self._status_of(ref)) for ref in card.needs)
        return Found(
            card.ref,
            card.title,
            card.status,
            shown=card.ref.id,
            agent=card.agent,
            priority=card.priority,
            creator="anna",
            labels=card.labels,
            needs=tuple(needs),
            rounds=card.rounds,
            created_at=card.made,
            updated_at=card.at,
        )

    def _status_of(self, ref: Ref) -> Status | None:
        card = self.cards.get(ref.id)
        return card.status if card else None

    # What a sweep orders

    async def start(self, ref: Ref, agent: str) -> None:
        async with _Order(self, ref) as card:
            if self.is_driven:
                self.on_start(card)
            else:
                card.change(self.now(), Status.IN_PROGRESS)

    async def comment(self, ref: Ref, text: str) -> None:
        async with _Order(self, ref) as card:
            self._say(card, text)

    async def release(self, ref: Ref, why: str) -> None:
        async with _Order(self, ref) as card:
            if self.is_driven and card.status is not Status.IN_PROGRESS:
                return
            self._say(card, why)
            card.change(self.now(), OPEN_AGAIN.get(self.name, Status.TODO))

    async def reopen(self, ref: Ref, why: str) -> None:
        async with _Order(self, ref) as card:
            if self.is_driven and card.status is not Status.BLOCKED:
                return
            self._say(card, why)
            card.change(self.now(), Status.TODO)

    async def block(self, ref: Ref, why: str) -> None:
        async with _Order(self, ref) as card:
            if self.is_driven and card.status in CLOSED:
                return
            self._say(card, why)
            card.change(self.now(), Status.OTHER if self.name == "plane" else Status.BLOCKED)

    async def finish(self, ref: Ref, result: str, *, is_reviewed: bool) -> None:
        async with _Order(self, ref) as card:
            if self.is_driven and card.status in (*CLOSED, Status.IN_PROGRESS):
                return
            self._say(card, result)
            unreviewed = Status.IN_PROGRESS if self.name == "plane" else Status.IN_REVIEW
            card.change(self.now(), Status.DONE if is_reviewed else unreviewed)
            card.is_reported = card.status is Status.IN_PROGRESS

    async def note_rounds(self, ref: Ref, rounds: int) -> None:
        async with _Order(self, ref) as card:
            card.rounds = rounds

    def _say(self, card: Card, text: str) -> None:
        if card.said[-1:] != [text]:  # the same remark twice is one
            card.said.append(text)
        card.change(self.now())

    async def _call(self, patience: float = PATIENCE) -> None:
        """One call through the door. Raises `Unavailable` when it fails."""
        await self._turns.take()
        self.calls.append(self.now())
        outage = next((one for one in self.outages if one.begin <= self.now() < one.end), None)
        await asyncio.sleep(patience if outage and outage.hangs else 0.2 + self._chance.random())
        if outage:
            raise unavailable(outage.trouble, f"{self.name} does not answer.")

    def _has_lapse(self) -> bool:
        self.lapsed += (is_one := self._chance.random() * 1000 < self.lapses)
        return is_one

    async def changed(self) -> None:
        await self._polling.invalidate()


class _Order:
    """An order goes out, is carried out, and sometimes its answer is lost on the way back."""

    def __init__(self, place: Outside, ref: Ref) -> None:
        self._place, self._ref = place, ref

    async def __aenter__(self) -> Card:
        await self._place._call()
        return self._place.cards[self._ref.id]

    async def __aexit__(self, *error: object) -> None:
        await self._place.changed()
        if self._place._has_lapse():
            raise unavailable(Trouble.FAILED, f"The answer of {self._place.name} was lost.")
