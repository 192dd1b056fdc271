"""One piece of work, judged: how it stands, which step is due, what is to be remembered and told.

Pure: the work comes in as its sources told it and as it is remembered.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from quarterdeck.heartbeat.model import Work
from quarterdeck.heartbeat.naming import name_of
from quarterdeck.heartbeat.overview import Piece, key_of, sign
from quarterdeck.heartbeat.roster import Heartbeat
from quarterdeck.heartbeat.rules import Turn, turn
from quarterdeck.heartbeat.stall import (
    SILENT,
    Episode,
    Rung,
    Standing,
    people,
    rung,
    sign_that_counts,
    standing,
)
from quarterdeck.heartbeat.work import Ref, Status


class Step(StrEnum):
    """What is to be done about a piece of work in progress."""

    NOTHING = "nothing"
    RESUMED = "resumed"
    RETRY = "retry"
    ACT = "act"
    GIVE_UP = "give up"
    PAUSE = "pause"
    LIFT = "lift"


@dataclass(frozen=True)
class Tell:
    """An event that is recorded once for the same `value` under the same `key` of a piece of work."""

    kind: str
    key: str
    value: Any
    data: Mapping[str, Any]
    ref: Ref | None = None


@dataclass(frozen=True)
class Judgement:
    """How a piece in progress stands, and what follows. `changes` are columns of its memory.

    `may_run`: nothing that it needs is open, so a run may be started for it.
    """

    state: Standing
    step: Step = Step.NOTHING
    sign: datetime | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    tells: tuple[Tell, ...] = ()
    may_run: bool = True


def episode(memory: Work) -> Episode:
    return Episode(memory.timeouts, memory.timed_out_at, memory.acted)


def judge(piece: Piece, memory: Work, beat: Heartbeat, now: datetime) -> Judgement:
    """A piece of work that is in progress, without a run of ours that goes on."""
    seen = piece.sign(now)
    sign = sign_that_counts(seen, memory.own_sign, memory.sign)
    silent = _silent(piece, memory, sign)
    moved = piece.rounds > memory.rounds and silent < SILENT
    state = standing(sign, now, beat.limits, rounds_moved=moved)
    step = Step(rung(episode(memory), state, sign).value)
    changes, tells = rounds(piece, memory, beat)
    if turn(max(piece.rounds, memory.rounds), beat.limits, memory.round_limit) is Turn.PAUSE:
        step = Step.PAUSE
    changes |= _marks(memory, state, seen, sign, silent, now)
    return Judgement(state, step, sign, changes, (*tells, *_runs_long(piece, beat, now)))


def _silent(piece: Piece, memory: Work, sign: datetime | None) -> int:
    """Rounds since anything else changed."""
    if sign is not None and memory.sign is not None and sign > memory.sign:
        return 0
    return memory.silent_rounds + max(0, piece.rounds - memory.rounds)


def _marks(
    memory: Work, state: Standing, seen: datetime | None, sign: datetime | None, silent: int, now: datetime
) -> dict[str, Any]:
    is_marked = state in (Standing.SUSPECTED, Standing.CONFIRMED)
    wanted: dict[str, Any] = {
        "suspected_since": (memory.suspected_since or now) if is_marked else None,
        "silent_rounds": silent,
    }
    if is_marked or memory.sign is not None:
        wanted["sign"] = sign
    if memory.own_sign is not None and seen != memory.own_sign:
        wanted["own_sign"] = None
    return {name: value for name, value in wanted.items() if getattr(memory, name) != value}


def rounds(piece: Piece, memory: Work, beat: Heartbeat) -> tuple[dict[str, Any], list[Tell]]:
    """The count is kept here too: a note that is lost in its source does not reset it."""
    total = max(piece.rounds, memory.rounds)
    changes = {"rounds": total} if total != memory.rounds else {}
    if turn(total, beat.limits, memory.round_limit) is not Turn.WARN:
        return changes, []
    most = memory.round_limit or beat.limits.max_rounds
    data = about(piece, beat, people(beat.notify, piece.creator)) | {"rounds": total, "limit": most}
    return changes, [Tell("rounds_warning", "rounds", most, data, piece.ref)]


def _runs_long(piece: Piece, beat: Heartbeat, now: datetime) -> Sequence[Tell]:
    began = piece.first.started_at
    if beat.limits.runtime is None or began is None or now - began <= beat.limits.runtime:
        return ()
    minutes = int((now - began).total_seconds()) // 60
    data = about(piece, beat, people(beat.notify, piece.creator)) | {"minutes": minutes}
    return (Tell("work_runs_long", "runtime", began.isoformat(), data, piece.ref),)


def about(piece: Piece, beat: Heartbeat, to: Sequence[str]) -> dict[str, Any]:
    """What every event about a piece of work says."""
    return {
        "work": piece.shown,
        "name": name_of(piece),
        "ref": str(piece.ref),
        "title": piece.title[:200],
        "agent": beat.agent,
        "to": ", ".join(to),
    }


class Memories:
    """What is remembered of an agent's work, found by any place of it. `down`: sources not seen now."""

    def __init__(self, rows: Sequence[Work], down: Collection[str] = ()) -> None:
        self.down = frozenset(down)
        self.rows = rows
        self._by_ref: dict[Ref, Work] = {}
        self._by_title: dict[str, list[Work]] = {}
        for row in rows:
            for place in (row.places or []) + [[row.source, row.ref]]:
                self._by_ref[Ref(place[0], place[1])] = row
            self._by_title.setdefault(key_of(row.title), []).append(row)

    def of(self, piece: Piece) -> Work | None:
        """What has a run that goes on comes first: a second row of it is from when one place was down."""
        rows = [row for place in piece.places if (row := self._by_ref.get(place.ref))]
        rows = rows or list(self._out_of_sight(piece))
        return next((row for row in rows if row.run_id is not None), rows[0] if rows else None)

    def _out_of_sight(self, piece: Piece) -> Iterator[Work]:
        """The same work, unfinished, known from places none of which can be looked into now."""
        for row in self._elsewhere(piece):
            if row.finished_at is None and {row.source, *(place[0] for place in row.places)} <= self.down:
                yield row

    def finished_elsewhere(self, piece: Piece) -> Work | None:
        """The same work, done in another source while this one could not be looked into."""
        for row in self._elsewhere(piece):
            made, done = piece.created_at, row.finished_at
            if done is not None and (made is None or made <= done):
                return row
        return None

    def held(self, piece: Piece, memory: Work) -> list[list[str]]:
        """Where somebody else was at the same work."""
        rows = (row for row in self._elsewhere(piece) if row.finished_at is None)
        return [*memory.held, *(place for row in rows for place in row.held)]

    def begun_elsewhere(self, piece: Piece) -> list[list[str]]:
        """Where the same work was seen and is not known to be finished."""
        rows = (row for row in self._elsewhere(piece) if row.finished_at is None)
        return [place for row in rows for place in row.places]

    def _elsewhere(self, piece: Piece) -> Iterator[Work]:
        """The same work by its title, in sources in which this piece does not stand."""
        sources = {place.ref.source for place in piece.places}
        for row in self._by_title.get(key_of(piece.title), ()):
            if ({source for source, _ in row.places} | {row.source}).isdisjoint(sources):
                yield row


def blank(piece: Piece, agent: str, now: datetime) -> Work:
    """Nothing remembered yet."""
    return Work(
        source=piece.ref.source,
        ref=piece.ref.id,
        agent=agent,
        title=piece.title[:300],
        places=places_of(piece),
        updated_at=now,
    )


def places_of(piece: Piece) -> list[list[str]]:
    return [[place.ref.source, place.ref.id] for place in piece.places]


def is_untouched(piece: Piece, memory: Work, now: datetime) -> bool:
    """It is done, and nobody did anything to it since: it waits for whoever closes it in its source."""
    if memory.finished_at is None or memory.own_sign is None:
        return False
    in_hand = [place for place in piece.places if place.status is Status.IN_PROGRESS]
    signs = (sign(place, now) for place in in_hand)
    is_known = all([place.ref.source, place.ref.id] in memory.places for place in in_hand)
    return is_known and all(seen is None or seen <= memory.own_sign for seen in signs)


def free(row: Work, now: datetime) -> None:
    """Breaker, timeouts, repeats and budget begin anew."""
    row.breaker, row.broken_at, row.repeats, row.fingerprint = "", None, 0, ""
    row.timeouts, row.timed_out_at, row.acted, row.suspected_since = 0, None, False, None
    row.silent_rounds, row.budget_since, row.finished_at = 0, now, None
    row.told = {key: value for key, value in row.told.items() if key != "unfinished"}


def freed(memory: Work, now: datetime) -> Work:
    """As it will be remembered then."""
    copy = Work(**memory.model_dump())
    free(copy, now)
    return copy


def is_lifted(piece: Piece, memory: Work, now: datetime) -> bool:
    """A person let it go on where it stands: it is open again, and that came after all that we did to it.

    That it was filed in another place since is no such word.
    """
    if not memory.breaker or memory.owed or memory.run_id is not None:
        return False
    known = tuple(p for p in piece.places if [p.ref.source, p.ref.id] in memory.places)
    if not known or (seen := Piece(known).sign(now)) is None:
        return False
    ours = [moment for moment in (memory.broken_at, memory.own_sign) if moment is not None]
    is_open = Piece(known).status in (Status.TODO, Status.IN_PROGRESS)
    return is_open and all(seen > moment for moment in ours)


def may_start(piece: Piece, memory: Work) -> bool:
    """Whether found work is free to be taken up, before anything else is asked."""
    return piece.status is Status.TODO and not memory.breaker and memory.run_id is None and not memory.owed


RUNGS = frozenset(rung.value for rung in Rung)
assert {step.value for step in Step} >= RUNGS  # every rung is a step
