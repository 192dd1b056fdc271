"""What a sweep decides about the work it sees: what stands still, what may begin, what waits in vain.

Nothing is written here. What seems stuck is read again past every cache before anything is decided about it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog

from quarterdeck.crew.service import Crew
from quarterdeck.heartbeat import rules
from quarterdeck.heartbeat.adoption import Starter
from quarterdeck.heartbeat.judging import (
    Judgement,
    Memories,
    Step,
    Tell,
    about,
    blank,
    freed,
    is_lifted,
    is_untouched,
    judge,
    may_start,
    places_of,
    rounds,
)
from quarterdeck.heartbeat.model import Work
from quarterdeck.heartbeat.overview import Overview, Piece, sign
from quarterdeck.heartbeat.roster import Heartbeat
from quarterdeck.heartbeat.rules import Gate, Turn
from quarterdeck.heartbeat.settling import due
from quarterdeck.heartbeat.sources.trouble import trouble_of, unavailable
from quarterdeck.heartbeat.stall import SILENT, Standing, standing
from quarterdeck.heartbeat.store import REMEMBERED, Records
from quarterdeck.heartbeat.work import Answer, Found, Ref, Source, Status, Trouble
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import QuarterdeckError

log = structlog.get_logger(__name__)

DOCUMENTS, BOARD, MULTICA = "documents", "board", "multica"

MOST_READ = 20
"""Pieces that stand still which one sweep reads again and brings on: a card may take ten seconds to read."""

AGAIN = REMEMBERED / 7
"""How often it is written down that finished work is still open."""


@dataclass(frozen=True)
class Recovery:
    """A piece of work that stands still, freshly read, and the step that is due."""

    piece: Piece
    judgement: Judgement

    @property
    def name(self) -> str:
        return f"{self.judgement.step.value} {self.piece.shown}"


@dataclass
class Plan:
    """What a sweep found out. `changes` are columns of memories, written at the end.

    `gone`: sources that answered no more since they were looked into, each with what they did instead.
    """

    recoveries: list[Recovery] = field(default_factory=list)
    starts: list[Piece] = field(default_factory=list)
    suspected: list[str] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    changes: dict[Ref, tuple[Piece, dict[str, Any]]] = field(default_factory=dict)
    tells: list[Tell] = field(default_factory=list)
    found: int = 0
    gone: dict[str, QuarterdeckError] = field(default_factory=dict)

    def change(self, piece: Piece, changes: Mapping[str, Any]) -> None:
        if changes:
            self.changes.setdefault(piece.ref, (piece, {}))[1].update(changes)


@dataclass(frozen=True)
class Means:
    """What a sweep works with."""

    database: Database
    crew: Crew
    sources: Mapping[str, Source]
    starter: Starter
    records: Records


class Check:
    """The checks of one sweep; what they find goes into the plan."""

    def __init__(
        self,
        means: Means,
        beat: Heartbeat,
        beats: Mapping[str, Heartbeat],
        overview: Overview,
        memories: Memories,
        plan: Plan,
    ) -> None:
        self._means = means
        self.beat = beat
        self._beats = beats
        self._overview = overview
        self._memories = memories
        self.plan = plan
        self._read = 0

    def _now(self) -> datetime:
        return self._means.database.clock.now()

    async def own_work(self, at_work: set[str]) -> None:
        """The agent's own work; `at_work` are the items on which it has a run."""
        now, pieces = self._now(), self._overview.pieces(self.beat.agent)
        self.plan.found = sum(piece.status is Status.TODO for piece in pieces)
        for piece in pieces:
            memory = self._memory(piece, now)
            self._remember_places(piece, memory)
            self._remember_who_holds_it(piece, memory)
            if is_lifted(piece, memory, now):
                self.plan.recoveries.append(Recovery(piece, Judgement(Standing.MOVING, Step.LIFT)))
                memory = freed(memory, now)
            elif memory.breaker and (late := _late(piece, memory)):
                self._hold_back(piece, memory, late)
            if piece.status is Status.IN_PROGRESS and not is_untouched(piece, memory, now):
                await self._check_progress(piece, memory, at_work)
            elif piece.status is Status.TODO and not await self._is_done_already(piece, memory):
                self._check_found(piece, memory)
            elif memory.finished_at is not None and not memory.owed:
                self._close_everywhere(piece, memory)
                self._keep_in_mind(piece, memory)
            elif piece.status is Status.BLOCKED and not (memory.breaker or memory.owed):
                await self._is_at_work_elsewhere(piece, memory)
        await self._let_go(pieces)
        await self._check_needs()

    def _memory(self, piece: Piece, now: datetime) -> Work:
        return self._memories.of(piece) or blank(piece, self.beat.agent, now)

    async def _check_progress(self, piece: Piece, memory: Work, at_work: set[str]) -> None:
        is_alive = memory.item_key in at_work or any(
            place.ref.source == BOARD and place.ref.id in at_work for place in piece.places
        )
        waits = piece.requires_approval and not memory.is_allowed
        if is_alive or waits or memory.breaker or memory.owed or memory.run_id is not None:
            return
        judgement = judge(piece, memory, self.beat, self._now())
        is_news = judgement.state is Standing.SUSPECTED and memory.suspected_since is None
        if is_news or judgement.step is not Step.NOTHING:
            if self._read >= MOST_READ:
                self.plan.suspected.append(str(piece.ref))
                return  # the next sweep has its turn
            self._read += 1
            fresh = await read_again(self._means.sources, piece, self.plan)
            if fresh is None:
                self.plan.suspected.append(str(piece.ref))
                return  # what cannot be read now is never touched
            if fresh.status is not Status.IN_PROGRESS:
                return
            piece, judgement = fresh, judge(fresh, memory, self.beat, self._now())
        self._take(piece, memory, judgement)

    def _keep_in_mind(self, piece: Piece, memory: Work) -> None:
        """What is done, and open in its source until a person closes it, is forgotten only afterwards."""
        if self._now() - memory.updated_at > AGAIN:
            self.plan.change(piece, {"updated_at": self._now()})

    def _take(self, piece: Piece, memory: Work, judgement: Judgement) -> None:
        named = str(piece.ref)
        match judgement.state:
            case Standing.SUSPECTED:
                self.plan.suspected.append(named)
            case Standing.CONFIRMED:
                self.plan.confirmed.append(named)
            case Standing.UNMEASURABLE:
                self.plan.warnings.append(f"{piece.shown} has no time by which it could be measured")
        changes = dict(judgement.changes)
        if set(changes) == {"silent_rounds"} and not memory.rounds and memory.sign is None:
            changes = {}
        self.plan.change(piece, changes)
        self.plan.tells += judgement.tells
        if judgement.step is not Step.NOTHING:
            self.plan.change(piece, {"held": []})  # it is taken out of those hands
            self.plan.recoveries.append(Recovery(piece, judgement))

    def _remember_places(self, piece: Piece, memory: Work) -> None:
        """What our own engine does may turn up elsewhere too: it is to be closed there, not done again."""
        if not is_driven(self._means.sources, piece):
            return
        known = memory.places if self._memories.of(piece) else []
        if any(place not in known for place in places_of(piece)):
            self.plan.change(piece, {"title": piece.title[:300]})

    def _remember_who_holds_it(self, piece: Piece, memory: Work) -> None:
        """What somebody is at by himself is not begun where else it stands, even while he cannot be seen."""
        if memory.run_id is not None or memory.owed or memory.breaker or memory.finished_at is not None:
            return
        here, driven = places_of(piece), self._means.sources
        held = [place for place in memory.held if place not in here]
        held += [[name, ref] for name, ref in _held(piece) if not driven[name].is_driven]
        if held != memory.held:
            self.plan.change(piece, {"held": held})

    async def _let_go(self, pieces: Sequence[Piece]) -> None:
        """What was held, and is seen nowhere any more, was done there or withdrawn."""
        seen = {place.ref for piece in pieces for place in piece.places}
        for row in self._memories.rows:
            places = [Ref(name, ref) for name, ref in [*row.places, *row.held]]
            is_at_rest = row.run_id is None and not row.owed and row.finished_at is None
            hidden = self._memories.down.intersection(place.source for place in places)
            if hidden or not is_at_rest or not seen.isdisjoint(places):
                continue
            if row.held:
                await self._conclude(row, places[-1])
            elif "approval" in row.told:
                gone = Piece((Found(Ref(row.source, row.ref), row.title, Status.CANCELLED),))
                self.plan.change(gone, {"told": {k: v for k, v in row.told.items() if k != "approval"}})

    async def _conclude(self, row: Work, ref: Ref) -> None:
        sources = self._means.sources
        try:
            found = await read(sources, ref, self.plan) if ref.source in sources else None
        except QuarterdeckError:
            return
        is_done = found is not None and found.status is Status.DONE
        piece = Piece((found or Found(ref, row.title, Status.CANCELLED),))
        self.plan.change(piece, {"held": []} | ({"finished_at": self._now()} if is_done else {}))

    def _hold_back(self, piece: Piece, memory: Work, late: Sequence[Found]) -> None:
        """It was filed in another place, too, since it was stopped: there it stands still as well."""
        places = [[p.ref.source, p.ref.id] for p in late]
        owed = [due(place, "block", memory.breaker) for place in places]
        self.plan.change(piece, {"owed": [*memory.owed, *owed], "places": [*memory.places, *places]})

    def _close_everywhere(self, piece: Piece, memory: Work) -> None:
        """It is done; a place of it that turned up since does not know yet."""
        if late := _late(piece, memory):
            places = [*memory.places, *([p.ref.source, p.ref.id] for p in late)]
            self._close(piece, late, f"{memory.source}:{memory.ref}", places=places)

    def _close(self, piece: Piece, late: Sequence[Found], done: str, **changes: Any) -> None:
        text = f"It was done as {done}."
        owed = [due([p.ref.source, p.ref.id], "finish", text, reviewed=False) for p in late]
        self.plan.change(piece, {"owed": owed} | changes)

    def _close_what_is_down(self, piece: Piece, memory: Work, done: str) -> None:
        """Remembered places that are not seen now: they are closed when their source is back."""
        here, sources, text = places_of(piece), self._means.sources, f"It was done as {done}."
        gone = [p for p in memory.places if p not in here and p[0] in sources and ":".join(p) != done]
        owed = self.plan.changes[piece.ref][1]["owed"]
        owed += [due(p, "finish", text, reviewed=False) for p in gone if not sources[p[0]].is_driven]

    async def _is_done_already(self, piece: Piece, memory: Work) -> bool:
        """Done in another place: while this one was down, before it turned up, or by our own engine.

        What is to do again in a place where it was closed was sent back: that is no longer done.
        """
        known = self._memories.of(piece)
        done = self._memories.finished_elsewhere(piece)
        if done is not None and _is_older(known, done):
            self._close(piece, piece.places, f"{done.source}:{done.ref}", finished_at=done.finished_at)
            return True
        if memory.finished_at is not None:
            todo = [place for place in piece.places if place.status is Status.TODO]
            if not memory.owed and _late(piece, memory) == todo:
                self._close_everywhere(piece, memory)
            return bool(memory.owed) or _late(piece, memory) == todo
        return await self._is_at_work_elsewhere(piece, memory)

    async def _is_at_work_elsewhere(self, piece: Piece, memory: Work) -> bool:
        """Our own engine or somebody else had it, where it is not seen now: what was done is not redone."""
        sources, here = self._means.sources, places_of(piece)
        held = self._memories.held(piece, memory)
        places = [*memory.places, *self._memories.begun_elsewhere(piece), *held]
        for name, ref in [place for place in places if place not in here]:
            if name not in sources or not (sources[name].is_driven or [name, ref] in held):
                continue
            if name in self._memories.down:
                self.plan.warnings.append(f"{piece.shown} is at work in {name}, which cannot be looked into")
                return True
            try:
                found = await read(sources, Ref(name, ref), self.plan)
            except QuarterdeckError:
                return True  # whether it is done cannot be known now
            if found is not None and found.status is Status.DONE:
                self._close(piece, piece.places, f"{name}:{ref}", finished_at=self._now(), held=[])
                self._close_what_is_down(piece, memory, f"{name}:{ref}")
            if found is not None and found.status is not Status.CANCELLED:
                return True
        return False

    def _check_found(self, piece: Piece, memory: Work) -> None:
        changes, tells = rounds(piece, memory, self.beat)
        self.plan.change(piece, changes)
        self.plan.tells += tells
        if memory.breaker and not memory.owed:
            self.plan.warnings.append(f"{piece.shown} is to do, and held back: {memory.breaker}")
        if is_driven(self._means.sources, piece) or not may_start(piece, memory):
            return
        if piece.requires_approval and not memory.is_allowed:
            data = about(piece, self.beat, ("owner",))
            self.plan.tells.append(Tell("work_needs_approval", "approval", True, data, piece.ref))
        elif rules.turn(max(piece.rounds, memory.rounds), self.beat.limits, memory.round_limit) is Turn.PAUSE:
            self.plan.recoveries.append(Recovery(piece, Judgement(Standing.MOVING, Step.PAUSE)))
        else:
            self.plan.starts.append(piece)

    # Dependencies

    async def _check_needs(self) -> None:
        """Leave out what may not begin yet, also for the second time, and tell what waits in vain."""
        overview = self._overview
        retries = [r for r in self.plan.recoveries if r.judgement.step is Step.RETRY and r.piece.needs]
        waiting = (*self.plan.starts, *(retry.piece for retry in retries))
        refs = {(need.ref.source, need.ref.id) for piece in waiting for need in piece.needs}
        async with self._means.database.read() as session:
            stuck = await self._means.records.timed_out(session, refs)
        starts, self.plan.starts = self.plan.starts, []
        for piece in starts:
            found = rules.dependencies(piece, overview, stuck)
            if found.gate is Gate.READY:
                self.plan.starts.append(piece)
                if self._memory(piece, self._now()).waits_since is not None:
                    self.plan.change(piece, {"waits_since": None})
            else:
                self._waits(piece, found)
        self.plan.starts.sort(key=self._fails_in_a_row)
        for retry in retries:
            found = rules.dependencies(retry.piece, overview, stuck)
            if found.gate is not Gate.READY and not is_driven(self._means.sources, retry.piece):
                self._waits(retry.piece, found)
                held = replace(retry, judgement=replace(retry.judgement, may_run=False))
                self.plan.recoveries[self.plan.recoveries.index(retry)] = held

    def _fails_in_a_row(self, piece: Piece) -> int:
        """What leads nowhere goes behind all other work, or it would take its turns (heartbeat.md 5)."""
        silent = self._memory(piece, self._now()).silent_rounds
        return silent if silent >= SILENT else 0

    def _waits(self, piece: Piece, found: rules.Dependencies) -> None:
        now, coo = self._now(), self.beat.escalate[0]
        memory = self._memory(piece, now)
        since = memory.waits_since or now
        if memory.waits_since is None:
            self.plan.change(piece, {"waits_since": now})
        executors = [name for need in found.needs if (name := rules.executor(need, self._overview))]
        needs = ", ".join(str(need.ref) for need in found.needs)
        is_late = now - since > self.beat.limits.dependency_wait
        match found.gate:
            case Gate.CYCLE:
                way = " → ".join(found.way)
                self._tell(piece, "dependency_cycle", "cycle", sorted(found.way), (coo,), way=way)
            case Gate.CANCELLED:
                self._tell(piece, "dependency_cancelled", "cancelled", needs, (coo,), needs=needs)
            case Gate.UNRESPONSIVE if is_late or any(need.status is not None for need in found.needs):
                self._tell(piece, "work_waits", "unresponsive", needs, (*executors, coo), needs=needs)
            case _ if is_late:
                self._tell(piece, "work_waits", "waits", needs, executors or (coo,), needs=needs)
        if any(need.status is None for need in found.needs):
            self.plan.warnings.append(f"{piece.shown} waits for {needs}, which cannot be looked up")

    def _tell(self, piece: Piece, kind: str, key: str, value: Any, to: Sequence[str], **more: Any) -> None:
        data = about(piece, self.beat, tuple(dict.fromkeys(to))) | more
        self.plan.tells.append(Tell(kind, key, value, data, piece.ref))

    # The work of all

    def work_of_all(self, answers: Mapping[str, Answer], told: Mapping[str, int]) -> None:
        """Only one agent looks at everybody's work: it reports what stands still, and the backlog."""
        now, overview = self._now(), self._overview
        for agent, places in overview.by_agent.items():
            limits = self._beats.get(agent or "", self.beat).limits
            for place in places if agent != self.beat.agent else ():
                if place.status is Status.IN_PROGRESS:
                    state = standing(sign(place, now), now, limits)
                    if state in (Standing.SUSPECTED, Standing.CONFIRMED):
                        self.plan.suspected.append(str(place.ref))
        for name, answer in answers.items():
            if name == DOCUMENTS or answer.trouble is not None:
                continue
            self._strangers(answer)
            found = rules.backlog(answer, self.beat.backlog_shown)
            if rules.is_told(told, found, self.beat.backlog_over):
                data = {"source": name, "todo": found.todo, "in_progress": found.in_progress}
                data |= {"to": self.beat.escalate[0], "list": "\n".join(found.first)}
                self.plan.tells.append(Tell("backlog_warning", f"backlog.{name}", found.todo, data))

    def _strangers(self, answer: Answer) -> None:
        """Work of those whom nobody sweeps: told once for all who have some, and watched like other work."""
        now = self._now()
        for place in answer.strange:
            if place.status is Status.IN_PROGRESS:
                state = standing(sign(place, now), now, self.beat.limits)
                if state in (Standing.SUSPECTED, Standing.CONFIRMED):
                    self.plan.suspected.append(str(place.ref))
        if answer.strange:
            whose = ", ".join(sorted({place.agent or "" for place in answer.strange}))
            first = [rules.line(place) for place in answer.strange[: self.beat.backlog_shown]]
            data = {"source": answer.source, "number": len(answer.strange), "whose": whose[:300]}
            data |= {"to": self.beat.escalate[0], "list": "\n".join(first)}
            self.plan.tells.append(Tell("work_of_strangers", f"strangers.{answer.source}", whose, data))


def _is_older(known: Work | None, done: Work) -> bool:
    """Nothing was tried here since the same work was done elsewhere."""
    if known is None:
        return True
    if known.finished_at is not None or done.finished_at is None:
        return False
    return known.attempts == 0 or known.updated_at < done.finished_at


def _held(piece: Piece) -> list[list[str]]:
    """Where somebody is at it; in one of several places also where it is reviewed, or blocked."""
    holding = (Status.IN_PROGRESS, Status.IN_REVIEW, Status.BLOCKED)[: None if len(piece.places) > 1 else 1]
    return [[p.ref.source, p.ref.id] for p in piece.places if p.status in holding]


def _late(piece: Piece, memory: Work) -> list[Found]:
    """Places that are to do, and that were not known when the work was finished."""
    known = {(source, ref) for source, ref in memory.places}
    return [p for p in piece.places if p.status is Status.TODO and (p.ref.source, p.ref.id) not in known]


def is_driven(sources: Mapping[str, Source], piece: Piece) -> bool:
    """Whether an engine of ours takes it up by itself, in whichever place."""
    return any(p.ref.source in sources and sources[p.ref.source].is_driven for p in piece.places)


async def read(sources: Mapping[str, Source], ref: Ref, plan: Plan) -> Found | None:
    """One place as it is now, past every cache. Raises whatever keeps its source from telling.

    A source that hangs costs its time limit each time, so it is not asked twice in one sweep.
    """
    if ref.source in plan.gone:
        raise plan.gone[ref.source]
    try:
        return await sources[ref.source].read(ref)
    except QuarterdeckError as error:
        if trouble_of(error) in (Trouble.TIMED_OUT, Trouble.MISSING):
            plan.gone[ref.source] = error
        raise
    except Exception as error:  # a source that breaks its word cannot be read
        log.warning("source_broke", source=ref.source, ref=ref.id, exc_info=error)
        raise unavailable(Trouble.FAILED, f"{ref.source} broke: {type(error).__name__}.") from error


async def read_again(sources: Mapping[str, Source], piece: Piece, plan: Plan) -> Piece | None:
    """The work as it is now, past every cache; `None` = one of its places cannot be read."""
    places = []
    for place in piece.places:
        try:
            fresh = await read(sources, place.ref, plan)
        except QuarterdeckError as error:
            plan.warnings.append(f"{piece.shown} cannot be read: {error.detail}")
            return None
        if fresh is not None:
            places.append(fresh)
    return Piece(tuple(places)) if places else None
