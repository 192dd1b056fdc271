"""What all sources told, taken together: whose work it is, what is the same work, what comes first."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from quarterdeck.board import rules as board_rules
from quarterdeck.heartbeat.work import Answer, Found, Need, Ref, Status

ADOPTED = "from elsewhere"
"""The label of items that stand for work of another source: it is found there, and nowhere else."""

PRIORITIES = {"urgent": 0, "critical": 0, "high": 1, "medium": 2, "normal": 2, "low": 3}
UNKNOWN_PRIORITY = 4

APPROVAL_LABELS = frozenset({"requires_approval", "requires-approval", "money", "payment", "purchase"})
"""Labels of work that involves money or outside resources (heartbeat.md 4): a person says yes first."""

FUTURE = timedelta(minutes=5)
"""A stamp that is further ahead than clocks differ is not believed: such work could never time out."""

_OLD = datetime.min.replace(tzinfo=UTC)
_TICKET = re.compile(r"^\[?([a-z][a-z0-9]*-\d+)\]?(?:\s*[:.)–—-])?\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Piece:
    """One piece of work with every place where it stands; the first place is the one that leads."""

    places: tuple[Found, ...]

    @property
    def first(self) -> Found:
        return self.places[0]

    @property
    def ref(self) -> Ref:
        return self.first.ref

    @property
    def title(self) -> str:
        return self.first.title

    @property
    def shown(self) -> str:
        return self.first.shown or self.first.ref.id

    @property
    def status(self) -> Status:
        """To do only if it is to do everywhere: what somebody has begun in one place is begun."""
        statuses = {place.status for place in self.places}
        order = (Status.IN_PROGRESS, Status.BLOCKED, Status.IN_REVIEW, Status.TODO)
        return next((status for status in order if status in statuses), Status.OTHER)

    @property
    def requires_approval(self) -> bool:
        return any(
            place.requires_approval or not APPROVAL_LABELS.isdisjoint(label.lower() for label in place.labels)
            for place in self.places
        )

    @property
    def rounds(self) -> int:
        return max(place.rounds or 0 for place in self.places)

    @property
    def creator(self) -> str | None:
        return next((place.creator for place in self.places if place.creator), None)

    @property
    def needs(self) -> tuple[Need, ...]:
        own = {place.ref for place in self.places}
        return tuple(need for place in self.places for need in place.needs if need.ref not in own)

    def sign(self, now: datetime) -> datetime | None:
        """The last sign of life in any place; `None` = it cannot be measured."""
        signs = [found for place in self.places if (found := sign(place, now))]
        return max(signs, default=None)

    @property
    def created_at(self) -> datetime | None:
        return min((place.created_at for place in self.places if place.created_at), default=None)


def sign(found: Found, now: datetime) -> datetime | None:
    """The last sign of life: changed, else started, else made (heartbeat.md 5, H6)."""
    for moment in (found.updated_at, found.started_at, found.created_at):
        if moment is not None and moment <= now + FUTURE:
            return moment
    return None


def key_of(title: str) -> str:
    """A title as it is compared: without a leading ticket id, case and superfluous space."""
    return " ".join(_TICKET.sub("", title.strip()).split()).casefold()


def merged(found: Sequence[Found], ranks: Mapping[str, int]) -> list[Piece]:
    """The same work of several sources as one piece: by an explicit id, then by title (heartbeat.md 3.1).

    Two pieces of one source stay two, whatever they are called: each was filed on its own.
    """
    groups: dict[Ref, list[Found]] = {place.ref: [place] for place in found}
    for one, other in [*_by_id(found), *_by_title(found)]:
        _join(groups, one, other)
    unique = {id(group): group for group in groups.values()}
    return [
        Piece(tuple(sorted(group, key=lambda place: (ranks.get(place.ref.source, 99), place.ref))))
        for group in unique.values()
    ]


def _join(groups: dict[Ref, list[Found]], one: Ref, other: Ref) -> None:
    first, second = groups[one], groups[other]
    if first is second or {p.ref.source for p in first} & {p.ref.source for p in second}:
        return
    first.extend(second)
    for place in second:
        groups[place.ref] = first


def _by_id(found: Sequence[Found]) -> Iterable[tuple[Ref, Ref]]:
    """Work whose title begins with the id of other work, or whose labels name it."""
    names = {place.shown.casefold(): place.ref for place in found if place.shown}
    refs = {str(place.ref): place.ref for place in found}
    for place in found:
        ticket = _TICKET.match(place.title.strip())
        there = names.get(ticket[1].casefold()) if ticket else None
        if there and there.source != place.ref.source:
            yield there, place.ref
        for label in place.labels:
            if (named := refs.get(label)) and named != place.ref:
                yield named, place.ref


def _by_title(found: Sequence[Found]) -> Iterable[tuple[Ref, Ref]]:
    """The oldest of each source go together, then the next ones."""
    alike: dict[str, dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
    for place in found:
        if key := key_of(place.title):
            alike[key][place.ref.source].append(place)
    for sources in alike.values():
        if len(sources) > 1:
            columns = [sorted(same, key=_age) for same in sources.values()]
            for row in range(max(map(len, columns))):
                refs = [column[row].ref for column in columns if row < len(column)]
                yield from ((refs[0], ref) for ref in refs[1:])


def _age(place: Found) -> tuple[datetime, Ref]:
    return place.created_at or _OLD, place.ref


def ordered(pieces: Iterable[Piece], ranks: Mapping[str, int]) -> list[Piece]:
    """By priority, then by source, then the oldest first."""

    def order(piece: Piece) -> tuple[int, int, datetime, Ref]:
        priority = min(PRIORITIES.get((p.priority or "").lower(), UNKNOWN_PRIORITY) for p in piece.places)
        made = piece.created_at or piece.first.updated_at or _OLD
        return priority, ranks.get(piece.ref.source, 99), made, piece.ref

    return sorted(pieces, key=order)


def of_all(answer: Answer) -> list[Found]:
    """All that a source told, of whomever; items of ours that stand for it elsewhere are not counted."""
    return [place for place in (*answer.found, *answer.strange) if ADOPTED not in place.labels]


class Overview:
    """All answers of one look. Made once for all agents that see the same answers."""

    def __init__(self, answers: Sequence[Answer], ranks: Mapping[str, int]) -> None:
        self.answers = {answer.source: answer for answer in answers}
        self.ranks = ranks
        self.by_agent: dict[str | None, list[Found]] = defaultdict(list)
        self.by_ref: dict[Ref, Found] = {}
        for answer in answers:
            for place in answer.found:
                if ADOPTED not in place.labels:
                    self.by_agent[place.agent].append(place)
                    self.by_ref[place.ref] = place
        self._pieces: dict[str | None, list[Piece]] = {}

    def pieces(self, agent: str | None) -> list[Piece]:
        """The work of one agent, in the order in which it is to be done."""
        if agent not in self._pieces:
            own = merged(self.by_agent.get(agent, ()), self.ranks)
            self._pieces[agent] = ordered(own, self.ranks)
        return self._pieces[agent]

    @cached_property
    def counts(self) -> Mapping[str, Counter[Status]]:
        """How much of all agents' work stands how, by source."""
        told = self.answers.items()
        return {name: Counter(place.status for place in of_all(answer)) for name, answer in told}

    @cached_property
    def _leading(self) -> dict[Ref, Ref]:
        """The first place of whatever stands in several."""
        return {
            place.ref: piece.ref
            for agent in self.by_agent
            for piece in self.pieces(agent)
            for place in piece.places
        }

    @cached_property
    def _edges(self) -> dict[str, set[str]]:
        edges: dict[str, set[str]] = defaultdict(set)
        for place in self.by_ref.values():
            here = self._leading[place.ref]
            for need in place.needs:
                there = self._leading.get(need.ref, need.ref)
                if need.status not in (Status.DONE, Status.CANCELLED) and there != here:
                    edges[str(here)].add(str(there))
        return edges

    def cycle(self, ref: Ref) -> tuple[str, ...]:
        """The way from a piece of work back to itself, across all sources; empty if there is none."""
        here = str(self._leading.get(ref, ref))
        return board_rules.cycle(self._edges, here) if here in self._edges else ()
