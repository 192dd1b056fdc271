"""A small working OpenClaw gateway, with the real one's surprises (measured on OpenClaw 2026.9.6).

    async with FakeOpenClaw() as gateway:
        gateway.says("=== docs/a.md ===\\nHello")     # the next turns; the last one stays
        ...                                          # gateway.url, GATEWAY_TOKEN, HOOKS_TOKEN
        assert len(gateway.turns) == 1

A turn in chat is that agent's whose name stands in the session key, whatever the model says; a key without
one is the default agent's, `main`. Its two tokens are good for their own paths only; errors of /hooks are
plain text where the real ones are; unknown paths answer 200 with a page. A chat turn ends when its caller
hangs up, a hook turn does not. One session works on one turn at a time: chat waits, hooks give up after
`admission` seconds with a 503. After a restart an interrupted turn is resumed by itself, under another run
id; idempotency keys are forgotten. Beside it stands what a plain model would answer, at the same address.
"""

import asyncio
import json
import time
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self

from aiohttp import WSMsgType, web

GATEWAY_TOKEN, HOOKS_TOKEN = "gateways-token-00001", "hooks-token-0000001"
PAGE = ("<!doctype html><title>OpenClaw</title>", "text/html")
NOTHING_SAID = "No response from OpenClaw."


@dataclass
class Reply:
    """How the model behind a turn behaves. A turn by hook goes on when `released`, if that is given.

    `is_cut`: it stops at its limit of tokens.
    """

    text: str = "Done."
    seconds: float = 0.0
    status: int = 200
    plain_error: bool = False
    breaks_off: bool = False
    repeat: int = 1
    fails: bool = False
    is_cut: bool = False
    released: asyncio.Event | None = None

    @property
    def stop(self) -> str:
        """Why its model stopped, as a history tells it."""
        return "error" if self.fails else "length" if self.is_cut else "stop"


@dataclass
class Turn:
    """One turn that was begun."""

    session: str
    message: str
    run_id: str
    model: str = ""
    is_over: bool = False
    was_aborted: bool = False


@dataclass
class _Session:
    lane: asyncio.Lock = field(default_factory=asyncio.Lock)
    messages: list[dict[str, Any]] = field(default_factory=list)
    working: asyncio.Task[Any] | None = None


class FakeOpenClaw:
    """Listens on a free port of the loopback from `async with` on."""

    def __init__(
        self, *, admission: float = 0.3, resumes: bool = True, agents: tuple[str, ...] = ("main",)
    ) -> None:
        self.agents = agents
        self.admission = admission
        self.resumes = resumes
        self.turns: list[Turn] = []
        self.calls: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.woken: list[dict[str, Any]] = []
        self.aborted: list[str] = []
        self.port = 0
        self._replies: deque[Reply] = deque([Reply()])
        self._sessions: dict[str, _Session] = defaultdict(_Session)
        self._runs: dict[str, tuple[str, asyncio.Task[str]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._runner: web.AppRunner | None = None
        self._began = time.monotonic()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def says(self, *replies: Reply | str) -> None:
        """What the next turns answer; the last one again and again."""
        self._replies = deque(Reply(r) if isinstance(r, str) else r for r in replies)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; on the same port as before after a stop. Interrupted turns go on in a moment."""
        app = web.Application(client_max_size=30_000_000)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/sessions/{key}/history", self._history)
        app.router.add_post("/hooks/agent", self._agent)
        app.router.add_post("/hooks/wake", self._wake)
        app.router.add_route("*", "/{rest:.*}", self._other)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._began = time.monotonic()
        interrupted = [turn for turn in self.turns if not turn.is_over and not turn.was_aborted]
        self._runs.clear()
        if self.resumes:
            for turn in interrupted:
                self._spawn(self._resume(turn))

    async def stop(self) -> None:
        """As by kill -9: whoever is connected is cut off, whatever runs is interrupted."""
        assert self._runner is not None
        for task in (*self._tasks, *(s.working for s in self._sessions.values() if s.working)):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()
        for session in self._sessions.values():
            session.lane, session.working = asyncio.Lock(), None

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _resume(self, turn: Turn) -> None:
        again = "[System] Your previous turn was interrupted by a gateway restart. Continue."
        session = self._sessions[turn.session]
        async with session.lane:
            await asyncio.sleep(0.2)
            reply = self._reply()
            _said(session, "user", again, "", 0)
            await asyncio.sleep(reply.seconds)
            _said(session, "assistant", reply.text * reply.repeat, str(uuid.uuid4()), 120)
            turn.is_over = True

    def _reply(self) -> Reply:
        return self._replies.popleft() if len(self._replies) > 1 else self._replies[0]

    # Turns

    @asynccontextmanager
    async def _turn(
        self, key: str, message: str, run_id: str, model: str = ""
    ) -> AsyncIterator[tuple[Turn, Reply]]:
        """One after the other in a session; hanging up ends it, a stop of the gateway interrupts it."""
        session = self._sessions[_full(key)]
        async with session.lane:
            turn = Turn(_full(key), message, run_id, model)
            self.turns.append(turn)
            session.working = asyncio.current_task()
            _said(session, "user", message, "", 0)
            reply = self._reply()
            try:
                yield turn, reply
                text = reply.text * min(reply.repeat, 1000)
                _said(session, "assistant", text, run_id, 120, reply.stop)
                turn.is_over = True
            finally:
                session.working = None

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if refused := self._refused(request, GATEWAY_TOKEN):
            return refused
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        model = str(body.get("model", ""))
        if model.startswith("openclaw/") and model[9:] not in ("default", *self.agents):
            return _problem(400, f"Unknown agent '{model[9:]}'.", "invalid_request_error")
        key = request.headers.get("x-openclaw-session-key") or str(uuid.uuid4())
        message = "\n".join(m["content"] for m in body["messages"] if m["role"] == "user")
        run_id = f"chatcmpl_{uuid.uuid4()}"
        answer: web.StreamResponse = web.Response()
        aborted = True
        turn = None
        try:
            async with self._turn(key, message, run_id, model) as (turn, reply):
                if reply.status != 200:
                    turn.is_over = True
                    return (
                        _text(reply.status, "try later")
                        if reply.plain_error
                        else _problem(reply.status, "internal error", "api_error")
                    )
                if model.startswith("openclaw/"):  # what the gateway streams is its own
                    reply = replace(reply, text=reply.text or NOTHING_SAID, is_cut=False)
                answer = await _streamed(request, run_id, reply)
            aborted = False
        finally:
            if turn is not None and aborted and not self._is_stopping(request):
                turn.was_aborted = not turn.is_over
        return answer

    @staticmethod
    def _is_stopping(request: web.Request) -> bool:
        return request.transport is not None and not request.transport.is_closing()

    async def _agent(self, request: web.Request) -> web.Response:
        body, refused = await self._hook(request)
        if refused:
            return refused
        key, agent = str(body.get("sessionKey", "")), str(body.get("agentId") or "main")
        if not str(body.get("message") or "").strip():
            return _refusal(400, "message required")
        if agent not in self.agents:
            return _refusal(400, f'unknown agentId "{agent}"')
        if key and not key.startswith("hook:"):
            return _refusal(400, "sessionKey must start with one of: hook:")
        key = _full(key, agent)
        same = f"{request.headers.get('Idempotency-Key', uuid.uuid4())} {json.dumps(body, sort_keys=True)}"
        if same not in self._runs:
            run_id = str(uuid.uuid4())
            if not await self._admitted(key):
                text = "hook agent run did not start before admission timeout"
                return web.json_response({"ok": False, "error": text, "runId": run_id}, status=503)
            self._runs[same] = (run_id, self._spawn(self._hook_turn(key, str(body["message"]), run_id)))
        run_id, running = self._runs[same]
        answer: dict[str, Any] = {"ok": True, "runId": run_id}
        if body.get("waitForCompletion"):
            answer["completion"] = {"status": await asyncio.shield(running), "replyDisposition": "visible"}
        return web.json_response(answer)

    async def _admitted(self, key: str) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.admission):
                while self._sessions[_full(key)].lane.locked():
                    await asyncio.sleep(0.01)
                return True
        return False

    async def _hook_turn(self, key: str, message: str, run_id: str) -> str:
        wrapped = f"SECURITY NOTICE: EXTERNAL, UNTRUSTED source\n<<<EXTERNAL_UNTRUSTED_CONTENT>>>\n{message}"
        async with self._turn(key, wrapped, str(uuid.uuid4())) as (_, reply):
            await asyncio.sleep(reply.seconds)
            if reply.released:
                await reply.released.wait()
        return "error" if reply.fails else "ok"

    async def _wake(self, request: web.Request) -> web.Response:
        body, refused = await self._hook(request)
        if refused:
            return refused
        if not body.get("text"):
            return _refusal(400, "text required")
        self.woken.append(body)
        return web.json_response({"ok": True, "mode": body.get("mode", "now"), "eventOutcome": "queued"})

    async def _hook(self, request: web.Request) -> tuple[dict[str, Any], web.Response | None]:
        self.calls.append((request.method, request.path))
        if request.headers.get("Authorization") != f"Bearer {HOOKS_TOKEN}":
            return {}, _text(401, "Unauthorized")
        try:
            body = await request.json()
        except ValueError:
            return {}, _refusal(400, "Expected property name or '}' in JSON")
        return (body, None) if isinstance(body, dict) else ({}, _refusal(400, "message required"))

    # What can be read

    async def _models(self, request: web.Request) -> web.Response:
        if refused := self._refused(request, GATEWAY_TOKEN):
            return refused
        names = ("openclaw", "openclaw/default", *(f"openclaw/{agent}" for agent in self.agents))
        return web.json_response({"object": "list", "data": [{"id": name} for name in names]})

    async def _history(self, request: web.Request) -> web.Response:
        if refused := self._refused(request, GATEWAY_TOKEN):
            return refused
        key = request.match_info["key"]
        session = self._sessions.get(_full(key))
        if session is None:
            error = {"type": "not_found", "message": f"Session not found: {key}"}
            return web.json_response({"ok": False, "error": error}, status=404)
        limit, end = int(request.query.get("limit", 200)), int(request.query.get("cursor", 10**9))
        page = [m for m in session.messages if m["__openclaw"]["seq"] < end][-limit:]
        has_more = bool(page) and page[0]["__openclaw"]["seq"] > 1
        facts: dict[str, Any] = {
            "sessionKey": _full(key),
            "items": page,
            "messages": page,
            "hasMore": has_more,
        }
        if has_more:
            facts["nextCursor"] = str(page[0]["__openclaw"]["seq"])
        return web.json_response(facts)

    async def _other(self, request: web.Request) -> web.StreamResponse:
        self.calls.append((request.method, request.path))
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._socket(request)
        up = int((time.monotonic() - self._began) * 1000)
        match request.path:
            case "/health" | "/healthz":
                return web.json_response({"ok": True, "status": "live"})
            case "/readyz":
                return web.json_response({"ready": True, "failing": [], "uptimeMs": up})
        return web.Response(text=PAGE[0], content_type=PAGE[1])

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        """The gateway's own protocol, as far as it is used: connect, and abort what a session does."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n"}})
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            asked = json.loads(message.data)
            params = asked["params"]
            is_known = asked["method"] != "connect" or params["auth"]["token"] == GATEWAY_TOKEN
            answer: dict[str, Any] = {"type": "res", "id": asked["id"], "ok": is_known, "payload": {}}
            if not is_known:
                answer["error"] = {"message": "unauthorized", "details": {"code": "AUTH_TOKEN_MISMATCH"}}
            if asked["method"] == "sessions.abort":
                self._abort(params["key"])
            await socket.send_json(answer)
        return socket

    def _abort(self, key: str) -> None:
        self.aborted.append(key)
        session = self._sessions[_full(key)]
        for turn in self.turns:
            turn.was_aborted = turn.was_aborted or (turn.session == _full(key) and not turn.is_over)
        if session.working:
            session.working.cancel()

    def _refused(self, request: web.Request, token: str) -> web.Response | None:
        self.calls.append((request.method, request.path))
        if request.headers.get("Authorization") == f"Bearer {token}":
            return None
        return _problem(401, "Unauthorized", "unauthorized")


def _full(key: str, agent: str = "main") -> str:
    """The real one lower-cases keys, and puts the agent before them."""
    return key.lower() if key.startswith("agent:") else f"agent:{agent}:{key.lower()}"


def _said(session: _Session, role: str, text: str, run_id: str, tokens: int, stop: str = "stop") -> None:
    message: dict[str, Any] = {"role": role, "content": text, "timestamp": int(time.time() * 1000)}
    about: dict[str, Any] = {"id": str(uuid.uuid4()), "seq": len(session.messages) + 1}
    if role == "assistant":
        message["content"] = [{"type": "text", "text": text}]
        message |= {"stopReason": stop, "usage": {"totalTokens": tokens, "cost": {"total": 0.00045}}}
        about["runId"] = run_id
    session.messages.append(message | {"__openclaw": about})


async def _streamed(request: web.Request, run_id: str, reply: Reply) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await answer.prepare(request)
    await answer.write(_chunk(run_id, {"role": "assistant"}))
    pieces = list(_pieces(reply.text))
    for piece in pieces:
        await answer.write(_chunk(run_id, {"content": piece}))
        await asyncio.sleep(reply.seconds / max(len(pieces), 1))
    for _ in range(reply.repeat - 1):
        await answer.write(_chunk(run_id, {"content": reply.text}))
    if reply.breaks_off:
        assert request.transport is not None
        request.transport.close()
        return answer
    last = {"index": 0, "delta": {}, "finish_reason": "length" if reply.is_cut else "stop"}
    await answer.write(f"data: {json.dumps({'id': run_id, 'choices': [last]})}\n\n".encode())
    end = {"id": run_id, "choices": [], "usage": {"total_tokens": 120}}
    await answer.write(f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode())
    await answer.write_eof()
    return answer


def _pieces(text: str) -> Iterator[str]:
    """A text in at most twenty pieces."""
    size = max(len(text) // 20, 1)
    return (text[at : at + size] for at in range(0, len(text), size))


def _chunk(run_id: str, delta: dict[str, str]) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return f"data: {json.dumps({'id': run_id, 'choices': [choice]})}\n\n".encode()


def _problem(status: int, message: str, kind: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": kind}}, status=status)


def _refusal(status: int, error: str) -> web.Response:
    return web.json_response({"ok": False, "error": error}, status=status)


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/plain")
