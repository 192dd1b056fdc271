"""Multica over HTTP (spec contracts.md, section 2)."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from quarterdeck.heartbeat.sources.multica import MOST_ISSUES, connection
from quarterdeck.heartbeat.sources.polling import Turns
from quarterdeck.heartbeat.sources.reading import mapping, rows
from quarterdeck.heartbeat.sources.trouble import not_configured, refused, unavailable
from quarterdeck.heartbeat.work import Trouble
from quarterdeck.kernel import http
from quarterdeck.kernel.connections import Connections

SECONDS = 30.0
MOST_BYTES = 16_000_000


class MulticaServer:
    """`multica.Door` over HTTP."""

    def __init__(
        self,
        connections: Connections,
        turns: Turns,
        *,
        seconds: float = SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._connections = connections
        self._turns = turns
        self._seconds = seconds
        self._transport = transport

    async def open_issues(self) -> list[Any]:
        """In one answer: `open_only` knows no pages."""
        told = await self._json("GET", "/api/issues", params={"open_only": "true"})
        found = mapping(told).get("issues")
        if not isinstance(found, list):
            raise unavailable(Trouble.UNREADABLE, "Multica told something that is no list of issues.")
        if len(found) > MOST_ISSUES:
            raise unavailable(Trouble.TOO_LARGE, f"Multica has more than {MOST_ISSUES} open issues.")
        return found

    async def issue(self, identity: str) -> Mapping[str, Any] | None:
        answer = await self._send("GET", _path(identity))
        return None if answer.status_code == 404 else mapping(_json(answer))

    async def comments(self, identity: str) -> list[Any]:
        told = await self._json("GET", f"{_path(identity)}/comments")
        return rows(told) or rows(mapping(told).get("comments"))

    async def comment(self, identity: str, text: str) -> None:
        await self._json("POST", f"{_path(identity)}/comments", json={"content": text})

    async def delete_comment(self, comment: str) -> None:
        answer = await self._send("DELETE", f"/api/comments/{quote(comment, safe='')}")
        if answer.status_code != 404:
            http.accepted(answer)

    async def set_status(self, identity: str, status: str) -> None:
        await self._json("PUT", _path(identity), json={"status": status, "suppress_run": True})

    async def assign(self, identity: str, agent: str) -> None:
        asked = {"assignee_type": "agent", "assignee_id": agent, "suppress_run": True}
        await self._json("PUT", _path(identity), json=asked)

    async def _json(self, method: str, path: str, **content: Any) -> Any:
        return _json(await self._send(method, path, **content))

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        value = await connection(self._connections)
        if not value.get("url") or not value.get("token"):
            raise not_configured(
                "Multica's address or token is missing.", "Set MULTICA_SERVER_URL and MULTICA_TOKEN."
            )
        await self._turns.take()
        headers = {
            "Authorization": f"Bearer {value['token']}",
            "X-Workspace-ID": str(value["workspace_id"]),
        }
        async with http.client(
            "Multica",
            base_url=str(value["url"]).rstrip("/"),
            headers=headers,
            seconds=self._seconds,
            attempts=1,
            most_bytes=MOST_BYTES,
            transport=self._transport,
        ) as client:
            answer = await client.request(method, path, **content)
        if answer.status_code in (401, 403):
            raise refused(
                f"Multica does not let us in ({answer.status_code}).",
                "Enter a new token in the block `Quarterdeck Multica`.",
            )
        return answer


def _path(identity: str) -> str:
    return f"/api/issues/{quote(identity, safe='')}"


def _json(answer: httpx.Response) -> Any:
    return http.json_of(answer)
