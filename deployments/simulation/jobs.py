"""The work of the week as it really is: what each job does to whoever takes it up, and what became of it."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from deployments.simulation.outside import Card
from quarterdeck.heartbeat.work import Status


class Nature(StrEnum):
    """What is wrong with a job, if anything."""

    PLAIN = "nothing wrong"
    FLAKY = "its first two runs fail"
    FAILS = "every run fails the same way"
    WANDERS = "every run fails in another way"
    TURNS = 'every run "succeeds" without progress'
    PARTS = "takes three runs, step by step"
    ASKS = "its first run only asks"
    DIES = "its run dies"
    OVERRUNS = "its run overruns its limit"
    SILENT = "its result is lost"
    STALLS = "stands still in the agent's own hands"
    SLOW = "goes on slowly in the agent's own hands"
    ROUNDS = "uses up its rounds"
    DEAF = "our own engine missed a webhook"
    STUCK = "our own engine is stuck"
    WAITS = "waits for other work"
    CYCLE = "waits for itself, across sources"
    CANCELLED = "waits for what was cancelled"
    MONEY = "needs a yes"
    REFUSED = "needs a yes that never comes"


BY_ITSELF = frozenset({Nature.STALLS, Nature.SLOW, Nature.ROUNDS})
"""Begun by the agent in a session of its own, before any sweep saw it."""

TWICE = frozenset({Nature.SLOW})
"""It is also filed in another place later: whoever finds it there must not begin it, and closes it there."""

OF_THE_BOARD = frozenset({Nature.DEAF, Nature.STUCK})

ALONE = frozenset({Nature.CYCLE, Nature.WAITS, Nature.CANCELLED}) | BY_ITSELF | OF_THE_BOARD
"""Their places are chosen for them."""


@dataclass(eq=False)
class Job:
    """One piece of work, in however many places.

    `runs` counts those that were opened for it; `at`: the last of them began or ended. `spent` are tokens by
    item, since somebody last removed a cause; `most_spent`: those that were spent when a run was opened.
    """

    name: str
    agent: str
    nature: Nature
    cards: list[Card] = field(default_factory=list)
    needs: list["Job"] = field(default_factory=list)
    runs: int = 0
    open_runs: int = 0
    most_open: int = 0
    completed: int = 0
    is_cured: bool = False
    is_allowed: bool = False
    is_neglected: bool = False
    outcome: str = ""
    spent: Counter[str] = field(default_factory=Counter)
    most_spent: int = 0
    same: int = 0
    most_same: int = 0
    told: set[str] = field(default_factory=set)
    at: datetime | None = None

    @property
    def is_closed(self) -> bool:
        """Done in every place where it stands, or with a reviewer."""
        return all(card.status is Status.DONE or card.is_in_review for card in self.cards)

    def begin(self, now: datetime, item: str = "") -> None:
        self.at = now
        self.most_spent = max(self.most_spent, self.spent[item])
        self.runs += 1
        self.open_runs += 1
        self.most_open = max(self.most_open, self.open_runs)

    def end(self, now: datetime, outcome: str, *, is_done: bool) -> None:
        self.at = now
        self.open_runs -= 1
        self.completed += is_done
        self.same = self.same + 1 if outcome == self.outcome else 1
        self.outcome, self.most_same = outcome, max(self.most_same, self.same)

    def cure(self) -> None:
        """Somebody removed the cause."""
        self.is_cured, self.same, self.outcome = True, 0, ""
        self.spent.clear()


@dataclass(frozen=True)
class Course:
    """How one run goes: after so many minutes it ends like this. `facts` are those of its outcome."""

    minutes: float
    is_done: bool
    facts: dict[str, Any]


EXCUSES = ("no such file", "the other side is busy", "a merge conflict", "out of memory", "a wrong password")


def course(job: Job, chance: random.Random) -> Course:
    """The next run of a job."""
    minutes = chance.uniform(4, 25)
    if not job.is_cured:
        match job.nature:
            case Nature.FLAKY if job.runs <= 2:
                return _failure(minutes, EXCUSES[job.runs])
            case Nature.FAILS:
                return _failure(minutes, "The tests do not pass.")
            case Nature.WANDERS:
                return _failure(minutes, f"{chance.choice(EXCUSES)} in part {_word(job.runs)}")
            case Nature.TURNS:
                return _words(minutes, "Nothing to change.")
            case Nature.PARTS if job.runs <= 2:
                return _words(minutes, f"- [x] part {_word(job.runs)}\n- [ ] the rest")
            case Nature.ASKS if job.runs == 1:
                return _words(minutes, "Shall I begin?")
            case Nature.DIES if job.runs == 1:
                return Course(minutes, False, {"exit_code": None, "error": "Its process is gone."})
            case Nature.OVERRUNS if job.runs == 1:
                return Course(30, False, {"exit_code": -9, "timed_out": True})
    result = None if job.nature is Nature.SILENT else {"summary": f"{job.name} is done."}
    return Course(minutes, True, {"exit_code": 0, "result": result})


def _words(minutes: float, said: str) -> Course:
    """It ends well, and what it says is not that the work is done."""
    return Course(minutes, False, {"exit_code": 0, "result": {"summary": said}})


def _failure(minutes: float, why: str) -> Course:
    return Course(minutes, False, {"exit_code": 1, "error": why})


def _word(number: int) -> str:
    """A number without digits, which do not count as another outcome."""
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


VERBS = ("Renew", "Describe", "Repair", "Translate", "Count", "Compare", "Draft", "Clean")
THINGS = ("the shop window", "the certificate", "the price list", "the contract", "the report", "the banner")


@dataclass(frozen=True)
class Arrival:
    """When a job comes up, and where: sources in the order in which its places appear."""

    at: timedelta
    name: str
    agent: str
    nature: Nature
    places: tuple[str, ...]
    later: timedelta
    priority: str | None


def arrivals(
    agents: Sequence[str], days: float, rate: float, natures: Sequence[Nature], chance: random.Random
) -> list[Arrival]:
    """`rate` jobs a day for each agent; each of `natures` comes up at least once, most jobs are plain."""
    span, many = timedelta(days=days), round(len(agents) * days * rate)
    drawn = [*natures, *(_drawn(natures, chance) for _ in range(many - len(natures)))]
    made = []
    for number, nature in enumerate(drawn):
        name = f"{chance.choice(VERBS)} {chance.choice(THINGS)} {number}"
        made.append(
            Arrival(
                at=chance.random() * span,
                name=name,
                agent=chance.choice(agents),
                nature=nature,
                places=_places(nature, chance),
                later=timedelta(minutes=chance.choice((0, 0, 7, 90))),
                priority=chance.choice((None, "low", "medium", "high", "urgent")),
            )
        )
    return sorted(made, key=lambda arrival: arrival.at)


def _drawn(natures: Sequence[Nature], chance: random.Random) -> Nature:
    return chance.choice(natures) if natures and chance.random() < 0.4 else Nature.PLAIN


ELSEWHERE = ("workboard", "multica", "documents", "plane")


def _places(nature: Nature, chance: random.Random) -> tuple[str, ...]:
    if nature in OF_THE_BOARD:
        return ("board",)
    if nature is Nature.CYCLE:
        return ("workboard", "multica")
    if nature in TWICE:
        return tuple(chance.sample(ELSEWHERE, 2))
    if nature in ALONE:
        return (chance.choice(ELSEWHERE),)
    many = chance.choices((1, 2, 3), (70, 22, 8))[0]
    is_money = nature in (Nature.MONEY, Nature.REFUSED)  # on our own board the pipeline asks
    return tuple(chance.sample(ELSEWHERE if is_money else ("board", *ELSEWHERE), many))


def written(name: str, place: str, number: int) -> str:
    """The same title as people write it elsewhere."""
    match place:
        case "multica":
            return f"ENG-{number}: {name.lower()}"
        case "documents":
            return f"  {name.replace(' ', '  ')}"
        case "plane":
            return f"[OPS-{number}] {name}"
    return name


def is_due(job: Job, now: datetime, rest: timedelta) -> bool:
    """Whether it was there for long enough."""
    return all(now - card.made >= rest for card in job.cards)
