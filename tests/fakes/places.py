"""Places where work waits, held in memory: they answer, take orders, break down, and note what was asked."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from quarterdeck.heartbeat.sources.trouble import not_configured, refused, unavailable
from quarterdeck.heartbeat.work import Answer, Found, Ref, Status, Trouble, Watched
from quarterdeck.kernel.clock import Clock


class Place:
    """A source in memory. `down`: it answers nothing, and takes nothing.

    Plane's has no review: work that is not reviewed yet gets a remark, and is in progress. OpenClaw's board
    cannot give a card back: it is blocked.
    """

    def __init__(self, name: str, rank: int, clock: Clock, *, is_driven: bool = False) -> None:
        self.name, self.rank, self.is_driven = name, rank, is_driven
        self._unreviewed = Status.IN_PROGRESS if name == "plane" else Status.IN_REVIEW
        self._released = Status.BLOCKED if name == "workboard" else Status.TODO
        self._blocked = Status.OTHER if name == "plane" else Status.BLOCKED
        self.down: Trouble | None = None
        self.is_cached = False
        self.asked = 0
        self.done: list[tuple[str, ...]] = []
        self.kept: dict[str, Found] = {}
        self._clock = clock

    def put(self, id: str, title: str = "", **facts: Any) -> Found:
        """File a piece of work; it is the developer's, and to do, unless said otherwise."""
        now = self._clock.now()
        wanted: dict[str, Any] = {
            "title": title or f"Work {id}",
            "status": Status.TODO,
            "agent": "developer",
            "creator": "anna",
            "shown": id,
            "created_at": now,
            "updated_at": now,
        }
        self.kept[id] = Found(ref=Ref(self.name, id), **(wanted | facts))
        return self.kept[id]

    def change(self, id: str, **facts: Any) -> None:
        """Somebody changes a piece of work: its stamp moves."""
        self.kept[id] = replace(self.kept[id], **({"updated_at": self._clock.now()} | facts))

    def status(self, id: str) -> Status:
        return self.kept[id].status

    def said(self, do: str) -> list[tuple[str, ...]]:
        return [call[1:] for call in self.done if call[0] == do]

    async def look(self, agents: Sequence[Watched]) -> Answer:
        self.asked += 1
        now: datetime = self._clock.now()
        if self.down:
            return Answer(self.name, now, trouble=self.down, detail=f"{self.name} is down")
        slugs = {agent.slug for agent in agents}
        found = [w for w in self.kept.values() if w.status not in (Status.DONE, Status.CANCELLED)]
        own = tuple(w for w in found if not slugs or w.agent is None or w.agent in slugs)
        strange = tuple(w for w in found if w not in own)
        return Answer(self.name, now, own, is_cached=self.is_cached, strange=strange)

    async def filed_since(self, moment: datetime) -> Sequence[str]:
        return [w.title for w in self.kept.values() if w.created_at and w.created_at >= moment]

    async def read(self, ref: Ref) -> Found | None:
        self._must_be_up()
        return self.kept.get(ref.id)

    async def start(self, ref: Ref, agent: str) -> None:
        self._note("start", ref, agent)
        if not self.is_driven:
            self.change(ref.id, status=Status.IN_PROGRESS)

    async def comment(self, ref: Ref, text: str) -> None:
        self._note("comment", ref, text)
        self.change(ref.id)

    async def release(self, ref: Ref, why: str) -> None:
        self._note("release", ref, why)
        self.change(ref.id, status=self._released)

    async def reopen(self, ref: Ref, why: str) -> None:
        self._note("reopen", ref, why)
        self.change(ref.id, status=Status.TODO)

    async def block(self, ref: Ref, why: str) -> None:
        self._note("block", ref, why)
        self.change(ref.id, status=self._blocked)

    async def finish(self, ref: Ref, result: str, *, is_reviewed: bool) -> None:
        self._note("finish", ref, result)
        self.change(ref.id, status=Status.DONE if is_reviewed else self._unreviewed)

    async def note_rounds(self, ref: Ref, rounds: int) -> None:
        self._note("note_rounds", ref, str(rounds))
        self.change(ref.id, rounds=rounds)

    def _note(self, do: str, ref: Ref, text: str) -> None:
        self._must_be_up()
        self.done.append((do, ref.id, text))

    def _must_be_up(self) -> None:
        if self.down is Trouble.REFUSED:
            raise refused(f"{self.name} does not let us in.")
        if self.down is Trouble.NOT_CONFIGURED:
            raise not_configured(f"{self.name} is not connected.", "Connect it.")
        if self.down:
            raise unavailable(self.down, f"{self.name} is down.")
