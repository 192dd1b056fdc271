"""Our own board. Where an item goes is decided by its pipeline; this source tells of it and asks for moves.

Queued items are taken up by the desk itself, so to start one is to have it looked at now. An item that
waits for a person's approval requires approval, and nothing else may move it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from quarterdeck.board.cards import Card
from quarterdeck.board.model import Priority, State
from quarterdeck.heartbeat.sources.notes import Notes
from quarterdeck.heartbeat.sources.polling import Glance
from quarterdeck.heartbeat.sources.reading import tame, wants_approval
from quarterdeck.heartbeat.sources.trouble import trouble_of
from quarterdeck.heartbeat.work import Answer, Found, Need, Ref, Status, Watched
from quarterdeck.kernel.clock import Clock
from quarterdeck.kernel.errors import NotFound, QuarterdeckError

NAME = "board"
STATUSES = {
    State.QUEUED: Status.TODO,
    State.RUNNING: Status.IN_PROGRESS,
    State.WAITING_GATE: Status.IN_REVIEW,
    State.WAITING_APPROVAL: Status.IN_REVIEW,
    State.BLOCKED: Status.BLOCKED,
    State.DONE: Status.DONE,
    State.CANCELLED: Status.CANCELLED,
}


class Items(Protocol):
    """What is asked of the board and of the engine that alone moves its items; bound by the house.

    Raises `NotFound`, and `Conflict` where the item's state does not allow it.
    """

    async def unfinished(self) -> Sequence[Card]: ...

    async def item(self, key: str) -> Card: ...

    async def worker(self, card: Card) -> str | None:
        """Whose work it is now: its stage's agent, else its assignee."""
        ...

    async def states(self, keys: Sequence[str]) -> dict[str, State]: ...

    async def filed_since(self, moment: datetime) -> Sequence[str]: ...

    async def take_up(self, key: str) -> None: ...

    async def remark(self, key: str, text: str) -> None: ...

    async def give_back(self, key: str, why: str) -> None: ...

    async def reopen(self, key: str, why: str) -> None: ...

    async def block(self, key: str, why: str) -> None: ...

    async def done_elsewhere(self, key: str, result: str, *, is_reviewed: bool) -> None: ...


class OwnBoard:
    """Every item that is not finished."""

    name = NAME
    rank = 0
    is_driven = True

    def __init__(self, items: Items, glance: Glance, notes: Notes, clock: Clock) -> None:
        self._items = items
        self._glance = glance
        self._notes = notes
        self._clock = clock

    async def look(self, agents: Sequence[Watched]) -> Answer:
        return await self._glance.answer(agents, self._looked)

    async def _looked(self, agents: Sequence[Watched]) -> Answer:
        now, slugs = self._clock.now(), {agent.slug for agent in agents}
        try:
            cards = await self._items.unfinished()
            rounds = await self._notes.rounds()
            states = await self._items.states([key for card in cards for key in card.waiting_for])
            found = [await self._found(card, states, rounds.get(card.key)) for card in cards]
        except QuarterdeckError as error:
            return Answer(NAME, now, trouble=trouble_of(error), detail=error.detail)
        return Answer(NAME, now, tuple(f for f in found if f.agent is None or f.agent in slugs))

    async def _found(self, card: Card, states: dict[str, State], rounds: int | None) -> Found:
        needs = (Need(Ref(NAME, key), _status(states.get(key))) for key in card.waiting_for)
        return Found(
            ref=Ref(NAME, card.key),
            title=tame(card.title),
            status=STATUSES[card.state],
            shown=card.key,
            agent=await self._items.worker(card),
            priority=None if card.priority is Priority.NONE else card.priority.value,
            creator=card.reporter,
            description=card.description,
            labels=card.labels,
            needs=tuple(needs),
            requires_approval=card.state is State.WAITING_APPROVAL or wants_approval(card.labels),
            rounds=rounds,
            created_at=card.created_at,
            updated_at=card.updated_at,
        )

    async def read(self, ref: Ref) -> Found | None:
        try:
            card = await self._items.item(ref.id)
        except NotFound:
            return None
        rounds = await self._notes.rounds()
        states = await self._items.states(list(card.waiting_for))
        return await self._found(card, states, rounds.get(card.key))

    async def filed_since(self, moment: datetime) -> Sequence[str]:
        return await self._items.filed_since(moment)

    async def start(self, ref: Ref, agent: str) -> None:
        await self._items.take_up(ref.id)
        self._glance.forget()

    async def comment(self, ref: Ref, text: str) -> None:
        await self._items.remark(ref.id, text)

    async def release(self, ref: Ref, why: str) -> None:
        await self._items.give_back(ref.id, why)
        self._glance.forget()

    async def reopen(self, ref: Ref, why: str) -> None:
        await self._items.reopen(ref.id, why)
        self._glance.forget()

    async def block(self, ref: Ref, why: str) -> None:
        await self._items.block(ref.id, why)
        self._glance.forget()

    async def finish(self, ref: Ref, result: str, *, is_reviewed: bool) -> None:
        await self._items.done_elsewhere(ref.id, result, is_reviewed=is_reviewed)
        self._glance.forget()

    async def note_rounds(self, ref: Ref, rounds: int) -> None:
        await self._notes.set_rounds(ref, rounds)
        self._glance.forget()


def _status(state: State | None) -> Status | None:
    return STATUSES[state] if state else None
