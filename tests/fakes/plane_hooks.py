"""How the fake Plane tells of changes: the bodies of both versions, signed, and a sender with its habits."""

import hashlib
import hmac
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

import httpx

from quarterdeck.kernel.http import trusted

SECRET = "plane_wh_of-the-fake"
TRIES = 5


@dataclass(frozen=True)
class Hook:
    """One delivery, ready to leave."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def payload(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def about(self) -> str:
        """`issue created`, or `workitem.created`."""
        return f"{self.payload['event']} {self.payload.get('action', '')}".strip()


def first_version(event: str, action: str, data: dict[str, Any], activity: dict[str, Any]) -> Hook:
    """What the community edition sends."""
    body = {
        "event": event,
        "action": action,
        "webhook_id": str(uuid4()),
        "workspace_id": data["workspace"],
        "data": data,
        "activity": {"old_identifier": None, "new_identifier": None, **activity},
    }
    return _signed(body, str(uuid4()), event)


def second_version(event: str, data: dict[str, Any], previous: dict[str, Any]) -> Hook:
    """What the cloud sends: no HTML, no name of who did it, `"None"` for nothing."""
    told = {key: "None" if value is None else value for key, value in data.items()}
    body = {
        "version": "v2",
        "delivery_id": str(uuid4()),
        "event_id": str(uuid4()),
        "entity_id": data["id"],
        "entity_type": "issue",
        "event": event,
        "webhook_id": str(uuid4()),
        "workspace_id": str(uuid4()),
        "data": told,
        "previous_attributes": previous,
    }
    return _signed(body, body["delivery_id"], event)


def _signed(body: dict[str, Any], delivery: str, event: str) -> Hook:
    raw = json.dumps(body).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Autopilot",
        "X-Plane-Delivery": delivery,
        "X-Plane-Event": event,
        "X-Plane-Signature": hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest(),
    }
    return Hook(headers, raw)


class Sender:
    """Delivers in order. An answer of any kind ends it; only a broken connection is tried again."""

    def __init__(self, address: str, pause: float) -> None:
        self.answers: list[int] = []
        self.is_active = True
        self._address = address
        self._pause = pause
        self._stopped = threading.Event()
        self._queue: SimpleQueue[Hook | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, hook: Hook) -> None:
        self._queue.put(hook)

    def close(self) -> None:
        self._stopped.set()
        self._queue.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        with httpx.Client(timeout=30, verify=trusted()) as client:
            while (hook := self._queue.get()) is not None and self.is_active:
                self.is_active = self._deliver(client, hook)

    def _deliver(self, client: httpx.Client, hook: Hook) -> bool:
        """False after the last try: the hook is switched off."""
        for _ in range(1 + TRIES):
            try:
                answer = client.post(self._address, content=hook.body, headers=dict(hook.headers))
            except httpx.TransportError:
                if self._stopped.wait(self._pause):
                    return False
                continue
            self.answers.append(answer.status_code)
            return True
        return False
