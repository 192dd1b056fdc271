"""A Telegram surface among fakes: people write, bots answer, agents repeat. Only the database is real.

async with chatting(database, tmp_path) as desk:
    await desk.writes("hello")
    assert desk.said(777) == ["You said: hello"]
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.crew.model import Person
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, Invalid
from quarterdeck.surfaces.platform import MessageChunk
from quarterdeck.surfaces.protocol import UIButton
from quarterdeck.surfaces.store import MemoryStore
from quarterdeck.surfaces.telegram.streaming import Pace
from quarterdeck.surfaces.telegram.surface import TelegramSurface, Ways
from quarterdeck.telegram.rules import update_of
from quarterdeck.telegram.splitting import split
from quarterdeck.telegram.wire import Receipt, Send, SendState
from tests.fakes.platform import FakeDelegates
from tests.fakes.telegram import parsed

ANNA = 777
QUICK = Pace(draft=0.005, edit=0.005, typing=0.005, patience=1)


@dataclass(frozen=True)
class BotCall:
    agent_id: str
    method: str
    fields: dict[str, Any]


@dataclass
class Bots:
    """Door and queue in one: what is queued is sent at once; texts are parsed as Telegram would."""

    topics: bool = False
    drafts: bool = True
    calls: list[BotCall] = field(default_factory=list)
    sent: list[Send] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """File names that Telegram does not take."""
    down: Exception | None = None
    outcome: SendState | None = None
    """What became of everything, as who waits is told."""

    def __post_init__(self) -> None:
        self._receipts: dict[str, Receipt] = {}
        self._numbers = count(1)
        self._threads = count(100)

    async def call(self, agent_id: str, method: str, **fields: Any) -> Any:
        self.calls.append(BotCall(agent_id, method, fields))
        if fields.get("parse_mode") == "HTML":
            parsed(fields["text"])
        match method:
            case "getMe":
                return {"id": 1, "username": f"{agent_id}_bot", "has_topics_enabled": self.topics}
            case "createForumTopic":
                return {"message_thread_id": next(self._threads), "name": fields["name"]}
            case "sendMessageDraft" if not self.drafts:
                raise Conflict("Not Found: method not found", code="method_missing")
        return True

    async def download(self, agent_id: str, file_id: str, folder: Path, limit: int, told: int = 0) -> Path:
        if self.down:
            raise self.down
        content = self.contents[file_id]
        if len(content) > limit:
            raise Invalid("The file is too large.", code="file_too_large")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file_id).write_bytes(content)
        return folder / file_id

    async def put(self, send: Send, unit: Unit | None = None) -> Receipt:
        if earlier := self._receipts.get(send.idempotency_key):
            return earlier
        for part in split(send.text, send.parse_mode):
            parsed(part)
        is_refused = any(file.name in self.refused for file in send.attachments)
        number = next(self._numbers)
        if not is_refused:
            self.sent.append(send)
        state = SendState.REFUSED if is_refused else SendState.SENT
        receipt = Receipt(str(number), state, (1000 + number,))
        self._receipts[send.idempotency_key or str(number)] = receipt
        self._receipts[f"id {number}"] = receipt
        return receipt

    async def earlier(self, agent_id: str, idempotency_key: str) -> Receipt | None:
        return self._receipts.get(idempotency_key)

    async def wait(self, id: str, seconds: float) -> Receipt:
        return replace(self._receipts[f"id {id}"], state=self.outcome or self._receipts[f"id {id}"].state)

    def done(self, method: str) -> list[dict[str, Any]]:
        """The fields of every call of a method."""
        return [call.fields for call in self.calls if call.method == method]


class Agents(FakeDelegates):
    """With names and workspaces."""

    def __init__(self, folder: Path, *agents: str) -> None:
        super().__init__(*agents)
        self.folder = folder

    async def names(self) -> Mapping[str, str]:
        return {agent: agent.title() for agent in self.clients}

    async def workspace(self, agent_id: str) -> Path:
        return self.folder / agent_id


class People:
    """Who is in the roster: Telegram id and agent."""

    def __init__(self, **people: str) -> None:
        self.agents = people

    async def person_by_handle(self, door: str, handle: str) -> Person | None:
        if door != "telegram" or handle not in self.agents:
            return None
        now = datetime(2026, 11, 27, tzinfo=UTC)
        return Person(slug=f"p{handle}", name="", agent=self.agents[handle], created_at=now, updated_at=now)


class ChatDesk:
    """The surface, and hands for whoever writes to it."""

    def __init__(self, database: Database, folder: Path, **ways: Any) -> None:
        self.database, self.folder = database, folder
        self.store = MemoryStore()
        self.bots = Bots()
        self.agents = Agents(folder / "agents", "helm", "galley")
        self.people = People(**{str(ANNA): "", "778": "galley"})
        self.ways = Ways(folder / "telegram", "en", pace=QUICK)
        self.ways = replace(self.ways, **ways)
        self._updates = count(1)
        self.surface = self.made()

    def made(self) -> TelegramSurface:
        """The surface as a new process has it."""
        return TelegramSurface(
            self.database, self.store, self.people, self.agents, self.bots, self.bots, self.ways
        )

    async def takes(self, raw: dict[str, Any], bot: str = "desk", *, waits: bool = True) -> None:
        """One update of a bot."""
        raw = {"update_id": raw.pop("update_id", None) or next(self._updates), **raw}
        number = 1 if bot == "desk" else 2
        await self.surface.consume(update_of(raw, bot, f"bot:{number}", datetime.now(UTC)))
        if waits:
            await self.surface.idle()

    async def writes(self, text: str = "", *, bot: str = "desk", waits: bool = True, **more: Any) -> None:
        """Somebody writes (`user`, `chat`, `thread`, and whatever a message can have)."""
        await self.takes({"message": message(text, **more)}, bot, waits=waits)

    async def presses(
        self, button: UIButton | str, *, bot: str = "desk", message_id: int = 55, **more: Any
    ) -> None:
        """Somebody presses a button, given by its data."""
        user = more.get("user", ANNA)
        query = {
            "id": "press-1",
            "from": {"id": user, "is_bot": False, "first_name": "Anna", "language_code": "en"},
            "data": button,
            "message": message("old", **more) | {"message_id": message_id},
        }
        await self.takes({"callback_query": query}, bot)

    def said(self, chat: int = ANNA, thread: int | None = None) -> list[str]:
        """The texts that were said in a chat, as people see them."""
        return [
            parsed(send.text)
            for send in self.bots.sent
            if send.chat_id == chat and (thread is None or (send.message_thread_id or 0) == thread)
            if send.text
        ]

    def asked(self, agent: str = "helm") -> list[str]:
        """What an agent was asked, without its attachments."""
        return [asked.text for asked in self.agents.clients[agent].asked]


def message(
    text: str = "", *, user: int = ANNA, chat: int | None = None, thread: int = 0, **more: Any
) -> dict[str, Any]:
    """A message as Telegram tells it."""
    place = chat or user
    told = {
        "message_id": 10,
        "date": 1_790_000_000,
        "chat": {"id": place, "type": "private" if place > 0 else "supergroup"},
        "from": {"id": user, "is_bot": False, "first_name": "Anna", "language_code": "en"},
        **more,
    }
    if text:
        told["caption" if set(told) & {"document", "photo", "voice", "video"} else "text"] = text
    if thread:
        told |= {"message_thread_id": thread, "is_topic_message": True}
    return told


@asynccontextmanager
async def chatting(database: Database, folder: Path, **ways: Any) -> AsyncIterator[ChatDesk]:
    desk = ChatDesk(database, folder, **ways)
    try:
        yield desk
    finally:
        await desk.surface.close()


@pytest.fixture
async def greeted(database: Database, tmp_path: Path) -> AsyncIterator[ChatDesk]:
    """The desk of a test, in whose files it is `desk = greeted`: Anna was welcomed, and all can begin."""
    async with chatting(database, tmp_path) as made:
        await made.writes("/start")
        made.bots.sent.clear()
        yield made


class Slowly:
    """An agent that says its words and then waits to be let go; `asked`: how often it was asked."""

    asked = 0

    def __init__(self, desk: ChatDesk, words: list[str]) -> None:
        self.desk, self.words, self._may_end = desk, words, asyncio.Event()
        desk.agents.clients["helm"].stream_message = self.stream  # type: ignore[method-assign]

    async def stream(self, *_: Any) -> AsyncIterator[MessageChunk]:
        self.asked += 1
        yield MessageChunk(self.words[0])
        yield MessageChunk(self.words[1])
        await self._may_end.wait()
        for word in self.words[2:]:
            yield MessageChunk(word)
        yield MessageChunk(finished=True)

    async def until_shown(self, method: str, chat: int = 0) -> None:
        async with asyncio.timeout(20):
            while not self.desk.bots.done(method):
                if method == "editMessageText" and chat and self.desk.said(chat):
                    return
                await asyncio.sleep(0.001)

    def end(self) -> None:
        self._may_end.set()


async def begun(desk: ChatDesk, method: str = "sendMessageDraft", **more: Any) -> Slowly:
    """An agent that never ends, and what it said first is shown."""
    slow = Slowly(desk, ["Never ", "ending", ""])
    await desk.writes("hello", waits=False, **more)
    await slow.until_shown(method, more.get("chat", 0))
    return slow
