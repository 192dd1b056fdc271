"""A small working Bot API server on a loopback port.

    with FakeTelegram() as telegram:
        ...                                     # point TELEGRAM_API_BASE at telegram.base
        telegram.fail("sendMessage", 429, "Too Many Requests: retry after 3", retry_after=3)
        telegram.say("/start")                  # somebody writes to the bot
        assert telegram.texts() == ["…"]

It runs in a thread of its own, so a test may block while programs talk to it. What it was asked is kept in
order, with times. Faults are switched by the test; bad markup, long texts, wrong tokens and unknown chats are
refused as Telegram does. `Limits` on the client's clock make it count, and refuse with 429, what comes too
early. With `local` it is a local server: files lie below that folder and are named by absolute paths.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.fakes import telegram_shapes as shapes
from tests.fakes.telegram_http import Answer, Door
from tests.fakes.telegram_methods import Methods, parse
from tests.fakes.telegram_state import Ask, Bot, Limits, Refusal, State, Violation

__all__ = [
    "CHAT",
    "GROUP",
    "TOKEN",
    "Call",
    "FakeTelegram",
    "Limits",
    "Refusal",
    "Violation",
    "parsed",
    "token_of",
]

TOKEN = "7000000001:AAFakeTokenForTestsOnly-0123456789abc"
CHAT = 1001
GROUP = -1002003004005


def token_of(number: int) -> str:
    """A token of another bot."""
    return f"{7000000000 + number}:AAFakeTokenForTestsOnly-{number:013d}"


def parsed(text: str) -> str:
    """An HTML text without its markup. Raises `Refusal` for what Telegram cannot parse."""
    return parse(text, "HTML").shown


@dataclass(frozen=True)
class Call:
    """One request that arrived. `at` is monotonic seconds; `answer` is None when none was given."""

    method: str
    token: str
    body: dict[str, Any]
    at: float
    answer: dict[str, Any] | None

    @property
    def ok(self) -> bool:
        return bool(self.answer and self.answer["ok"])


@dataclass
class _Fault:
    """What happens instead of an answer. `worked` = the request had its effect all the same."""

    method: str
    chat: str | None
    times: int
    worked: bool = False
    refusal: Refusal | None = None
    hangs: bool = False
    raw: tuple[int, bytes] | None = None
    token: str | None = None

    def meets(self, ask: Ask) -> bool:
        return (
            self.times > 0
            and self.method in ("*", ask.method)
            and self.chat in (None, ask.chat)
            and self.token in (None, ask.token)
        )


class FakeTelegram:
    """Knows the bots of `tokens`, and any chat that is not in `missing_chats`, `blocking_chats` and so on."""

    def __init__(
        self, *tokens: str, local: Path | None = None, limits: Limits | None = None, topics: bool = False
    ) -> None:
        self.tokens: tuple[str, ...] = ()
        self.calls: list[Call] = []
        self.state = State(local=local, limits=limits)
        self.missing_chats = self.state.missing_chats
        self.blocking_chats = self.state.blocking_chats
        self.kicked_chats = self.state.kicked_chats
        self.deactivated_chats = self.state.deactivated_chats
        self.forum_chats = self.state.forum_chats
        for token in tokens or (TOKEN,):
            self.add_bot(token, topics=topics)
        self._methods = Methods(self.state)
        self._faults: list[_Fault] = []
        self._door = Door(self._answer, self._file)

    # The server

    @property
    def port(self) -> int:
        return self._door.port

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._door.start()
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._door.stop()

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._door.run(self._door.up())

    def down(self) -> None:
        """Stop listening and break every connection, long polls among them."""
        self._door.run(self._door.down())

    # Bots and chats

    def add_bot(self, token: str, *, topics: bool = False) -> None:
        """One more bot; with `topics`, its private chats have topics."""
        self.state.bots[token] = Bot(token, topics=topics)
        self.tokens = tuple(self.state.bots)

    def revoke(self, token: str) -> None:
        """Its owner asked BotFather for a new token: this one is answered with 401."""
        del self.state.bots[token]
        self.tokens = tuple(self.state.bots)

    def mode(self, token: str, mode: str, *, retry_after: int = 3) -> None:
        """What a bot does from now on: `hang`, `flood` (polls never end), `limit` (429), or work ("")."""
        self.state.bots[token].mode = mode
        self.state.bots[token].retry_after = retry_after

    def is_polled(self, token: str | None = None) -> bool:
        """Whether somebody waits for the bot's updates now."""
        return self.state.bots[token or self.tokens[0]].poll is not None

    def unread(self, token: str | None = None) -> int:
        """How many updates of a bot are not acknowledged."""
        return len(self.state.bots[token or self.tokens[0]].updates)

    def migrate(self, old: int, new: int, *, told: bool = True) -> None:
        """A group became a supergroup: the old one takes nothing more, and messages are numbered anew.

        All bots are told in both chats, unless they were away for longer than updates are kept.
        """
        self.state.moved[str(old)] = new
        if not told:
            return
        for token in self.tokens:
            for service in shapes.migrated(self.state.chat(old), self.state.chat(new), next(self.state.ids)):
                self.update({"message": service}, token=token)

    def topic(self, name: str, *, chat: int = CHAT) -> int:
        """A person opens a topic; returns its thread."""
        thread = next(self.state.ids)
        self.state.topics[str(chat)][thread] = name
        return thread

    # Faults

    def fail(
        self,
        method: str,
        status: int,
        description: str,
        *,
        chat: object = None,
        times: int = 1,
        token: str | None = None,
        **parameters: Any,
    ) -> None:
        """Refuse the next `times` calls of a method (`*` = of any), to one chat, of one bot."""
        refusal = Refusal(status, description, **parameters)
        self._faults.append(_Fault(method, _text(chat), times, refusal=refusal, token=token))

    def hang(
        self,
        method: str = "sendMessage",
        *,
        chat: object = None,
        times: int = 1,
        worked: bool = False,
        token: str | None = None,
    ) -> None:
        """Never answer the next `times` calls."""
        self._faults.append(_Fault(method, _text(chat), times, worked=worked, hangs=True, token=token))

    def drop(
        self, method: str = "sendMessage", *, chat: object = None, times: int = 1, worked: bool = False
    ) -> None:
        """Break the connection instead of answering; with `worked` after the message was taken."""
        self._faults.append(_Fault(method, _text(chat), times, worked=worked))

    def babble(self, method: str, status: int, body: bytes, *, times: int = 1) -> None:
        """Answer as something that is not Telegram: a proxy's error page, for example."""
        self._faults.append(_Fault(method, None, times, raw=(status, body)))

    def calm(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    # What people did and see

    def say(
        self, text: str, *, chat: int = CHAT, user: int = 42, token: str | None = None, **more: Any
    ) -> int:
        """A person writes to the bot; returns the update's id."""
        content = {"text": text, **_command(text), **more}
        return self.update({"message": self._written(chat, user, token, content)}, token=token)

    def hand_over(
        self,
        kind: str,
        content: bytes,
        *,
        name: str = "",
        mime: str = "",
        chat: int = CHAT,
        user: int = 42,
        token: str | None = None,
        **more: Any,
    ) -> int:
        """A person sends a file (`document`, `photo`, `voice`, ...); returns the update's id."""
        kept = self.state.keep(token or self.tokens[0], kind, name, content)
        field = {kind: shapes.media(kind, kept.shape(), name, mime)}
        return self.update({"message": self._written(chat, user, token, field | more)}, token=token)

    def press(
        self, data: str, message_id: int, *, chat: int = CHAT, user: int = 42, token: str | None = None
    ) -> int:
        """A person presses a button below a message; returns the update's id."""
        token = token or self.tokens[0]
        query = {
            "id": str(next(self.state.ids)),
            "from": shapes.person(user),
            "message": self.state.messages[token, message_id],
            "chat_instance": str(chat),
            "data": data,
        }
        self.state.queries.add((token, query["id"]))
        return self.update({"callback_query": query}, token=token)

    def update(self, content: dict[str, Any], *, token: str | None = None) -> int:
        """Queue any update for a bot, at once; returns its id."""
        number = next(self.state.update_ids)
        bot = self.state.bots[token or self.tokens[0]]
        frozen = json.loads(json.dumps({"update_id": number, **content}))
        if bot.wants(frozen):
            bot.updates.append(frozen)
            self._door.loop.call_soon_threadsafe(bot.arrived.set)
        return number

    def sent(self, chat: object = None) -> list[Call]:
        """The `sendMessage` calls that succeeded, in order."""
        return [call for call in self.done("sendMessage") if chat is None or call.body["chat_id"] == chat]

    def texts(self, chat: object = None) -> list[str]:
        """What people were sent, as it was sent."""
        return [call.body["text"] for call in self.sent(chat)]

    def done(self, method: str, *, chat: object = None, token: str | None = None) -> list[Call]:
        """The calls of a method that succeeded, in order."""
        return [
            call
            for call in self.calls
            if call.method == method
            and call.ok
            and (chat is None or str(call.body.get("chat_id")) == str(chat))
            and token in (None, call.token)
        ]

    def shown(self, chat: object = CHAT, *, token: str | None = None) -> list[dict[str, Any]]:
        """The messages of a bot's chat as they stand there now, in order."""
        wanted = token or self.tokens[0]
        stored = list(self.state.messages.items())
        return [one for (owner, _), one in stored if owner == wanted and str(one["chat"]["id"]) == str(chat)]

    def draft(self, chat: object = CHAT, *, thread: int = 0, token: str | None = None) -> str | None:
        """The draft that a person sees being written; None without one."""
        return self.state.drafts.get((token or self.tokens[0], str(chat), thread))

    @property
    def violations(self) -> list[Violation]:
        """What came too early for the limits."""
        return self.state.limits.violations if self.state.limits else []

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Block until the condition holds. Raises `TimeoutError`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                got = [call.method for call in self.calls[-50:]]
                raise TimeoutError(f"not so within {seconds} s; got {got}")
            time.sleep(0.01)

    def _written(self, chat: int, user: int, token: str | None, content: dict[str, Any]) -> dict[str, Any]:
        """A message of a person, kept like any other."""
        thread = content.pop("message_thread_id", None)
        if thread:
            self.state.topics[str(chat)].setdefault(thread, f"Topic {thread}")
        who, where = shapes.person(user), self.state.chat(chat)
        message = shapes.message(next(self.state.ids), where, who, **shapes.in_thread(thread), **content)
        self.state.messages[token or self.tokens[0], message["message_id"]] = message
        return message

    # Answers

    async def _answer(self, ask: Ask) -> Answer:
        fault = next((fault for fault in self._faults if fault.meets(ask)), None)
        if fault is not None:
            fault.times -= 1
        if fault is not None and not fault.worked:
            told = fault.refusal.body if fault.refusal else None
        else:
            told = await self._do(ask)
        self.calls.append(Call(ask.method, ask.token, ask.body, time.monotonic(), told))
        if fault.hangs if fault is not None else told is None:
            return await _never()
        if fault is not None and fault.raw:
            return Answer(*fault.raw)
        if told is None or (fault is not None and fault.worked):
            return Answer(drops=True)
        return Answer(told.get("error_code", 200), json.dumps(told).encode(), _headers(told))

    async def _do(self, ask: Ask) -> dict[str, Any] | None:
        """The answer as Telegram would give it; None while the bot hangs."""
        try:
            if not re.fullmatch(r"\d+:[\w-]+", ask.token):
                raise Refusal(404, "Not Found")
            if ask.token not in self.state.bots:
                raise Refusal(401, "Unauthorized")
            bot = self.state.bots[ask.token]
            if bot.mode == "hang":
                return None
            if bot.mode == "limit":
                wait = bot.retry_after
                raise Refusal(429, f"Too Many Requests: retry after {wait}", retry_after=wait)
            return {"ok": True, "result": await self._methods.answer(ask)}
        except Refusal as refusal:
            return refusal.body

    def _file(self, token: str, path: str) -> Answer:
        found = [kept for kept in list(self.state.files.values()) if kept.path == path]
        if token not in self.state.bots or self.state.local is not None or not found:
            return Answer(404, b'{"ok":false,"error_code":404,"description":"Not Found"}')
        return Answer(200, found[0].content, kind="application/octet-stream")


async def _never() -> Answer:
    """Until the client goes away."""
    await asyncio.Event().wait()
    raise AssertionError


def _headers(answer: dict[str, Any]) -> dict[str, str]:
    wait = answer.get("parameters", {}).get("retry_after")
    return {"Retry-After": str(wait)} if wait is not None else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _command(text: str) -> dict[str, Any]:
    """The entity that marks a command."""
    found: Iterable[re.Match[str]] = re.finditer(r"(?<!\S)/\w+(@\w+)?", text)
    marks = [
        {"type": "bot_command", "offset": one.start(), "length": len(one[0])}
        for one in found
        if text.isascii() or one.start() == 0
    ]
    return {"entities": marks} if marks else {}
