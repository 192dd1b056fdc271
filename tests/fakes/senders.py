"""Programs that send webhooks, each signing as the real one does (spec/contracts.md; Standard Webhooks)."""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

SECRETS = {
    "plane": "plane_wh_0123456789abcdef",
    "gitea": "giteas-secret-0123456789",
    "openclaw": "openclaws-cron-token-0123456789",
    "generic": "whsec_" + base64.b64encode(b"a key of thirty-two bytes, really").decode(),
}
NOWHERE = "http://127.0.0.1:9"
CONNECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "plane": ("plane", {"webhook_secret": SECRETS["plane"]}),
    "gitea": ("gitea", {"url": NOWHERE, "token": "giteas-token-012", "webhook_secret": SECRETS["gitea"]}),
    "openclaw": ("openclaw", {"webhook_token": SECRETS["openclaw"]}),
    "generic": ("generic_webhook", {"secret": SECRETS["generic"]}),
}
"""The connection that each source needs: its kind and its value."""


@dataclass(frozen=True)
class Sent:
    """A request as it leaves its sender."""

    source: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"/webhooks/{self.source}"


def hex_hmac(secret: str, content: bytes) -> str:
    return hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()


def plane(number: str, payload: dict[str, Any], secret: str = SECRETS["plane"]) -> Sent:
    body = json.dumps(payload).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Autopilot",
        "X-Plane-Delivery": number,
        "X-Plane-Event": str(payload.get("event", "")),
        "X-Plane-Signature": hex_hmac(secret, body),
    }
    return Sent("plane", body, headers)


def gitea(
    number: str, event: str, payload: dict[str, Any], secret: str = SECRETS["gitea"], *, as_form: bool = False
) -> Sent:
    """Without a secret the signature headers are there, and empty."""
    content = json.dumps(payload, indent=2, ensure_ascii=False).encode()
    signature = hex_hmac(secret, content) if secret else ""
    body = urlencode({"payload": content.decode()}).encode() if as_form else content
    kind = "application/x-www-form-urlencoded" if as_form else "application/json"
    headers = {
        "Content-Type": kind,
        "X-Gitea-Delivery": number,
        "X-Gitea-Event": event,
        "X-Gitea-Event-Type": event,
        "X-Gitea-Signature": signature,
        "X-Hub-Signature-256": f"sha256={signature}",
    }
    return Sent("gitea", body, headers)


def openclaw(payload: dict[str, Any], token: str = SECRETS["openclaw"]) -> Sent:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    return Sent("openclaw", json.dumps(payload).encode(), headers)


def generic(number: str, at: datetime, payload: dict[str, Any], *secrets: str) -> Sent:
    """Signed with each of these secrets, oldest first."""
    body, timestamp = json.dumps(payload).encode(), str(int(at.timestamp()))
    signed = b".".join((number.encode(), timestamp.encode(), body))
    keys = [base64.b64decode(one.removeprefix("whsec_")) for one in secrets or (SECRETS["generic"],)]
    signatures = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    headers = {
        "Content-Type": "application/json",
        "Webhook-Id": number,
        "Webhook-Timestamp": timestamp,
        "Webhook-Signature": " ".join(f"v1,{one}" for one in signatures),
    }
    return Sent("generic", body, headers)


def one_of_each(number: str, at: datetime) -> list[Sent]:
    """A delivery of every source."""
    return [
        plane(number, {"event": "issue", "action": "created", "data": {"id": number}}),
        gitea(number, "pull_request", {"action": "opened", "number": 7, "id": number}),
        openclaw({"jobId": number, "action": "finished", "runAtMs": 5, "status": "ok", "summary": "done"}),
        generic(number, at, {"type": "deliver", "data": {}}),
    ]
