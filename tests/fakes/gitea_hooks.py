"""Deliveries of the fake Gitea: one attempt each, five seconds, no second try."""

import asyncio
import hashlib
import hmac
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx

from quarterdeck.kernel.http import trusted
from tests.fakes.gitea_state import Hook, Repo

LIMIT = 5.0

GROUPS = {
    "pull_request_sync": "pull_request",
    "pull_request_review_approved": "pull_request_approved",
    "pull_request_review_rejected": "pull_request_rejected",
    "pull_request_review_comment": "pull_request_comment",
}
"""`X-Gitea-Event` of those event types whose group has another name."""


@dataclass(frozen=True)
class Sent:
    """A delivery as it went out; `status` is the answer's, 0 = nobody answered."""

    event: str
    kind: str
    headers: dict[str, str]
    content: bytes
    status: int


class Post:
    """Sends what happens to the hooks that asked for it."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None) -> None:
        self._client = httpx.AsyncClient(
            transport=transport, timeout=LIMIT, trust_env=False, verify=trusted()
        )
        self._under_way: set[asyncio.Task[None]] = set()
        self.sent: list[Sent] = []
        self.losing: Counter[str] = Counter()
        self.lost: list[str] = []
        self.twice = False

    def tell(self, repo: Repo, kind: str, payload: dict[str, Any]) -> None:
        """An event of this type happened."""
        for hook in repo.hooks:
            if hook.active and _wants(hook, kind):
                task = asyncio.create_task(self._deliver(hook, kind, payload))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def settled(self) -> None:
        """Until nothing is under way any more."""
        while self._under_way:
            await asyncio.gather(*self._under_way)

    async def close(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._client.aclose()

    async def _deliver(self, hook: Hook, kind: str, payload: dict[str, Any]) -> None:
        event = GROUPS.get(kind, kind)
        if self.losing[event] > 0:
            self.losing[event] -= 1
            self.lost.append(event)
            return
        body = json.dumps(payload, indent=2).encode()
        headers = signed(hook.secret, event, kind, body)
        for _ in range(2 if self.twice else 1):
            await self._post(hook, event, kind, headers, body)

    async def _post(self, hook: Hook, event: str, kind: str, headers: dict[str, str], body: bytes) -> None:
        content, form = body, hook.content_type == "form"
        if form:
            content = urlencode({"payload": body.decode()}).encode()
        headers |= {"Content-Type": "application/x-www-form-urlencoded" if form else "application/json"}
        try:
            answer = await self._client.post(hook.url, content=content, headers=headers)
            status = answer.status_code
        except httpx.HTTPError:
            status = 0
        self.sent.append(Sent(event, kind, headers, content, status))


def signed(secret: str, event: str, kind: str, body: bytes) -> dict[str, str]:
    """The headers; without a secret the signatures are sent all the same, empty."""
    key = secret.encode()
    sha256 = hmac.new(key, body, hashlib.sha256).hexdigest() if secret else ""
    sha1 = hmac.new(key, body, hashlib.sha1).hexdigest() if secret else ""
    delivery = str(uuid4())
    told = {"Delivery": delivery, "Event": event, "Event-Type": kind, "Signature": sha256}
    return {
        **{f"X-Gitea-{name}": value for name, value in told.items()},
        **{f"X-Gogs-{name}": value for name, value in told.items()},
        "X-Gitea-Hook-Installation-Target-Type": "repository",
        "X-GitHub-Delivery": delivery,
        "X-GitHub-Event": event,
        "X-GitHub-Event-Type": kind,
        "X-Hub-Signature": f"sha1={sha1}",
        "X-Hub-Signature-256": f"sha256={sha256}",
    }


def _wants(hook: Hook, kind: str) -> bool:
    if kind in hook.events:
        return True
    if kind.startswith("pull_request_review_") and "pull_request_review" in hook.events:
        return True
    if kind == "pull_request" and "pull_request_only" in hook.events:
        return True
    return kind.startswith("pull_request") and "pull_request" in hook.events
