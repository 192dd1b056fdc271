"""What people ask of the desk in a messenger, and what it answers."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from quarterdeck.board.cards import Card, Draft, Wanted
from quarterdeck.board.model import FINAL, State
from quarterdeck.board.service import Board
from quarterdeck.crew.service import Crew
from quarterdeck.kernel.errors import Conflict, Forbidden, NotFound, QuarterdeckError
from quarterdeck.kernel.identity import Caller
from quarterdeck.pipeline.service import Engine
from quarterdeck.surfaces.desk.texts import say
from quarterdeck.surfaces.dispatcher import EventDispatcher, Handler
from quarterdeck.surfaces.protocol import (
    IncomingCallback,
    IncomingCommand,
    OutgoingEvent,
    OutgoingMessage,
)

MOST = 20
"""Items in one answer."""

LAST_EVENTS = 5
OPEN = tuple(state for state in State if state not in FINAL)
MARKS = {
    State.QUEUED: "⏳",
    State.RUNNING: "▶️",
    State.WAITING_GATE: "🚦",
    State.WAITING_APPROVAL: "📋",
    State.BLOCKED: "⛔",
    State.DONE: "✅",
    State.CANCELLED: "🚫",
}

Asking = IncomingCommand | IncomingCallback
Work = Callable[["Request"], Awaitable[str]]


@dataclass(frozen=True)
class Request:
    """Somebody of the roster asks for something."""

    caller: Caller
    event: Asking

    @property
    def args(self) -> list[str]:
        return self.event.args if isinstance(self.event, IncomingCommand) else []

    @property
    def key(self) -> str:
        """The item that is meant; empty without one."""
        return self.args[0].upper() if self.args else ""

    @property
    def rest(self) -> str:
        return " ".join(self.args[1:])

    @property
    def request_key(self) -> str:
        """The same whenever the messenger tells of this event again; empty where it gives it no name."""
        return f"{self.event.platform}/{self.event.event_id}" if self.event.event_id else ""

    def say(self, entry: str, **facts: object) -> str:
        return say(self.event.language, entry, self.event.platform, **facts)


class DeskDoors:
    """The desk's commands and buttons; `register` them on the dispatcher of the desk's bot."""

    def __init__(self, board: Board, engine: Engine, crew: Crew) -> None:
        self._board = board
        self._engine = engine
        self._crew = crew

    def register(self, dispatcher: EventDispatcher) -> None:
        """Take these commands and buttons over, `new` among them: here it files an item."""
        commands: dict[str, Work] = {
            "new": self._new,
            "items": self._items,
            "item": self._item,
            "approve": self._approve,
            "reject": self._reject,
            "status": self._status,
            "crew": self._agents,
            "backlog": self._backlog,
        }
        for name, work in commands.items():
            dispatcher.register(IncomingCommand, name, self._handler(work))
        dispatcher.register(IncomingCallback, "approve", self._handler(self._press_approve))
        dispatcher.register(IncomingCallback, "reject", self._handler(self._press_reject))

    def _handler(self, work: Work) -> Handler:
        async def handle(event: Any, **_: Any) -> Sequence[OutgoingEvent]:
            return [OutgoingMessage(event.chat_id, await self._answer(work, event))]

        return handle

    async def _answer(self, work: Work, event: Asking) -> str:
        """What comes of it, in words; errors that people can do something about among it."""
        caller = await self._crew.by_handle(event.platform, event.user_id)
        if caller is None:
            return say(event.language, "stranger", event.platform, user=event.user_id, door=event.platform)
        request = Request(caller, event)
        try:
            return await work(request)
        except QuarterdeckError as error:
            return _told(request, error)

    # Filing and looking

    async def _new(self, request: Request) -> str:
        keys = [project.key for project in (await self._board.projects(limit=100)).items]
        named = request.key.rstrip(":")
        words = request.args[1:] if named in keys else request.args
        project = named if named in keys else keys[0] if len(keys) == 1 else ""
        if not words:
            return request.say("new_usage")
        if not project:
            return request.say("which_project" if keys else "no_project", keys=", ".join(keys))
        title = " ".join(words)
        draft = Draft(project=project, title=title[:300], description=title if len(title) > 300 else "")
        card = await self._board.file(request.caller, draft, request.request_key)
        return request.say("filed", key=card.key, title=card.title, stage=card.stage)

    async def _items(self, request: Request) -> str:
        return await self._list(request, OPEN, "items")

    async def _backlog(self, request: Request) -> str:
        return await self._list(request, (State.QUEUED,), "backlog")

    async def _list(self, request: Request, states: tuple[State, ...], entry: str) -> str:
        wanted = Wanted(project=request.key or None, state=states)
        page = await self._board.items(wanted, limit=MOST)
        if not page.items:
            return request.say("no_items")
        lines = [_line(card) for card in page.items]
        more = [request.say("more")] if page.next_cursor else []
        return "\n".join([request.say(entry), *lines, *more])

    async def _item(self, request: Request) -> str:
        if not request.key:
            return request.say("item_usage")
        card = await self._board.item(request.key)
        entries = await self._last_entries(card.key)
        facts = [card.stage, request.say(card.state.value), card.assignee or "", card.note]
        told = [_line(card), " · ".join(fact for fact in facts if fact), card.description[:500], *entries]
        if card.state is State.WAITING_APPROVAL:
            told.append(request.say("decide", key=card.key))
        return "\n".join(part for part in told if part)

    async def _last_entries(self, key: str) -> list[str]:
        after, last = 0, list[str]()
        while True:
            page = await self._board.events(key, after)
            last = [*last, *(entry.text for entry in page.items)][-LAST_EVENTS:]
            if not page.next_cursor:
                return last
            after = int(page.next_cursor)

    async def _status(self, request: Request) -> str:
        counts = await self._board.counts()
        agents = await self._crew.agents()
        lines = [f"{MARKS[state]} {request.say(state.value)}: {counts.get(state, 0)}" for state in State]
        working = [agent.slug for agent in agents if agent.status == "working"]
        busy = request.say("working", names=", ".join(working) or "—")
        return "\n".join([request.say("status"), *lines, busy])

    async def _agents(self, request: Request) -> str:
        agents = await self._crew.agents()
        if not agents:
            return request.say("no_agents")
        lines = [
            f"{agent.name} ({agent.slug}): {request.say(f'agent_{agent.status}')}, "
            f"{agent.current_tasks}/{agent.max_concurrent}"
            for agent in agents
        ]
        return "\n".join([request.say("crew"), *lines])

    # Deciding

    async def _approve(self, request: Request) -> str:
        if not request.key:
            return request.say("approve_usage")
        await self._decide(request, request.key, approved=True)
        return request.say("approved", key=request.key)

    async def _reject(self, request: Request) -> str:
        if not request.key or not request.rest:
            return request.say("reject_usage", key=request.key or "ET-007")
        await self._decide(request, request.key, approved=False)
        return request.say("rejected", key=request.key)

    async def _press_approve(self, request: Request) -> str:
        approval = await self._engine.approval(_number(request))
        await self._decide(request, approval.item_key, approved=True, asked=approval.id)
        return request.say("approved", key=approval.item_key)

    async def _decide(self, request: Request, key: str, *, approved: bool, asked: UUID | None = None) -> None:
        """The same event told again decides nothing, and is answered as it was."""
        await self._engine.decide(
            key,
            request.caller,
            approved=approved,
            comment=request.rest,
            asked=asked,
            said_at=request.event.said_at,
            request_key=request.request_key,
        )

    async def _press_reject(self, request: Request) -> str:
        """A rejection needs its reason: it is asked for, and decides nothing yet."""
        approval = await self._engine.approval(_number(request))
        if approval.approved is not None:
            return request.say("already_decided", by=approval.decided_by, key=approval.item_key)
        if approval.decided_at is not None:
            return request.say("not_waiting", key=approval.item_key)
        return request.say("reject_usage", key=approval.item_key)


def _number(request: Request) -> UUID:
    """The approval whose button was pressed. Raises `NotFound` for what is none."""
    event = request.event
    payload = event.payload if isinstance(event, IncomingCallback) else {}
    try:
        return UUID(str(payload.get("approval")))
    except ValueError:
        raise NotFound("This button leads nowhere.", code="unknown_approval") from None


def _line(card: Card) -> str:
    return f"{MARKS[card.state]} {card.key} · {card.title}"


def _told(request: Request, error: QuarterdeckError) -> str:
    """An error in the person's language, where it is one that people meet; else as it is."""
    match error:
        case Forbidden():
            return request.say("forbidden")
        case Conflict(code="already_decided"):
            return request.say("already_decided", by=error.data.get("by", ""), key=request.key)
        case Conflict(code="not_waiting"):
            return request.say("not_waiting", key=error.data.get("item", request.key))
        case Conflict(code="said_before"):
            return request.say("said_before", key=request.key)
        case NotFound():
            return request.say("unknown", what=request.key or "?")
    return str(error)
