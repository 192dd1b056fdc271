"""Telegram's limits of one bot: 30 requests a second, 1 a second in a chat, 20 a minute in a group.

Source: Telegram's FAQ for bots, "My bot is hitting limits". A 429 overrules them all and is obeyed exactly.
Time comes from the clock that is given, and waiting is done by `sleep`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from quarterdeck.kernel.clock import Clock
from quarterdeck.telegram.rules import is_group

Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True)
class Window:
    """At most `count` requests in any span of this length."""

    count: int
    span: timedelta


OF_BOT = (Window(30, timedelta(seconds=1)),)
OF_CHAT = (Window(1, timedelta(seconds=1)),)
OF_GROUP = (*OF_CHAT, Window(20, timedelta(minutes=1)))


@dataclass
class Request:
    """One request. It may arrive as late as its answer: until then (`at` is None) it counts as of now."""

    at: datetime | None = None


@dataclass
class _Line:
    """What has windows: a bot, or a chat."""

    windows: tuple[Window, ...]
    requests: list[Request] = field(default_factory=list)
    closed_until: datetime | None = None

    def next_slot(self, now: datetime) -> datetime:
        past = sorted(request.at or now for request in self.requests)
        slots = [past[-w.count] + w.span for w in self.windows if len(past) >= w.count]
        return max([now, *slots, *([self.closed_until] if self.closed_until else [])])

    def forget(self, now: datetime) -> None:
        horizon = now - max(window.span for window in self.windows)
        self.requests = [request for request in self.requests if (request.at or now) > horizon]
        if self.closed_until and self.closed_until <= now:
            self.closed_until = None

    @property
    def is_idle(self) -> bool:
        return not self.requests and self.closed_until is None


class Limiter:
    """Lets requests through one by one."""

    def __init__(self, clock: Clock, sleep: Sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._bot = _Line(OF_BOT)
        self._chats: dict[str, _Line] = {}

    @asynccontextmanager
    async def turn(self, chat: str | None = None) -> AsyncIterator[None]:
        """Wait until a request (to that chat) breaks no limit, and send it inside of this."""
        request = await self._granted(chat)
        try:
            yield
        finally:
            request.at = self._clock.now()

    async def _granted(self, chat: str | None) -> Request:
        while True:
            now = self._clock.now()
            lines = (self._bot, *([self._chat(chat)] if chat else []))
            for line in lines:
                line.forget(now)
            slot = max(line.next_slot(now) for line in lines)
            if slot <= now:
                request = Request()
                for line in lines:
                    line.requests.append(request)
                return request
            await self._sleep((slot - now).total_seconds())

    def close(self, chat: str | None, until: datetime) -> None:
        """Telegram wants peace: in that chat, and everywhere when it says so for a second one meanwhile."""
        if chat is None or any(line.closed_until for name, line in self._other_chats(chat)):
            self._bot.closed_until = max(until, self._bot.closed_until or until)
        if chat is not None:
            line = self._chat(chat)
            line.closed_until = max(until, line.closed_until or until)

    def remember(self, chat: str, at: datetime) -> None:
        """A request of an earlier process, which still counts."""
        line = self._chat(chat)
        request = Request(at)
        self._bot.requests.append(request)
        line.requests.append(request)

    def _other_chats(self, chat: str) -> Iterator[tuple[str, _Line]]:
        now = self._clock.now()
        for name, line in self._chats.items():
            if name != chat and line.closed_until and line.closed_until > now:
                yield name, line

    def _chat(self, chat: str) -> _Line:
        line = self._chats.get(chat)
        if line is None:
            self._forget_idle_chats()
            line = self._chats[chat] = _Line(OF_GROUP if is_group(chat) else OF_CHAT)
        return line

    def _forget_idle_chats(self) -> None:
        if len(self._chats) < 1_000:
            return
        now = self._clock.now()
        for line in self._chats.values():
            line.forget(now)
        self._chats = {name: line for name, line in self._chats.items() if not line.is_idle}
