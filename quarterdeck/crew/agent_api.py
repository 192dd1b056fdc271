"""The agent protocol over WebSocket: one connection per request, JSON frames with a `type`.

    async with connected(ws_url(base, 41), limits) as agent:
        async for event in agent.ask("hello", ["note.txt"]):
            ...

The URL's last number selects the agent's memory. Rules and frames: docs/reference/text-agents.md.
"""

import asyncio
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from quarterdeck.kernel.errors import Conflict, Invalid, Misconfigured, Unavailable

NAME = "The agent"
TAIL = re.compile(r"(/v1)?/agent_ws(/[^/]*)?$")
SCHEMES = ("http", "https", "ws", "wss")
EXCERPT = 200

_WORKSPACE = re.compile(r"^/(?:workspace|agents/[^/]+)/+")


@dataclass(frozen=True)
class Names:
    """The wire's names of events; the two of the answer itself differ between agents."""

    message: str = "USER_MESSAGE"
    status: str = "STATUS"
    text: str = "AGENT_EVENT_TEXT_CHUNK"
    file: str = "AGENT_EVENT_SEND_FILE"
    end: str = "AGENT_EVENT_END"
    error: str = "ERROR"


@dataclass(frozen=True)
class Limits:
    """Seconds for connecting with the first frame, and of silence in a turn; bytes of a frame."""

    handshake: float = 10.0
    silence: float = 300.0
    frame: int = 10_000_000


@dataclass(frozen=True)
class Text:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True)
class File:
    """A file for the user, relative to the agent's workspace."""

    path: str


@dataclass(frozen=True)
class Progress:
    """The agent is at work: a tool, its result, or something that we do not know."""

    type: str


Event = Text | File | Progress
PROGRESS = frozenset({"AGENT_EVENT_TOOL_CALL_CHUNK", "AGENT_EVENT_TOOL_RESULT", "AGENT_EVENT_CUSTOM_UPDATE"})


class UnexpectedFrame(Conflict):
    """The agent answered with something else than the protocol says; `type` names it if it has a name."""

    def __init__(self, detail: str, frame: str, kind: str = "") -> None:
        super().__init__(
            f"{detail}: {frame[:EXCERPT]}", "See that this is an agent.", code="unexpected_frame"
        )
        self.type = kind


def normalised(base: str) -> str:
    """An agent's base address: without query, fragment and a WebSocket's tail, with one slash at its end.

    The path's prefix stays, and so does the scheme. Raises `Misconfigured` when it is no address.
    """
    try:
        parts = urlsplit(base.strip())
        is_address = parts.scheme.lower() in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise Misconfigured(
            "The agent's address cannot be understood.",
            "Write it like http://host:port/agent_0/.",
            code="bad_address",
        )
    path = TAIL.sub("", parts.path.rstrip("/")).rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, f"{path}/", "", ""))


def ws_url(base: str, chat_id: int | str) -> str:
    """Where a chat of an agent is. Raises `Invalid` when the chat's id is no number."""
    if not str(chat_id).isascii() or not str(chat_id).isdigit():
        raise Invalid("A chat's id must be a number.", field="chat_id")
    return f"{normalised(base)}v1/agent_ws/{chat_id}/"


def chat_of(item_key: str) -> int:
    """The number of an item's chat: always the same one, and hardly ever another item's."""
    return int.from_bytes(hashlib.sha256(item_key.encode()).digest()[:6], "big") | 1 << 48


def relative(path: str) -> str:
    """A path as both sides mean it: below the agent's workspace."""
    return _WORKSPACE.sub("", path)


@dataclass
class ChatLocks:
    """One request at a time in a chat; different chats go on together."""

    _locks: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _users: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @asynccontextmanager
    async def held(self, chat: str) -> AsyncIterator[None]:
        self._users[chat] += 1
        try:
            async with self._locks[chat]:
                yield
        finally:
            self._users[chat] -= 1
            if not self._users[chat]:
                del self._users[chat], self._locks[chat]


class Connection:
    """An open connection to one chat; the agent has said that it is ready."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, limits: Limits, names: Names) -> None:
        self._socket = socket
        self._limits = limits
        self._names = names

    async def handshake(self) -> None:
        """Wait for the first frame. Raises `UnexpectedFrame` when it is not the agent's status."""
        frame, kind = await self._frame(self._limits.handshake)
        if kind != self._names.status:
            raise UnexpectedFrame("The agent did not begin with its status", json.dumps(frame), kind)

    async def ask(self, text: str, attachments: Sequence[str] = ()) -> AsyncGenerator[Event, None]:
        """Send a message; what the agent does about it, to its end.

        Raises `Conflict` (code `agent_error`) for the agent's own error, `UnexpectedFrame`, `Unavailable`.
        """
        paths = [relative(path) for path in attachments]
        message = {"type": self._names.message, "text": text, "attachments": paths}
        try:
            await self._socket.send_json(message)
        except (aiohttp.ClientError, OSError) as error:
            raise _broke_off(error) from None
        while True:
            frame, kind = await self._frame(self._limits.silence)
            if kind == self._names.end:
                return
            if kind == self._names.error:
                why = str(
                    frame.get("message") or frame.get("error") or frame.get("text") or "no reason given"
                )
                raise Conflict(f"The agent reported an error: {why[:EXCERPT]}", code="agent_error")
            if event := self._event(frame, kind):
                yield event

    def _event(self, frame: Mapping[str, Any], kind: str) -> Event | None:
        if kind == self._names.text:
            return Text(str(frame.get("text") or ""))
        if kind == self._names.file:
            path = frame.get("path")
            return File(relative(path)) if isinstance(path, str) and path else None
        if kind not in PROGRESS:
            import structlog  # which every agent's client would load for this line

            structlog.get_logger(__name__).info("agent_event_unknown", type=kind[:EXCERPT])
        return Progress(kind)

    async def _frame(self, seconds: float) -> tuple[dict[str, Any], str]:
        """The next frame and its type."""
        try:
            async with asyncio.timeout(seconds):
                message = await self._socket.receive()
        except TimeoutError:
            raise Unavailable(
                f"The agent said nothing for {seconds:g} s.",
                "It is tried again later.",
                code="timed_out",
                maybe_arrived=True,
            ) from None
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise _broke_off(self._socket.exception() or message.extra or message.type.name)
        try:
            frame = json.loads(message.data)
        except (ValueError, RecursionError):
            raise UnexpectedFrame("The agent sent something that is not JSON", message.data) from None
        kind = frame.get("type") if isinstance(frame, dict) else None
        if not isinstance(kind, str) or not kind:
            raise UnexpectedFrame("The agent sent a frame without a type", message.data)
        return frame, kind


def _broke_off(why: object) -> Unavailable:
    reason = str(why) or type(why).__name__
    return Unavailable(
        f"The agent broke off the connection: {reason[:EXCERPT]}.",
        "It is tried again later.",
        code="broken_off",
        maybe_arrived=True,
    )


@asynccontextmanager
async def connected(
    url: str,
    limits: Limits | None = None,
    names: Names | None = None,
    *,
    heartbeat: float | None = None,
    on_open: Callable[[], None] = lambda: None,
) -> AsyncIterator[Connection]:
    """A connection to a chat whose agent is ready; closed in every case.

    Raises `Unavailable` (down, silent), `Conflict` (refused), `UnexpectedFrame`.
    """
    limits = limits or Limits()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.handshake)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            async with asyncio.timeout(limits.handshake):
                socket = await session.ws_connect(url, heartbeat=heartbeat, max_msg_size=limits.frame)
        except aiohttp.WSServerHandshakeError as error:
            if error.status >= 500 or error.status in (408, 429):
                raise Unavailable(
                    f"The agent answered {error.status}.", "It is tried again later.", code="server_error"
                ) from None
            raise Conflict(
                f"The agent refused: {error.status}.",
                "Check its address.",
                code="refused",
                status=error.status,
            ) from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(
                f"The agent cannot be reached: {reason[:EXCERPT]}.",
                "It is tried again later.",
                code="unreachable",
            ) from None
        try:
            on_open()
            agent = Connection(socket, limits, names or Names())
            await agent.handshake()
            yield agent
        finally:
            await socket.close()
