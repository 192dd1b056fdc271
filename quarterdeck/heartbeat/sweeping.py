"""One sweep under way: what it looks into, what it decides, what it does, and the record it leaves.

Each public method is one step, so that a flow can make each a task of its own. Looking and deciding write
nothing; a recovery and a start are a transaction each, everything else is written by `finish` at once.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from quarterdeck.heartbeat import rules
from quarterdeck.heartbeat.adoption import Order
from quarterdeck.heartbeat.checking import (
    BOARD,
    DOCUMENTS,
    MULTICA,
    Check,
    Means,
    Plan,
    Recovery,
    is_driven,
    read_again,
)
from quarterdeck.heartbeat.context import too_long
from quarterdeck.heartbeat.judging import (
    Judgement,
    Memories,
    Step,
    Tell,
    blank,
    episode,
    free,
    may_start,
    places_of,
)
from quarterdeck.heartbeat.model import Pulse, Result, Sweep, Work
from quarterdeck.heartbeat.naming import NAMES, names
from quarterdeck.heartbeat.overview import Overview, Piece, key_of
from quarterdeck.heartbeat.progress import Progress, of_piece
from quarterdeck.heartbeat.recording import state_of
from quarterdeck.heartbeat.roster import Category, Heartbeat
from quarterdeck.heartbeat.settling import (
    REPORTS,
    due,
    everywhere,
    open_breaker,
    said,
    tell_resumed,
    tell_what_waited,
)
from quarterdeck.heartbeat.stall import LAST, OWNER, Rung, climbed, people, recipients
from quarterdeck.heartbeat.store import EVERYBODY
from quarterdeck.heartbeat.work import Answer, Filing, Ref, Source, Status, Trouble
from quarterdeck.kernel.database import Unit
from quarterdeck.kernel.errors import Conflict, Stale
from quarterdeck.kernel.words import counted

log = structlog.get_logger(__name__)

PLATFORMS_WITHOUT_RELEASE = frozenset({MULTICA, BOARD})
"""Where work that timed out is set `blocked`; elsewhere it is given back (heartbeat.md 6.2)."""


@dataclass(frozen=True)
class Ticket:
    """Which sweep is meant, and its fencing number."""

    agent: str
    sweep_id: int
    fence: int


class SweepUnderWay:
    """A sweep whose lease is held."""

    def __init__(
        self,
        means: Means,
        ticket: Ticket,
        beat: Heartbeat,
        beats: Mapping[str, Heartbeat],
        pulse: Pulse,
    ) -> None:
        self._means = means
        self.ticket = ticket
        self.beat = beat
        self._beats = beats
        self._pulse = pulse
        self.plan = Plan()
        self.started = 0
        self.recovered = 0
        self.broken: list[str] = []
        self.answers: dict[str, Answer] = {}
        self._overview: Overview | None = None
        self._memories = Memories(())

    @property
    def sources(self) -> Sequence[Source]:
        return sorted(self._means.sources.values(), key=lambda source: source.rank)

    def _now(self) -> datetime:
        return self._means.database.clock.now()

    # Looking

    async def look(self, source: Source) -> Answer:
        """Ask one source for all agents; it never raises."""
        try:
            answer = await source.look([beat.watched for beat in self._beats.values()])
        except Exception as error:  # a source that breaks its word is a failed source
            log.warning("source_broke", source=source.name, exc_info=error)
            answer = Answer(source.name, self._now(), trouble=Trouble.FAILED, detail=type(error).__name__)
        self.answers[source.name] = answer = answer.seen_by(self.beat.agent)
        return answer

    def gave_up(self, source: Source) -> None:
        """It did not answer in its time."""
        self.answers[source.name] = Answer(source.name, self._now(), trouble=Trouble.TIMED_OUT)

    # Deciding

    async def check(self, overview: Overview) -> Plan:
        """Decide about everything that was found. What seems stuck is read again, past every cache."""
        self._overview = overview
        agent = self.beat.agent
        async with self._means.database.read() as session:
            rows = await self._means.records.work_of(session, agent, self._now())
            self._memories = Memories(rows, self._down)
            at_work = await self._means.records.items_at_work(session, agent)
        if self.beat.category is Category.HIGH_FREQUENCY:
            self.plan.warnings += too_long(self.beat.workspace)
        check = Check(self._means, self.beat, self._beats, overview, self._memories, self.plan)
        await check.own_work(at_work)
        if self.beat.is_global:
            check.work_of_all(self.answers, self._pulse.told.get("backlog", {}))
        return self.plan

    # Doing

    async def recover(self, recovery: Recovery) -> None:
        """Take the step that is due, in one transaction; sources are told afterwards."""
        piece, judgement = recovery.piece, recovery.judgement
        if judgement.step is Step.PAUSE:  # a look may tell less than the whole
            piece = await read_again(self._means.sources, piece, self.plan) or piece
        self.recovered += 1
        try:
            async with self._means.database.command("recover work") as unit:
                await self._must_hold(unit)
                row = await self._row(unit, piece)
                await self._step(unit, row, piece, judgement)
        except Conflict as error:
            if error.code not in ("busy", "agent_disabled"):
                raise
            async with self._means.database.command("count timeout") as unit:
                await self._must_hold(unit)
                row = await self._row(unit, piece)
                _climb(row, judgement)

    async def _step(self, unit: Unit, row: Work, piece: Piece, judgement: Judgement) -> None:
        match judgement.step:
            case Step.RESUMED:
                tell_resumed(unit, row, self.beat)
                _climb(row, judgement)
            case Step.RETRY:
                _climb(row, judgement)
                await self._retry(unit, row, piece, judgement)
            case Step.ACT:
                _climb(row, judgement)
                self._act(unit, row, piece, judgement)
            case Step.GIVE_UP:
                _climb(row, judgement)
                self._act(unit, row, piece, judgement)
                row.breaker, row.broken_at = f"it timed out {counted(row.timeouts, 'time')}", unit.now
            case Step.LIFT:
                self._lift(unit, row, piece.ref.source)
            case Step.PAUSE:
                self._pause(unit, row, piece)

    async def _retry(self, unit: Unit, row: Work, piece: Piece, judgement: Judgement) -> None:
        """The current step once more: an engine of ours is woken, for everything else a run is opened.

        None is when the day's budget is spent, or while a dependency is open; the ladder goes on as after a
        retry that brought nothing.
        """
        if is_driven(self._means.sources, piece):
            print_ = rules.fingerprint(row.agent, str(piece.ref), "recovery", judgement.sign)
            row.repeats, row.fingerprint = rules.repeats(row.fingerprint, row.repeats, print_), print_
            row.owed = [*row.owed, *everywhere(row, "start", row.agent)]
        elif day := await self._day_over(unit):
            self._tell_day(day)
        elif given_up := await self._given_up(unit, row):
            row.owed = [*row.owed, *open_breaker(unit, row, self.beat, given_up, OWNER)]
        elif over := await self._item_over(unit, row):
            row.owed = [*row.owed, *open_breaker(unit, row, self.beat, over, self.beat.escalate[0])]
        elif judgement.may_run:
            await self._open(unit, row, piece, "recovery")

    def _act(self, unit: Unit, row: Work, piece: Piece, judgement: Judgement) -> None:
        number = row.timeouts
        to = recipients(self.beat, number, resumed=False, creator=piece.creator)
        minutes = int((unit.now - judgement.sign).total_seconds()) // 60 if judgement.sign else 0
        data = said(row, to) | {"work": piece.shown, "number": number, "minutes": minutes}
        unit.record("work_timed_out", item=row.item_key, **data)
        why = f"No progress for {counted(minutes, 'minute')} (timeout {number})."
        row.owed = [*row.owed, *(due(place, self._mark(place[0], number), why) for place in row.places)]

    @staticmethod
    def _mark(source: str, number: int) -> str:
        return "block" if number >= LAST or source in PLATFORMS_WITHOUT_RELEASE else "release"

    @staticmethod
    def _lift(unit: Unit, row: Work, by: str) -> None:
        """Somebody let it go on where it stands."""
        free(row, unit.now)
        unit.record("work_unblocked", item=row.item_key, **said(row), by=by)

    def _pause(self, unit: Unit, row: Work, piece: Piece) -> None:
        if row.breaker:
            return
        most = row.round_limit or self.beat.limits.max_rounds
        used = max(row.rounds, piece.rounds)
        row.rounds, row.broken_at = used, unit.now
        row.breaker = f"{used} of {most} rounds are used"
        progress = of_piece(piece, row.progress)
        to = people(self.beat.notify, piece.creator)
        data = said(row, to) | {"work": piece.shown, "rounds": used, "limit": most} | progress.to_tell()
        unit.record("rounds_exhausted", item=row.item_key, **data)
        why = f"{row.breaker}: it is paused.\n\n{progress.task_list()}"
        row.owed = [*row.owed, *everywhere(row, "block", why)]

    async def start(self, piece: Piece) -> bool:
        """Open a run for found work; False: it may not begin, and the rest of the work not either."""
        fresh = await read_again(self._means.sources, piece, self.plan)
        if fresh is None or fresh.status is not Status.TODO:
            return True  # somebody was first, or it cannot be read: the others may still begin
        if await self._came_to_our_board(fresh):
            return True  # the next sweep sees both as one
        try:
            async with self._means.database.command("start found work") as unit:
                await self._must_hold(unit)
                if day := await self._day_over(unit):
                    self._tell_day(day)
                    return False
                row = await self._row(unit, fresh)
                if not may_start(fresh, row):
                    return True
                if given_up := await self._given_up(unit, row):
                    row.owed = [*row.owed, *open_breaker(unit, row, self.beat, given_up, OWNER)]
                    return True
                if over := await self._item_over(unit, row):
                    row.owed = [*row.owed, *open_breaker(unit, row, self.beat, over, self.beat.escalate[0])]
                    return True
                await self._open(unit, row, fresh, "found")
        except Conflict as error:
            if error.code in ("busy", "agent_disabled"):
                return False
            raise
        self.started += 1
        return True

    async def _came_to_our_board(self, piece: Piece) -> bool:
        """The same work was filed there since this sweep looked: our engine is at it already."""
        board, seen = self._means.sources.get(BOARD), self.answers.get(BOARD)
        is_there = any(place.ref.source == BOARD for place in piece.places)
        if seen is None or is_there or not isinstance(board, Filing):
            return False
        return key_of(piece.title) in map(key_of, await board.filed_since(seen.at))

    async def _open(self, unit: Unit, row: Work, piece: Piece, reason: str) -> None:
        if row.run_id is not None:
            return  # this step is repeated
        row.attempts += 1
        key = f"heartbeat · {row.source}:{row.ref} · {row.attempts}"
        progress = Progress.kept(row.progress)
        order = Order(self.beat.agent, piece, key, self.beat.run_limit, row.item_key, progress)
        opened = await self._means.starter.start(unit, order)
        row.run_id, row.item_key, row.reason = opened.run_id, opened.item, reason
        row.finished_at, row.held = None, []
        row.places = self._places(row, piece)
        row.told = row.told | {"creator": piece.creator or ""}
        if reason == "found":
            row.owed = [*row.owed, *everywhere(row, "start", row.agent)]
        unit.record("work_started", item=opened.item, run=opened.run_id, **said(row), reason=reason)

    async def _day_over(self, unit: Unit) -> str:
        budget = self.beat.budget
        if not budget.is_set:
            return ""
        since = rules.day_begins(unit.now, self.beat.zone)
        spent = await self._means.records.spent(unit.session, agent=self.beat.agent, since=since)
        return rules.day_over(budget, spent)

    def _tell_day(self, why: str) -> None:
        day = rules.day_begins(self._now(), self.beat.zone).date().isoformat()
        data = {"agent": self.beat.agent, "reason": why, "to": ", ".join(people(self.beat.escalate, None))}
        self.plan.tells.append(Tell("day_budget_spent", "budget", day, data))
        self.plan.warnings.append(why)

    async def _item_over(self, unit: Unit, row: Work) -> str:
        if not self.beat.budget.is_set or not row.item_key:
            return ""
        spent = await self._means.records.spent(unit.session, item=row.item_key, since=row.budget_since)
        return rules.item_over(self.beat.budget, spent)

    async def _given_up(self, unit: Unit, row: Work) -> str:
        """That a person cancelled its item since it was last unblocked, in words; empty = nobody did."""
        at = await self._means.starter.cancelled_at(unit, row.item_key) if row.item_key else None
        is_old = at is None or (row.budget_since is not None and at <= row.budget_since)
        return "" if is_old else f"a person cancelled {row.item_key}"

    # Rows

    async def _row(self, unit: Unit, piece: Piece) -> Work:
        """The memory of a piece of work, locked; a new one where there was none."""
        known = self._memories.of(piece)
        ref = Ref(known.source, known.ref) if known else piece.ref
        row = await self._means.records.work(unit.session, ref.source, ref.id)
        if row is None:
            row = blank(piece, self.beat.agent, unit.now)
        row.places = self._places(row, piece)
        row.told = row.told | {NAMES: names(row.told.get(NAMES, ()), piece)}
        if row.agent != self.beat.agent and row.breaker:
            self._lift(unit, row, piece.ref.source)  # it was given to somebody else
        row.agent, row.updated_at = self.beat.agent, unit.now
        unit.session.add(row)
        return row

    def _places(self, row: Work, piece: Piece) -> list[list[str]]:
        """Where it stands. What cannot be looked into now, or was closed there, is not forgotten.

        Finished work is at an end where it was closed, and nowhere else.
        """
        here = [p for p in places_of(piece) if row.finished_at is None or p in row.places]
        kept = (place for place in row.places if row.finished_at is not None or place[0] in self._down)
        return [*here, *(place for place in kept if place not in here)]

    @property
    def _down(self) -> set[str]:
        """Sources that cannot be looked into now."""
        return {name for name, answer in self.answers.items() if rules.is_failed(answer)}

    async def _must_hold(self, unit: Unit) -> Pulse:
        """Nobody else took this agent over meanwhile. Raises `Stale`."""
        pulse = await self._means.records.locked_pulse(unit.session, self.ticket.agent, unit.now)
        if pulse.fence != self.ticket.fence:
            raise Stale(
                f"The sweep of {self.ticket.agent} was taken over by another.",
                "Nothing to do: the other one goes on.",
                code="sweep_lost",
            )
        return pulse

    # The end

    async def finish(self, result: Result | None = None, detail: str = "") -> Sweep:
        """Write what was found out, and give the agent free. Raises `Stale` when somebody took over."""
        async with self._means.database.command("finish sweep") as unit:
            pulse = await self._must_hold(unit)
            for piece, changes in self.plan.changes.values():
                row = await self._row(unit, piece)
                for name, value in changes.items():
                    setattr(row, name, value)
            for tell in self.plan.tells:
                await self._record(unit, pulse, tell)
            await self._tell_what_waited(unit)
            await self._tell_outage(unit)
            done = await self._means.records.sweep(unit.session, self.ticket.sweep_id)
            assert done is not None
            self._write(done, unit.now, result, detail)
            count(pulse, done.result)
            pulse.holder, pulse.leased_until, pulse.sweep_id = "", None, None
            if done.result is not Result.FAILED:
                pulse.last_finished, pulse.stale_since, pulse.is_deferred = unit.now, None, False
            self._forget_backlog(pulse)
            unit.session.add(pulse)
        return done

    async def _record(self, unit: Unit, pulse: Pulse, tell: Tell) -> None:
        if tell.ref is None:
            group, _, name = tell.key.partition(".")
            before = pulse.told.get(group)
            after = {**(before or {}), name: tell.value} if name else tell.value
            if before != after:
                pulse.told = pulse.told | {group: after}
                unit.record(tell.kind, **tell.data)
            return
        piece = next(p for p in self._all_pieces() if p.ref == tell.ref)
        row = await self._row(unit, piece)
        if row.told.get(tell.key) != tell.value:
            row.told = row.told | {tell.key: tell.value}
            unit.record(tell.kind, item=row.item_key, **tell.data)

    async def _tell_what_waited(self, unit: Unit) -> None:
        """By what was remembered when this sweep looked: one that was put off tells nothing."""
        for known in self._memories.rows:
            if known.told.get(REPORTS):
                row = await self._means.records.work(unit.session, known.source, known.ref)
                if row is not None:
                    tell_what_waited(unit, row)
                    unit.session.add(row)

    def _all_pieces(self) -> Sequence[Piece]:
        assert self._overview is not None
        return [
            *(recovery.piece for recovery in self.plan.recoveries),
            *self._overview.pieces(self.beat.agent),
        ]

    def _forget_backlog(self, pulse: Pulse) -> None:
        """A backlog that went away may be told again when it is back."""
        told = pulse.told.get("backlog", {})
        gone = [
            name
            for name in told
            if (answer := self.answers.get(name)) is not None
            and answer.trouble is None
            and rules.backlog(answer, 0).todo <= self.beat.backlog_over
        ]
        if self.beat.is_global and gone:
            pulse.told = pulse.told | {"backlog": {n: c for n, c in told.items() if n not in gone}}

    async def _tell_outage(self, unit: Unit) -> None:
        """All platforms gone: the coo is told once, until one of them is back."""
        platforms = [
            answer
            for name, answer in self.answers.items()
            if name not in (DOCUMENTS, BOARD) and answer.trouble is not Trouble.NOT_CONFIGURED
        ]
        if not platforms or len(self.answers) < len(self.sources):
            return  # a sweep that was broken off does not know
        is_down = all(rules.is_failed(answer) for answer in platforms)
        if is_down == bool(self._known_outage):
            return
        pulse = await self._means.records.locked_pulse(unit.session, EVERYBODY, unit.now)
        if is_down == bool(pulse.told.get("outage")):
            return
        names = ", ".join(answer.source for answer in platforms)
        pulse.told = pulse.told | {"outage": names if is_down else ""}
        unit.session.add(pulse)
        if is_down:
            unit.record("sources_down", sources=names, to=self.beat.escalate[0])

    _known_outage: str = ""

    def knows(self, outage: str) -> None:
        """Which outage was told already."""
        self._known_outage = outage

    def _write(self, row: Sweep, now: datetime, result: Result | None, detail: str) -> None:
        row.finished_at, row.detail = now, (detail or "; ".join(self.broken))[:1000]
        row.sources = {
            name: state_of(answer, self.beat, self._overview) for name, answer in self.answers.items()
        }
        row.found, row.started = self.plan.found, self.started
        row.suspected, row.confirmed = self.plan.suspected[:200], self.plan.confirmed[:200]
        warned = [f"{tell.kind} {tell.data.get('work', '')}".strip() for tell in self.plan.tells]
        row.warnings = [*self.plan.warnings, *warned][:100]
        row.result = result or self._result()

    def _result(self) -> Result:
        if self.broken:
            return Result.FAILED
        if any(rules.is_failed(answer) for answer in self.answers.values()):
            return Result.DEGRADED
        is_busy = self.plan.found or self.started or self.recovered or self.plan.suspected
        return Result.WORKED if is_busy or self.plan.tells else Result.QUIET


def count(pulse: Pulse, result: Result) -> None:
    """One more sweep that ended so."""
    pulse.swept = pulse.swept | {result.value: pulse.swept.get(result.value, 0) + 1}


def _climb(row: Work, judgement: Judgement) -> None:
    """Repeatable: the same last sign is counted once."""
    if judgement.step in (Step.RETRY, Step.GIVE_UP) and row.timed_out_at == judgement.sign:
        return
    after = climbed(episode(row), Rung(judgement.step.value), judgement.sign)
    row.timeouts, row.timed_out_at, row.acted = after.timeouts, after.timed_out_at, after.acted


async def look_into_all(under_way: SweepUnderWay) -> None:
    """Ask every source at the same time."""
    await asyncio.gather(*(under_way.look(source) for source in under_way.sources))
