"""A small working Bot API server on a loopback port.

    with FakeTelegram() as telegram:
        ...                                     # point TELEGRAM_API_BASE at telegram.base
        telegram.fail("sendMessage", 429, "Too Many Requests: retry after 3", retry_after=3)
        assert telegram.texts() == ["…"]

It runs in a thread of its own, so a test may block while programs talk to it. What it was asked is kept in
order, with times. Faults are switched by the test; bad HTML, long texts, wrong tokens and unknown chats are
refused as Telegram does.
"""

import asyncio
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import h11

TOKEN = "7000000001:AAFakeTokenForTestsOnly-0123456789abc"
CHAT = 1001
GROUP = -1002003004005


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
    refusal: "Refusal | None" = None
    hangs: bool = False
    raw: tuple[int, bytes] | None = None


class Refusal(Exception):
    """An answer with `ok: false`."""

    def __init__(self, status: int, description: str, **parameters: Any) -> None:
        super().__init__(description)
        self.status = status
        self.body: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
        if parameters:
            self.body["parameters"] = parameters


class _Drop(Exception):
    """The connection breaks without an answer."""


@dataclass
class _Bot:
    updates: deque[dict[str, Any]] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class FakeTelegram:
    """Knows the bots of `tokens`, and any chat that is not in `missing_chats` or `blocking_chats`."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens or (TOKEN,)
        self.calls: list[Call] = []
        self.missing_chats: set[str] = set()
        self.blocking_chats: set[str] = set()
        self.port = 0
        self._faults: list[_Fault] = []
        self._messages: dict[tuple[str, int], dict[str, Any]] = {}
        self._bots = {token: _Bot() for token in self.tokens}
        self._last_id = 0
        self._last_update = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-telegram", daemon=True)

    # For tests

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._run(self._up())

    def down(self) -> None:
        """Stop listening and break every connection."""
        self._run(self._down())

    def fail(
        self,
        method: str,
        status: int,
        description: str,
        *,
        chat: object = None,
        times: int = 1,
        **parameters: Any,
    ) -> None:
        """Refuse the next `times` calls (to one chat)."""
        refusal = Refusal(status, description, **parameters)
        self._faults.append(_Fault(method, _text(chat), times, refusal=refusal))

    def hang(
        self, method: str = "sendMessage", *, chat: object = None, times: int = 1, worked: bool = False
    ) -> None:
        """Never answer the next `times` calls."""
        self._faults.append(_Fault(method, _text(chat), times, worked=worked, hangs=True))

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

    def sent(self, chat: object = None) -> list[Call]:
        """The `sendMessage` calls that succeeded, in order."""
        return [
            call
            for call in self.calls
            if call.method == "sendMessage" and call.ok and chat in (None, call.body["chat_id"])
        ]

    def texts(self, chat: object = None) -> list[str]:
        """What people have read, as it was sent."""
        return [call.body["text"] for call in self.sent(chat)]

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Block until the condition holds. Raises `TimeoutError`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so within {seconds} s; got {[call.method for call in self.calls]}")
            time.sleep(0.01)

    def say(
        self, text: str, *, chat: int = CHAT, user: int = 42, token: str | None = None, **more: Any
    ) -> int:
        """A person writes to the bot; returns the update's id."""
        message = {
            "message_id": self._next_id(),
            "date": int(time.time()),
            "chat": _chat(chat),
            "from": {"id": user, "is_bot": False, "first_name": f"Person {user}"},
            "text": text,
            **more,
        }
        return self.update({"message": message}, token=token)

    def press(
        self, data: str, message_id: int, *, chat: int = CHAT, user: int = 42, token: str | None = None
    ) -> int:
        """A person presses a button below a message; returns the update's id."""
        token = token or self.tokens[0]
        query = {
            "id": str(self._next_id()),
            "from": {"id": user, "is_bot": False, "first_name": f"Person {user}"},
            "message": self._messages[token, message_id],
            "chat_instance": str(chat),
            "data": data,
        }
        return self.update({"callback_query": query}, token=token)

    def update(self, content: dict[str, Any], *, token: str | None = None) -> int:
        """Queue any update for a bot; returns its id."""
        self._last_update += 1
        update = {"update_id": self._last_update, **content}
        self._loop.call_soon_threadsafe(self._queue, token or self.tokens[0], update)
        return self._last_update

    # The server

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _queue(self, token: str, update: dict[str, Any]) -> None:
        self._bots[token].updates.append(update)
        self._bots[token].arrived.set()

    async def _up(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._converse(reader, writer)
        except (_Drop, OSError, h11.RemoteProtocolError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one kept-alive connection, one after the other."""
        wire = h11.Connection(h11.SERVER)
        while True:
            request, body = await _read(wire, reader)
            if request is None:
                return
            status, answer, headers = await self._answer(request, body)
            told = [("Content-Type", "application/json"), ("Content-Length", str(len(answer))), *headers]
            writer.write(wire.send(h11.Response(status_code=status, headers=told)) or b"")
            writer.write(wire.send(h11.Data(data=answer)) or b"")
            writer.write(wire.send(h11.EndOfMessage()) or b"")
            await writer.drain()
            if wire.our_state is h11.MUST_CLOSE:
                return
            wire.start_next_cycle()

    async def _answer(self, request: h11.Request, raw: bytes) -> tuple[int, bytes, list[tuple[str, str]]]:
        path = urlsplit(request.target.decode())
        match = re.fullmatch(r"/bot([^/]+)/(\w+)", path.path)
        token, method = match.groups() if match else ("", "")
        body = _body(request, raw, path.query)
        fault = self._fault(method, str(body.get("chat_id", "")))
        if fault is not None and not fault.worked:
            answer, refusal = None, fault.refusal
        else:
            answer, refusal = await self._do(token, method, body)
        told = refusal.body if refusal else answer
        self.calls.append(Call(method, token, body, time.monotonic(), told))
        if fault is not None and fault.hangs:
            await asyncio.Event().wait()
        if fault is not None and fault.raw:
            return fault.raw[0], fault.raw[1], []
        if told is None or (fault is not None and fault.worked):
            raise _Drop
        return (refusal.status if refusal else 200), json.dumps(told).encode(), _headers(told)

    def _fault(self, method: str, chat: str) -> _Fault | None:
        for fault in self._faults:
            if fault.method == method and fault.chat in (None, chat) and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    async def _do(
        self, token: str, method: str, body: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, Refusal | None]:
        try:
            if not re.fullmatch(r"\d+:[\w-]+", token):
                raise Refusal(404, "Not Found")
            if token not in self.tokens:
                raise Refusal(401, "Unauthorized")
            work = getattr(self, f"_do_{method}", None)
            if work is None:
                raise Refusal(404, "Not Found: method not found")
            return {"ok": True, "result": await work(token, body)}, None
        except Refusal as refusal:
            return None, refusal

    # The methods

    async def _do_getMe(self, token: str, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return _me(token)

    async def _do_sendMessage(self, token: str, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._must_reach(str(body.get("chat_id", "")))
        message = {
            "message_id": self._next_id(),
            "date": int(time.time()),
            "chat": _chat(body["chat_id"]),
            "from": _me(token),
            "text": readable(body),
        }
        if "message_thread_id" in body:
            message |= {"message_thread_id": int(body["message_thread_id"]), "is_topic_message": True}
        if "reply_markup" in body:
            message["reply_markup"] = _structured(body["reply_markup"])
        self._messages[token, message["message_id"]] = message
        return message

    async def _do_editMessageText(self, token: str, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        message = self._messages.get((token, int(body.get("message_id", 0))))
        if message is None:
            raise Refusal(400, "Bad Request: message to edit not found")
        text, markup = readable(body), _structured(body.get("reply_markup"))
        if text == message["text"] and markup == message.get("reply_markup"):
            raise Refusal(400, "Bad Request: message is not modified")
        message |= {"text": text, "edit_date": int(time.time())}
        message.pop("reply_markup", None)
        if markup:
            message["reply_markup"] = markup
        return message

    async def _do_getUpdates(self, token: str, body: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: N802
        """Long polling: `offset` forgets everything before it, `timeout` waits for the first."""
        bot, offset = self._bots[token], int(body.get("offset", 0))
        while bot.updates and bot.updates[0]["update_id"] < offset:
            bot.updates.popleft()
        if not bot.updates:
            bot.arrived.clear()
            try:
                await asyncio.wait_for(bot.arrived.wait(), float(body.get("timeout", 0)))
            except TimeoutError:
                return []
        return list(bot.updates)[: int(body.get("limit", 100))]

    async def _do_answerCallbackQuery(self, token: str, body: dict[str, Any]) -> bool:  # noqa: N802
        if not body.get("callback_query_id"):
            raise Refusal(400, "Bad Request: query ID is invalid")
        return True

    async def _do_deleteMessage(self, token: str, body: dict[str, Any]) -> bool:  # noqa: N802
        if self._messages.pop((token, int(body.get("message_id", 0))), None) is None:
            raise Refusal(400, "Bad Request: message to delete not found")
        return True

    async def _done(self, token: str, body: dict[str, Any]) -> bool:
        return True

    _do_deleteWebhook = _done  # noqa: N815
    _do_sendChatAction = _done  # noqa: N815
    _do_setMyCommands = _done  # noqa: N815

    def _must_reach(self, chat: str) -> None:
        if not chat or chat in self.missing_chats:
            raise Refusal(400, "Bad Request: chat not found")
        if chat in self.blocking_chats:
            raise Refusal(403, "Forbidden: bot was blocked by the user")

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id


async def _read(wire: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Request | None, bytes]:
    request, body = None, b""
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return request, body
        else:
            return None, b""


def _body(request: h11.Request, raw: bytes, query: str) -> dict[str, Any]:
    """Parameters come as JSON, as a form, or in the address."""
    kind = dict(request.headers).get(b"content-type", b"")
    if kind.startswith(b"application/json"):
        return {**dict(parse_qsl(query)), **json.loads(raw or b"{}")}
    form = parse_qsl(raw.decode()) if kind.startswith(b"application/x-www-form-urlencoded") else []
    return dict([*parse_qsl(query), *form])


def _headers(answer: dict[str, Any]) -> list[tuple[str, str]]:
    wait = answer.get("parameters", {}).get("retry_after")
    return [("Retry-After", str(wait))] if wait is not None else []


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _structured(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _me(token: str) -> dict[str, Any]:
    number = int(token.partition(":")[0])
    return {"id": number, "is_bot": True, "first_name": "Fake", "username": f"fake_{number}_bot"}


def _chat(chat: object) -> dict[str, Any]:
    number = int(str(chat)) if str(chat).lstrip("-").isdigit() else 1
    return {"id": number, "type": "private" if number > 0 else "supergroup"}


# What a text may be

LONGEST = 4096
TAGS = {"b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "span", "tg-spoiler"}
TAGS |= {"a", "code", "pre", "blockquote", "tg-emoji", "tg-time"}


def readable(body: dict[str, Any]) -> str:
    """The text as people see it. Raises `Refusal` as Telegram would."""
    text = str(body.get("text", ""))
    if str(body.get("parse_mode", "")).upper() == "HTML":
        text = parsed(text)
    if not text.strip():
        raise Refusal(400, "Bad Request: message text is empty")
    if len(text.encode("utf-16-le")) // 2 > LONGEST:
        raise Refusal(400, "Bad Request: message is too long")
    return text


def parsed(text: str) -> str:
    """The text without markup. Raises `Refusal` for what Telegram cannot parse."""
    if re.search(r"<(?![a-zA-Z/])|<[^>]*$", text):
        raise _unparsable("unclosed or empty start tag")
    parser = _Parser()
    parser.feed(text)
    parser.close()
    if parser.opened:
        raise _unparsable(f"can't find end tag corresponding to start tag {parser.opened[-1]!r}")
    return "".join(parser.text)


def _unparsable(why: str) -> Refusal:
    return Refusal(400, f"Bad Request: can't parse entities: {why}")


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.text: list[str] = []
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            raise _unparsable(f"unsupported start tag {tag!r}")
        self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.opened or self.opened.pop() != tag:
            raise _unparsable(f"unmatched end tag {tag!r}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_entityref(self, name: str) -> None:
        known = {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}
        self.text.append(known.get(name, f"&{name}"))

    def handle_charref(self, name: str) -> None:
        self.text.append(chr(int(name[1:], 16) if name[:1] in "xX" else int(name)))
