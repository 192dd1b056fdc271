"""The week itself: fifteen agents are swept by their schedules while everything happens around them."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from deployments.simulation import jobs as work
from deployments.simulation.jobs import BY_ITSELF, Arrival, Job, Nature
from deployments.simulation.memory import DOOM, Died, Doom, MemoryDatabase, MemoryRecords
from deployments.simulation.outside import Card, Outage, Outside
from deployments.simulation.people import People
from deployments.simulation.virtual_time import BEGIN, LoopClock
from deployments.simulation.workshop import SimulatedCrew, Workshop, in_own_hands
from quarterdeck.crew.roster import read_roster
from quarterdeck.heartbeat import rules
from quarterdeck.heartbeat.model import Result, Sweep
from quarterdeck.heartbeat.roster import Heartbeat, complaints, read_all
from quarterdeck.heartbeat.service import LEASE, Steps, Sweeper
from quarterdeck.heartbeat.sweeping import SweepUnderWay
from quarterdeck.heartbeat.work import Answer, Ref, Source, Status, Trouble
from quarterdeck.kernel.errors import Conflict, Stale

ROSTER = Path(__file__).parents[1] / "examples" / "company.yaml"
SOURCES = ("board", "workboard", "multica", "documents", "plane")
TROUBLES = (Trouble.FAILED, Trouble.TIMED_OUT, Trouble.MISSING, Trouble.UNREADABLE, Trouble.REFUSED)
DAY = timedelta(days=1)
BY_THEN = timedelta(minutes=90)
"""Several sweeps of every agent."""
MEETING = 5.0
"""Seconds that a sweep looks for longer when another tick is to meet it."""


@dataclass(frozen=True)
class Plan:
    """What is to happen. Chances are per sweep, `lapses` per thousand orders to a source.

    `slots`: how many runs of an agent may go on at a time; `day_rounds`: how many taobaospecialist may begin
    a day; `item_tokens`: what contentspecialist may spend on one item. `rest` is the end of the time, in
    which nothing new comes up and nothing more goes wrong.
    """

    seed: int = 1
    days: float = 7
    jobs_a_day: float = 2.5
    natures: tuple[Nature, ...] = tuple(Nature)
    deaths: float = 0.02
    overlaps: float = 0.03
    talks: float = 0.02
    late: float = 0.05
    lapses: int = 5
    outages: bool = True
    slots: int = 1
    day_rounds: int = 6
    item_tokens: int = 5000

    @property
    def end(self) -> timedelta:
        return timedelta(days=self.days)

    @property
    def rest(self) -> timedelta:
        return min(DAY, self.end / 2)

    @property
    def busy(self) -> timedelta:
        return self.end - self.rest


@dataclass
class Seen:
    """What was observed from outside the room under test."""

    sweeps: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    together: int = 0
    stale: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)


class Week:
    """All that there is. `live` lets it happen; afterwards it is judged (`verdict.py`)."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seen = Seen()
        self.jobs: list[Job] = []
        self.by_ref: dict[Ref, Job] = {}
        self.clock = LoopClock()
        self.database = MemoryDatabase(self.clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._chance = random.Random(plan.seed)  # noqa: S311  # to be repeated, not to be secret
        entries = _entries(plan)
        self.beats: Mapping[str, Heartbeat] = read_all(entries)
        self.outside = {name: self._place(name, rank) for rank, name in enumerate(SOURCES)}
        self.people = People(self.by_ref, self.clock, self._dice(), self.spawn)
        self.database.reactions.append(self.people.hear)
        self.workshop = Workshop(
            self.database, self.by_ref, self._dice(), self.spawn, self._delay, plan.slots
        )
        self.sweeper = Sweeper(
            self.database,
            SimulatedCrew(self.database, entries),
            self.outside.values(),
            starter=self.workshop,
            conversations=self,
            records=MemoryRecords(),
        )
        self.people.sweeper = self.sweeper
        self.workshop.ended = lambda job: self.spawn(self._settle())
        self.outside["board"].on_start = self.workshop.wake
        self._under_way: dict[str, dict[int, datetime]] = defaultdict(dict)

    def _dice(self) -> random.Random:
        return random.Random(self._chance.random())  # noqa: S311

    def _place(self, name: str, rank: int) -> Outside:
        return Outside(name, rank, self.database, self._dice(), is_driven=name == "board")

    def spawn(self, story: Coroutine[Any, Any, None]) -> None:
        """Something that happens meanwhile; whatever breaks in it breaks the week."""
        task = asyncio.get_running_loop().create_task(self._told(story))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: story.close())

    async def _told(self, story: Coroutine[Any, Any, None]) -> None:
        DOOM.set(None)
        try:
            await story
        except Exception as error:
            self.seen.failed.append(f"{type(error).__name__}: {error}")
            raise

    @property
    def passed(self) -> timedelta:
        return self.clock.now() - BEGIN

    @property
    def is_calm(self) -> bool:
        return self.passed > self.plan.busy

    # What happens

    async def live(self) -> None:
        """From Monday to the end."""
        self._plan_outages()
        for agent in self.beats:
            self.spawn(self._beat(agent))
        self.spawn(self._arrive())
        self.spawn(self._again(60, self._drive_board))
        self.spawn(self._again(5 * 60, self._settle))
        self.spawn(self._again(30 * 60, self._watch))
        self.spawn(self._again(60 * 60, lambda: self.people.review(self.jobs)))
        await asyncio.sleep(self.plan.end.total_seconds())
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _again(self, seconds: float, do: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await do()

    async def _beat(self, agent: str) -> None:
        """The schedule of one agent; a sweep that takes long does not hold up the next tick."""
        while True:
            now = self.clock.now()
            at = rules.next_sweep(self.beats[agent], now)
            await asyncio.sleep((at - now).total_seconds())
            is_met = self._happens(self.plan.overlaps, "a second tick during a sweep")
            self.spawn(self._tick(agent, is_met=is_met))

    async def _tick(self, agent: str, *, is_met: bool = False) -> None:
        if self._happens(self.plan.deaths, "a sweep's process died"):
            DOOM.set(Doom(self._chance.randrange(1, 16)))
        mine: set[int] = set()

        async def look(under_way: SweepUnderWay, source: Source) -> Answer:
            if self._note(agent, under_way.ticket.sweep_id, mine) and is_met:
                self.spawn(self._tick(agent))
                await asyncio.sleep(MEETING)
            return await under_way.look(source)

        try:
            swept = await self.sweeper.sweep(agent, "schedule", Steps(look=look), self.beats)
            self.seen.sweeps[swept.result.value] += 1
        except Conflict as refusal:
            self.seen.sweeps["skipped" if refusal.code == "sweep_goes_on" else refusal.code] += 1
        except Stale:
            self.seen.sweeps["taken over"] += 1
        except Died:
            self.seen.sweeps["died"] += 1
        finally:
            for sweep in mine:
                self._under_way[agent].pop(sweep, None)

    def _note(self, agent: str, sweep: int, mine: set[int]) -> bool:
        """Whether a sweep begins to look. Who began less than a lease ago and goes on must be alone."""
        if sweep in mine:
            return False
        mine.add(sweep)
        now = self.clock.now()
        others = (s for s, began in self._under_way[agent].items() if now < began + LEASE)
        self.seen.together += any(map(self._goes_on, others))
        self._under_way[agent][sweep] = now
        return True

    def _goes_on(self, sweep: int) -> bool:
        """It has not given the agent free by itself."""
        return self.database.tables.rows[Sweep][sweep].result in (Result.RUNNING, Result.LOST)

    async def is_in_conversation(self, agent: str) -> bool:
        return self._happens(self.plan.talks, "a conversation during a tick")

    async def _settle(self) -> None:
        await self.sweeper.settle()

    async def _watch(self) -> None:
        self.seen.stale.update(await self.sweeper.watch())

    async def _drive_board(self) -> None:
        board = self.outside["board"]
        for card in list(board.cards.values()):
            if card.status is Status.TODO:
                self.spawn(self.workshop.drive(self.by_ref[card.ref], card))

    def _delay(self) -> float:
        """Seconds until an opened run is taken up."""
        return 5400.0 if self._happens(self.plan.late, "a run taken up late") else self._chance.uniform(0, 5)

    def _happens(self, chance: float, what: str) -> bool:
        if self.is_calm or self._chance.random() >= chance:
            return False
        self.seen.injected[what] += 1
        return True

    # What goes wrong outside

    def _plan_outages(self) -> None:
        for place in self.outside.values():
            place.lapses = self.plan.lapses if self.plan.outages else 0
        if not self.plan.outages:
            return
        hours = self.plan.busy.total_seconds() / 3600
        for name in SOURCES[1:]:
            for _ in range(max(1, round(hours / 30))):
                self._outage([name], hours, self._chance.uniform(0.5, 5))
        self._outage(SOURCES[1:], hours, 1)

    def _outage(self, names: Sequence[str], hours: float, length: float) -> None:
        begin = BEGIN + timedelta(hours=self._chance.uniform(0, max(hours - length, 0.1)))
        trouble = self._chance.choice(TROUBLES)
        for name in names:
            self.outside[name].outages.append(Outage(begin, begin + timedelta(hours=length), trouble))
            self.seen.injected[f"a source down ({trouble.value})"] += 1

    # What comes up

    async def _arrive(self) -> None:
        days = self.plan.busy / DAY
        agents = sorted(self.beats)
        for number, arrival in enumerate(
            work.arrivals(agents, days, self.plan.jobs_a_day, self.plan.natures, self._dice())
        ):
            await asyncio.sleep(max(0, (arrival.at - self.passed).total_seconds()))
            self._file(arrival, number)

    def _file(self, arrival: Arrival, number: int) -> None:
        if arrival.nature is not Nature.PLAIN:
            self.seen.injected[arrival.nature.value] += 1
        job = self._job(arrival)
        for position, name in enumerate(self._places(arrival)):
            later = max(arrival.later, BY_THEN) if arrival.nature in work.TWICE else arrival.later
            if position and later and arrival.nature is not Nature.CYCLE:
                self.spawn(self._put_later(job, arrival, name, number, later))
            else:
                self._put(job, arrival, name, number)
        if len(job.cards) > 1:
            self.seen.injected["the same work in several sources"] += 1
        self._make_wait(job, arrival, number)

    def _job(self, arrival: Arrival, name: str = "") -> Job:
        job = Job(name or arrival.name, arrival.agent, arrival.nature)
        self.jobs.append(job)
        return job

    def _places(self, arrival: Arrival) -> Sequence[str]:
        """Who has no id in Multica has no work there."""
        knows = bool(self.beats[arrival.agent].multica_id)
        return [name for name in arrival.places if name != "multica" or knows] or ["plane"]

    async def _put_later(self, job: Job, arrival: Arrival, name: str, number: int, later: timedelta) -> None:
        await asyncio.sleep(later.total_seconds())
        if self.is_calm or job.completed or job.is_closed:
            return  # nobody files what is done or reviewed
        if arrival.nature not in work.TWICE or self._could_be_seen(job):
            self._put(job, arrival, name, number)

    def _could_be_seen(self, job: Job) -> bool:
        """Who is at work by himself was seen at it, if only the place was there to be looked into."""
        [card], now = job.cards, self.clock.now()
        outages = self.outside[card.ref.source].outages
        return not any(outage.begin < now and card.made < outage.end for outage in outages)

    def _put(self, job: Job, arrival: Arrival, place: str, number: int, ending: str = "") -> Card:
        now = self.clock.now()
        ref = Ref(place, f"{place[0]}{number}{ending}")
        is_money = job.nature in (Nature.MONEY, Nature.REFUSED)
        title = work.written(job.name, place, number)
        labels = ("money",) if is_money else ()
        card = Card(ref, title, job.agent, Status.TODO, now, now, arrival.priority, labels)
        job.cards.append(card)
        self.by_ref[ref] = job
        self.outside[place].put(card)
        if job.nature in BY_ITSELF and len(job.cards) == 1:
            in_own_hands(job, card, self.clock.now, self.spawn)
        return card

    def _make_wait(self, job: Job, arrival: Arrival, number: int) -> None:
        if job.nature not in (Nature.WAITS, Nature.CYCLE, Nature.CANCELLED):
            return
        other = self._job(arrival, f"Prepare {job.name.lower()}")
        for card in job.cards:
            before = self._put(other, arrival, card.ref.source, number, "b")
            card.needs.append(before.ref)
            if job.nature is Nature.CANCELLED:
                before.change(self.clock.now(), Status.CANCELLED)
        if job.nature is Nature.CYCLE:  # one half of it in each source
            other.cards[-1].needs.append(job.cards[-1].ref)
            job.cards[-1].needs.clear()


def _entries(plan: Plan) -> dict[str, Any]:
    """The shipped company; two of its agents with a budget."""
    budgets = {"taobaospecialist": {"day_rounds": plan.day_rounds}}
    budgets |= {"contentspecialist": {"item_tokens": plan.item_tokens}}
    roster = read_roster(ROSTER, complaints)
    entries = {agent.slug: agent.heartbeat for agent in roster.agents if agent.heartbeat}
    return {slug: entry | {"budget": budgets.get(slug, {})} for slug, entry in entries.items()}
