"""What the fake Bot API server keeps: bots, messages, files, topics, and how much each was told of late."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from math import ceil
from pathlib import Path
from typing import Any

from quarterdeck.kernel.clock import Clock
from tests.fakes import telegram_shapes as shapes

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


class Refusal(Exception):
    """An answer with `ok: false`."""

    def __init__(self, status: int, description: str, **parameters: Any) -> None:
        super().__init__(description)
        self.status = status
        self.body = shapes.error(status, description, parameters)


@dataclass(frozen=True)
class Upload:
    """A file that came with a request."""

    name: str
    mime_type: str
    content: bytes


@dataclass(frozen=True)
class Ask:
    """One request: for which bot, what, with which parameters and files."""

    token: str
    method: str
    body: dict[str, Any]
    files: dict[str, Upload] = field(default_factory=dict)

    def number(self, name: str, default: int = 0) -> int:
        try:
            return int(self.body.get(name) or default)
        except (TypeError, ValueError):
            raise Refusal(400, f"Bad Request: {name} must be a number") from None

    def text(self, name: str) -> str:
        return str(self.body.get(name) or "")

    @property
    def chat(self) -> str:
        return self.text("chat_id")


@dataclass
class Bot:
    """One bot. `mode` is what it does instead of working: `hang`, `flood`, `limit`; empty = it works."""

    token: str
    updates: deque[dict[str, Any]] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    poll: asyncio.Task[Any] | None = None
    allowed: set[str] | None = None
    webhook: str = ""
    commands: dict[str, Any] = field(default_factory=dict)
    topics: bool = False
    mode: str = ""
    retry_after: int = 3

    @property
    def number(self) -> int:
        return int(self.token.partition(":")[0])

    def wants(self, update: dict[str, Any]) -> bool:
        kind = next(key for key in update if key != "update_id")
        if self.allowed:
            return kind in self.allowed
        return kind not in shapes.DEFAULT_KINDS_LEFT_OUT


@dataclass(frozen=True)
class Kept:
    """A file on the server: its id for bots, its path there, what is in it."""

    file_id: str
    path: str
    content: bytes

    def shape(self) -> dict[str, Any]:
        return {
            "file_id": self.file_id,
            "file_unique_id": f"u{self.file_id}",
            "file_size": len(self.content),
        }


@dataclass(frozen=True)
class Violation:
    """A request that came too early: which limit it broke, and by how much."""

    token: str
    chat: str
    limit: str
    wait: float


@dataclass
class Limits:
    """Telegram's limits, on the clock that the client goes by.

    Sends and edits count for a chat (and a group); drafts besides these for the bot. `enforced`: what comes
    too early is answered with 429, else it is only written down in `violations`. `grace` is forgiven.
    """

    clock: Clock
    per_chat: int = 1
    per_group: int = 20
    per_bot: int = 30
    enforced: bool = True
    grace: float = 0.0
    violations: list[Violation] = field(default_factory=list)
    _past: dict[tuple[str, ...], deque[datetime]] = field(default_factory=lambda: defaultdict(deque))

    def admit(self, ask: Ask) -> None:
        """Count a request. Raises `Refusal` for one that came too early."""
        if not ask.method.startswith(("send", "edit")) or ask.method == "sendChatAction":
            return
        now = self.clock.now()
        windows = list(self._windows(ask))
        waits = [(self._wait(key, most, span, now), key[0]) for key, most, span in windows]
        wait, limit = max(waits)
        if wait > self.grace:
            self.violations.append(Violation(ask.token, ask.chat, limit, wait))
            if self.enforced:
                seconds = max(1, ceil(wait))
                raise Refusal(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)
        for key, _, _ in windows:
            self._past[key].append(now)

    def _windows(self, ask: Ask) -> Iterable[tuple[tuple[str, ...], int, timedelta]]:
        yield ("bot", ask.token), self.per_bot, SECOND
        if ask.method != "sendMessageDraft":
            yield ("chat", ask.token, ask.chat), self.per_chat, SECOND
            if ask.chat.startswith(("-", "@")):
                yield ("group", ask.token, ask.chat), self.per_group, MINUTE

    def _wait(self, key: tuple[str, ...], most: int, span: timedelta, now: datetime) -> float:
        past = self._past[key]
        while past and past[0] <= now - span:
            past.popleft()
        return (past[-most] + span - now).total_seconds() if len(past) >= most else 0.0


@dataclass
class State:
    """Everything that the server knows. Chats in no list are there and let the bot in."""

    bots: dict[str, Bot] = field(default_factory=dict)
    messages: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    drafts: dict[tuple[str, str, int], str] = field(default_factory=dict)
    files: dict[str, Kept] = field(default_factory=dict)
    topics: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    queries: set[tuple[str, str]] = field(default_factory=set)
    moved: dict[str, int] = field(default_factory=dict)
    missing_chats: set[str] = field(default_factory=set)
    blocking_chats: set[str] = field(default_factory=set)
    kicked_chats: set[str] = field(default_factory=set)
    deactivated_chats: set[str] = field(default_factory=set)
    forum_chats: set[str] = field(default_factory=set)
    local: Path | None = None
    limits: Limits | None = None
    upload_limit: int = 50 * 2**20
    download_limit: int = 20 * 2**20
    ids: Any = field(default_factory=lambda: count(1))
    update_ids: Any = field(default_factory=lambda: count(1))

    def must_reach(self, chat: str) -> None:
        """Raises `Refusal` for a chat that cannot be written to."""
        if not chat:
            raise Refusal(400, "Bad Request: chat_id is empty")
        if chat in self.missing_chats or not (chat.startswith("@") or chat.lstrip("-").isdigit()):
            raise Refusal(400, "Bad Request: chat not found")
        if chat in self.moved:
            told = "Bad Request: group chat was upgraded to a supergroup chat"
            raise Refusal(400, told, migrate_to_chat_id=self.moved[chat])
        if chat in self.blocking_chats:
            raise Refusal(403, "Forbidden: bot was blocked by the user")
        if chat in self.deactivated_chats:
            raise Refusal(403, "Forbidden: user is deactivated")
        if chat in self.kicked_chats:
            kind = shapes.chat(chat)["type"]
            raise Refusal(403, f"Forbidden: bot was kicked from the {kind} chat")

    def thread(self, chat: str, thread: int) -> dict[str, Any]:
        """The fields of a message in a topic. Raises `Refusal` for a topic that is not there."""
        if thread and thread not in self.topics[chat]:
            raise Refusal(400, "Bad Request: message thread not found")
        return shapes.in_thread(thread)

    def chat(self, chat: object) -> dict[str, Any]:
        return shapes.chat(chat, forum=str(chat) in self.forum_chats)

    def keep(self, token: str, kind: str, name: str, content: bytes) -> Kept:
        """Store a file as the server would: the local one below its folder, under the bot's token."""
        number = next(self.ids)
        ending = Path(name).suffix
        path = f"{kind}s/file_{number}{ending if ending[1:].isalnum() else ''}"
        if self.local is not None:
            place = self.local / token / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            path = str(place)
        kept = Kept(f"file-{token.partition(':')[0]}-{number}", path, content)
        self.files[kept.file_id] = kept
        return kept
