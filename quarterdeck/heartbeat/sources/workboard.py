"""OpenClaw's WorkBoard, through its command line.

Source: spec contracts.md, section 1, observed on 2026.9.6. Its list has every card of every agent, archived
ones too. It knows `running` where we say in progress, can neither comment nor release (reasons and rounds go
to our own record, a released card is blocked), and keeps times in milliseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quarterdeck.heartbeat.sources.notes import Notes
from quarterdeck.heartbeat.sources.openclaw_cli import OpenClawProgram
from quarterdeck.heartbeat.sources.polling import Look, Polling
from quarterdeck.heartbeat.sources.reading import (
    NO_TITLE,
    Times,
    labels,
    mapping,
    rows,
    tame,
    text,
    wants_approval,
    word,
)
from quarterdeck.heartbeat.sources.trouble import unavailable
from quarterdeck.heartbeat.work import Answer, Found, Need, Ref, Status, Trouble, Watched
from quarterdeck.kernel.clock import Clock
from quarterdeck.kernel.errors import NotFound

NAME = "workboard"
STATUSES = {
    "todo": Status.TODO,
    "ready": Status.TODO,
    "running": Status.IN_PROGRESS,
    "in_progress": Status.IN_PROGRESS,
    "review": Status.IN_REVIEW,
    "blocked": Status.BLOCKED,
    "done": Status.DONE,
    "cancelled": Status.CANCELLED,
}
"""`triage`, `backlog` and `scheduled` are not to be taken yet."""


class WorkBoard:
    """All cards of one OpenClaw."""

    name = NAME
    rank = 1
    is_driven = False

    def __init__(self, program: OpenClawProgram, polling: Polling, notes: Notes, clock: Clock) -> None:
        self._program = program
        self._polling = polling
        self._notes = notes
        self._clock = clock

    async def look(self, agents: Sequence[Watched]) -> Answer:
        return await self._polling.answer(NAME, agents, self._ask, {a.slug: a.slug for a in agents})

    async def _ask(self) -> Look:
        told = await self._program.call("list")
        if not isinstance(told, dict) or not isinstance(told.get("cards"), list):
            raise unavailable(Trouble.UNREADABLE, "openclaw told something that is no list of cards.")
        return look_of(told["cards"], Times(self._clock.now()), await self._notes.rounds())

    async def read(self, ref: Ref) -> Found | None:
        try:
            told = await self._program.call("read", id=ref.id)
        except NotFound:
            return None
        card = mapping(mapping(told).get("card"))
        found = card_of(card, Times(self._clock.now()), {})
        if found is None:
            raise unavailable(Trouble.UNREADABLE, "openclaw told a card without an id.")
        if found.needs:
            found = await self._with_needs(found)
        return await self._notes.added_to(found)

    async def _with_needs(self, found: Found) -> Found:
        """What it waits for, as it is now: one list says more than many looks at single cards."""
        cards = rows(mapping(await self._program.call("list")).get("cards"))
        now = statuses(cards)
        needs = (Need(need.ref, now.get(need.ref.id, need.status)) for need in found.needs)
        return replace(found, needs=tuple(needs))

    async def start(self, ref: Ref, agent: str) -> None:
        await self._move(ref, "running")

    async def comment(self, ref: Ref, text: str) -> None:
        if await self._program.can("comment"):
            await self._program.call("comment", id=ref.id, body=text)
        await self._notes.say(ref, text)

    async def release(self, ref: Ref, why: str) -> None:
        await self.comment(ref, why)
        if await self._program.can("release"):
            await self._program.call("release", id=ref.id)
            await self._polling.invalidate()
        else:
            await self._move(ref, "blocked")

    async def reopen(self, ref: Ref, why: str) -> None:
        await self.comment(ref, why)
        await self._move(ref, "todo")

    async def block(self, ref: Ref, why: str) -> None:
        await self.comment(ref, why)
        await self._move(ref, "blocked")

    async def finish(self, ref: Ref, result: str, *, is_reviewed: bool) -> None:
        await self.comment(ref, result)
        await self._move(ref, "done" if is_reviewed else "review")

    async def note_rounds(self, ref: Ref, rounds: int) -> None:
        if await self._program.can("rounds"):
            await self._program.call("rounds", id=ref.id, rounds=str(rounds))
        await self._notes.set_rounds(ref, rounds)

    async def create(self, title: str, text: str, agent: str) -> str:
        """Make a card for an agent; its id."""
        told = await self._program.call("create", title=tame(title), text=tame(text, 2000), agent=agent)
        await self._polling.invalidate()
        return word(mapping(mapping(told).get("card")).get("id"))

    async def _move(self, ref: Ref, status: str) -> None:
        await self._program.call("move", id=ref.id, status=status)
        await self._polling.invalidate()


def look_of(cards: list[Any], times: Times, rounds: Mapping[str, int]) -> Look:
    """The cards that are not finished."""
    known = statuses(cards)
    read = [card_of(mapping(card), times, known) for card in cards if not is_archived(mapping(card))]
    kept = tuple(
        replace(found, rounds=rounds.get(found.ref.id))
        for found in read
        if found and found.status not in (Status.DONE, Status.CANCELLED)
    )
    if unread := read.count(None):
        return Look(kept, Trouble.UNREADABLE, f"{unread} of {len(cards)} cards have no id.")
    return Look(kept, detail=times.note)


def is_archived(card: Mapping[str, Any]) -> bool:
    return bool(mapping(card.get("metadata")).get("archivedAt"))


def statuses(cards: list[Any]) -> dict[str, Status]:
    """Where every card stands, also those that are done."""
    told = (mapping(card) for card in cards)
    return {word(card.get("id")): _status(card) for card in told if word(card.get("id"))}


def _status(card: Mapping[str, Any]) -> Status:
    return STATUSES.get(word(card.get("status")).casefold(), Status.OTHER)


def card_of(card: Mapping[str, Any], times: Times, others: Mapping[str, Status]) -> Found | None:
    """One card; `None` = it has no id."""
    identity = word(card.get("id"))
    if not identity:
        return None
    named = labels(card.get("labels"))
    return Found(
        ref=Ref(NAME, identity),
        title=tame(card.get("title")) or NO_TITLE,
        status=_status(card),
        shown=identity[:8],
        agent=word(card.get("agentId")) or None,
        priority=word(card.get("priority")) or None,
        creator=word(card.get("createdBy")) or None,
        description=text(card.get("notes")),
        labels=named,
        needs=_needs(card, others),
        requires_approval=wants_approval(named),
        created_at=times.read(card.get("createdAt", card.get("created_at"))),
        started_at=times.read(card.get("startedAt", card.get("started_at"))),
        updated_at=times.read(card.get("updatedAt", card.get("updated_at"))),
    )


def _needs(card: Mapping[str, Any], others: Mapping[str, Status]) -> tuple[Need, ...]:
    """Parents among its links, and `dependsOn` in both spellings (spec heartbeat.md, C10)."""
    links = (mapping(link) for link in rows(mapping(card.get("metadata")).get("links")))
    told = {word(link.get("targetCardId")): "" for link in links if link.get("type") == "parent"}
    for entry in (*rows(card.get("dependsOn")), *rows(card.get("depends_on"))):
        named = mapping(entry)
        told[word(named.get("id")) if named else word(entry)] = word(named.get("status"))
    return tuple(
        Need(Ref(NAME, identity), others.get(identity, STATUSES.get(status.casefold())))
        for identity, status in told.items()
        if identity
    )
