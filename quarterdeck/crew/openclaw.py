"""A client of an OpenClaw gateway (2026.9): health, models, turns, histories, hooks, wake.

Two tokens: the gateway's for everything but `/hooks`, the hooks' for `/hooks` alone. An unknown address
answers 200 with a web page, and `/hooks` answers some errors in plain text: everything is read by its
content type. A turn asked for in chat ends when we hang up; one asked for by hook does not. In chat the
agent whose name stands in the session's key works, whatever else the request says (see `whole`).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from quarterdeck.crew import chat_stream
from quarterdeck.crew.chat_stream import Said
from quarterdeck.kernel import http
from quarterdeck.kernel.errors import Conflict, Invalid, Misconfigured, NotFound, Unavailable

NAME = "OpenClaw"
DEFAULT = "default"
"""What the gateway calls whichever agent is its default one."""
PAGE, MOST_MESSAGES = 200, 2000
CHAT = "/v1/chat/completions"
QUICK = 20.0
"""Seconds for anything but a turn; a hook is admitted within 15."""

SEND = {"minProtocol": 4, "maxProtocol": 4, "role": "operator", "caps": []}
CLIENT = {"id": "gateway-client", "version": "1.0.0", "platform": "linux", "mode": "backend"}
"""The gateway knows no other names of clients that need no device of their own."""


@dataclass(frozen=True)
class Address:
    """Where a gateway is, and its two secrets."""

    url: str
    token: str = field(repr=False)
    hooks_token: str = field(default="", repr=False)

    @classmethod
    def of(cls, connection: Mapping[str, Any] | None) -> "Address":
        """Raises `Misconfigured` when there is no connection, or none that could work."""
        if not connection or not connection.get("url"):
            raise Misconfigured(
                "OpenClaw is not connected.",
                "Fill the block `Quarterdeck OpenClaw` in Prefect, or set OPENCLAW_URL and OPENCLAW_TOKEN.",
                code="not_connected",
            )
        return cls(
            str(connection["url"]).rstrip("/"),
            str(connection.get("token") or ""),
            str(connection.get("hooks_token") or ""),
        )


class Gateway:
    """One gateway. Raises `Unavailable` (down, or wrong: code `wrong_answer`) and `Conflict` (refused)."""

    def __init__(self, address: Address, silence: float = 300.0) -> None:
        self.address = address
        self._long = chat_stream.client(NAME, address.url, silence)
        self._quick = http.client(NAME, base_url=address.url, seconds=QUICK)

    async def close(self) -> None:
        await self._long.aclose()
        await self._quick.aclose()

    async def health(self) -> None:
        """Does a gateway answer, and is it live?"""
        if (await self._get("/health", token="")).get("status") != "live":
            raise Unavailable("OpenClaw says that it is not live.", "Look at its log.", code="not_live")

    async def uptime(self) -> float:
        """Seconds since it started."""
        told = (await self._get("/readyz", token="")).get("uptimeMs")
        return told / 1000 if isinstance(told, int | float) else 0.0

    async def agents(self) -> list[str]:
        """The agents that can be asked; proves the gateway's token."""
        told = _list(await self._get("/v1/models"), "data")
        names = [str(model.get("id", "")) for model in told if isinstance(model, Mapping)]
        return [name.removeprefix("openclaw/") for name in names if name.startswith("openclaw/")]

    async def check_hooks(self) -> None:
        """Prove the hooks' token without starting anything: an empty wake is refused for its text."""
        answer = await self._quick.post("/hooks/wake", json={}, headers=_bearer(self.address.hooks_token))
        if answer.status_code != 400 or not _is_json(answer):
            raise chat_stream.refusal(answer)

    async def wake(self, text: str, mode: str = "now", agent_id: str = "") -> str:
        """Wake an agent with a text; what became of it (`queued`, `coalesced`)."""
        body = {"text": text, "mode": mode} | ({"agentId": agent_id} if agent_id else {})
        answer = await self._quick.post("/hooks/wake", json=body, headers=_bearer(self.address.hooks_token))
        return str(_object(answer).get("eventOutcome", ""))

    async def ask(
        self, message: str, *, agent_id: str, session_key: str, system: str = "", begun: Callable[[], Any]
    ) -> Said:
        """One turn in chat, with its whole answer; other turns of the session are waited for."""
        body, headers = self._chat(message, agent_id, session_key, system)
        return await chat_stream.ask(self._long, CHAT, body, headers, begun)

    def stream(
        self, message: str, *, agent_id: str, session_key: str, system: str = "", said: Said
    ) -> AsyncGenerator[str, None]:
        """One turn in chat, as it is said; see `chat_stream.pieces`."""
        body, headers = self._chat(message, agent_id, session_key, system)
        return chat_stream.pieces(self._long, CHAT, body, headers, said)

    def _chat(
        self, message: str, agent_id: str, session_key: str, system: str
    ) -> tuple[dict[str, Any], dict[str, str]]:
        messages = [{"role": "system", "content": system}] if system else []
        body = {
            "model": f"openclaw/{agent_id}",
            "messages": [*messages, {"role": "user", "content": message}],
        }
        key = whole(session_key, agent_id)
        return body, _bearer(self.address.token) | {"x-openclaw-session-key": key}

    async def run_agent(
        self,
        message: str,
        *,
        agent_id: str,
        session_key: str,
        key: str,
        seconds: float,
        name: str = "Quarterdeck",
    ) -> tuple[str, str]:
        """One turn by hook, waited for: its run id, and its status (`ok`, `error`, `skipped`).

        The same `key` with the same words joins the turn that is under way. `Unavailable` with status 503
        and `is_busy` when the session is at work with something else.
        """
        body = {
            "message": message,
            "name": name,
            "agentId": agent_id,
            "sessionKey": session_key,
            "sessionMode": "persistent",
            "deliver": False,
            "timeoutSeconds": int(seconds),
            "waitForCompletion": True,
        }
        headers = _bearer(self.address.hooks_token) | {"Idempotency-Key": key}
        told = _object(await self._long.post("/hooks/agent", json=body, headers=headers))
        completion = told.get("completion")
        status = completion.get("status") if isinstance(completion, Mapping) else ""
        return str(told.get("runId", "")), str(status or "")

    async def history(self, session_key: str, until: Callable[[list[Any]], bool]) -> list[Any]:
        """A session's messages, oldest first, read backwards page by page until `until` has enough.

        `session_key` is a whole one; an unknown session has none. Raises `Invalid` for a message that is too
        long to be read.
        """
        path, cursor, messages = f"/sessions/{quote(session_key, safe='')}/history", "", list[Any]()
        while len(messages) < MOST_MESSAGES:
            try:
                page = await self._page(path, cursor)
            except NotFound:
                break
            messages = [*(_list(page, "messages") or _list(page, "items")), *messages]
            cursor = str(page.get("nextCursor") or "")
            if until(messages) or not cursor or not page.get("hasMore"):
                break
        return messages

    async def _page(self, path: str, cursor: str) -> dict[str, Any]:
        """The messages before `cursor`: fewer of them, down to one, where they are long."""
        size = PAGE
        while True:
            params = {"limit": str(size)} | ({"cursor": cursor} if cursor else {})
            try:
                return await self._get(path, params)
            except Unavailable as error:
                if not error.data.get("too_large"):
                    raise
                if size == 1:
                    raise Invalid("The agent's answer is too long to be read.", "It was not used.") from None
            size = max(size // 20, 1)

    async def abort(self, session_key: str) -> None:
        """Stop whatever the session (its whole key) is doing. Only the gateway's own protocol can."""
        async with self._socket() as call:
            await call("sessions.abort", {"key": session_key, "clearQueued": True})

    @asynccontextmanager
    async def _socket(self) -> AsyncIterator[Callable[[str, dict[str, Any]], Any]]:
        import aiohttp  # only to stop a session: every agent's client would load it

        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=QUICK)) as session,
                session.ws_connect(self.address.url, max_msg_size=http.MOST_BYTES) as socket,
            ):

                async def call(method: str, params: dict[str, Any]) -> None:
                    await socket.send_json({"type": "req", "id": method, "method": method, "params": params})
                    while True:
                        told = await socket.receive_json(timeout=QUICK)
                        if told.get("type") == "res" and told.get("id") == method:
                            break
                    if not told.get("ok"):
                        why = chat_stream.words(told.get("error") or told)
                        raise Conflict(
                            f"OpenClaw refused {method}: {why}.", "Check its token.", code="refused"
                        )

                scopes = ["operator.read", "operator.write"]
                who = {"client": CLIENT, "scopes": scopes, "auth": {"token": self.address.token}}
                await call("connect", SEND | who)
                yield call
        except (aiohttp.ClientError, TimeoutError, TypeError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"OpenClaw broke off: {reason}.", "It is tried again later.") from None

    async def _get(
        self, path: str, params: Mapping[str, str] | None = None, token: str | None = None
    ) -> dict[str, Any]:
        known = self.address.token if token is None else token
        return _object(await self._quick.get(path, params=params, headers=_bearer(known)))


def whole(session_key: str, agent_id: str) -> str:
    """A session's key with its agent. One without is the default agent's, who works on it then.

    A hook alone has its agent beside the key, which must begin with `hook:`.
    """
    is_whole = session_key.startswith("agent:") or agent_id == DEFAULT
    return session_key if is_whole else f"agent:{agent_id.lower()}:{session_key}"


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _list(told: Mapping[str, Any], name: str) -> list[Any]:
    found = told.get(name)
    return found if isinstance(found, list) else []


def _is_json(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("content-type", "").startswith("application/json"))


def _object(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of a 2xx. Raises what any other answer means."""
    if answer.status_code == 404 and _is_json(answer):
        raise NotFound("OpenClaw does not know that.", code="not_found")
    if not answer.is_success or not _is_json(answer):
        raise chat_stream.refusal(answer)
    try:
        told = answer.json()
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise chat_stream.refusal(answer)
    return told
