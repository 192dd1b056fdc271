"""The doors at which other programs ring: what each presents to prove itself, and how its ring reads.

Pure: bytes and headers in, a letter out, or the error that answers the sender. Names of headers and ids
are those of the real programs (spec/contracts.md, sections 1, 3 and 4; Standard Webhooks for `generic`).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from quarterdeck.kernel import signatures
from quarterdeck.kernel.errors import Invalid, Unauthorized
from quarterdeck.kernel.inbox_model import json_object

LONGEST_NAME = 200
TRIAL = "quarterdeck.test"
"""The event of a delivery that only tries a door: see `door_trial`."""
FORM = "application/x-www-form-urlencoded"
_SHOWN = ("x-gitea-", "x-plane-", "webhook-", "content-type", "user-agent")


@dataclass(frozen=True)
class Ring:
    """A request at a door. Names of headers are in small letters."""

    headers: Mapping[str, str]
    body: bytes
    at: datetime

    def header(self, name: str) -> str:
        return self.headers.get(name, "").strip()

    @property
    def kind(self) -> str:
        """The content type, without its parameters."""
        return self.header("content-type").partition(";")[0].strip().lower()


@dataclass(frozen=True)
class Letter:
    """What is kept of a ring; the arguments of `Inbox.accept`. An empty `fingerprint` = the body's own."""

    delivery_id: str
    event: str
    headers: dict[str, str]
    body: bytes
    fingerprint: str = ""


@dataclass(frozen=True)
class Door:
    """Of which connection's field the secret is, and how a ring is read with it.

    `block` is what people find that connection's form by in Prefect.
    """

    kind: str
    field: str
    block: str
    read: Callable[[Ring, str], Letter]


def _plane(ring: Ring, secret: str) -> Letter:
    if not signatures.is_hex_hmac(secret, ring.body, ring.header("x-plane-signature")):
        raise _nobody("X-Plane-Signature")
    payload = _payload(ring, ring.body)
    name = str(payload.get("event") or ring.header("x-plane-event"))
    if payload.get("version") == "v2":  # here `delivery_id` changes from try to try
        return _letter(ring, ring.body, str(payload.get("event_id") or ""), name)
    event = ".".join(part for part in (name, str(payload.get("action") or "")) if part)
    return _letter(ring, ring.body, ring.header("x-plane-delivery"), event)


def _gitea(ring: Ring, secret: str) -> Letter:
    content = _form_payload(ring.body) if ring.kind == FORM else ring.body
    presented = ring.header("x-gitea-signature") or ring.header("x-hub-signature-256").removeprefix("sha256=")
    if not signatures.is_hex_hmac(secret, content, presented):
        raise _nobody("X-Gitea-Signature")
    _payload(ring, content, FORM)
    return _letter(ring, content, ring.header("x-gitea-delivery"), ring.header("x-gitea-event"))


def _form_payload(body: bytes) -> bytes:
    """The bytes of the field `payload`, as they were before the form was made."""
    try:
        fields = dict(parse_qsl(body.decode("ascii"), errors="surrogateescape", max_num_fields=20))
    except ValueError:
        return b""
    return fields.get("payload", "").encode("utf-8", "surrogateescape")


def _openclaw(ring: Ring, secret: str) -> Letter:
    scheme, _, token = ring.header("authorization").partition(" ")
    if scheme.lower() != "bearer" or not signatures.same(secret, token.strip()):
        raise _nobody("Authorization: Bearer")
    payload = _payload(ring, ring.body)
    parts = [str(payload.get(name) or "") for name in ("jobId", "runAtMs", "action")]
    event = "cron." + parts[2] if parts[0] else str(payload.get("event") or "")
    return _letter(ring, ring.body, ":".join(parts) if all(parts) else "", event)


def _generic(ring: Ring, secret: str) -> Letter:
    number, timestamp = ring.header("webhook-id"), ring.header("webhook-timestamp")
    presented = ring.header("webhook-signature")
    if not number or not signatures.is_standard(secret, number, timestamp, ring.body, presented):
        raise _nobody("webhook-signature")
    if not signatures.is_recent(timestamp, ring.at):
        raise Unauthorized(
            f"The webhook-timestamp is more than {signatures.TOLERANCE.seconds} seconds from now.",
            "Sign it again with the present time; set both clocks by the same server.",
            code="timestamp_out_of_tolerance",
        )
    payload = _payload(ring, ring.body)
    event = str(payload.get("type") or payload.get("event") or "")
    return _letter(ring, ring.body, number, event, fingerprint=f"id:{number}")


DOORS: Mapping[str, Door] = {
    "plane": Door("plane", "webhook_secret", "Quarterdeck Plane", _plane),
    "gitea": Door("gitea", "webhook_secret", "Quarterdeck Gitea", _gitea),
    "openclaw": Door("openclaw", "webhook_token", "Quarterdeck OpenClaw", _openclaw),
    "generic": Door("generic_webhook", "secret", "Quarterdeck webhook", _generic),
}
"""Every source of deliveries."""


def _nobody(where: str) -> Unauthorized:
    return Unauthorized(
        f"{where} is missing, or does not fit the secret of this source.",
        "Enter the same secret in both systems; it signs the body exactly as it is sent.",
        code="signature_wrong",
    )


def _payload(ring: Ring, content: bytes, *also: str) -> dict[str, Any]:
    """The content as JSON. Raises `Invalid` for another type, for what is cut off, and for rubbish."""
    if ring.kind != "application/json" and not ring.kind.endswith("+json") and ring.kind not in also:
        raise Invalid(
            f"Deliveries of type {ring.kind or '(none)'!r} are not read here.",
            "Send it with `Content-Type: application/json`.",
            code="content_type_wrong",
            field="Content-Type",
        )
    return json_object(content)


def _letter(ring: Ring, content: bytes, number: str, event: str, fingerprint: str = "") -> Letter:
    """Raises `Invalid` for an id that cannot be one; without an id the content is its own."""
    number = number or hashlib.sha256(content).hexdigest()
    if len(number) > LONGEST_NAME or not (number.isascii() and number.isprintable()):
        raise Invalid(
            f"The delivery's id is longer than {LONGEST_NAME} characters or not plain text.",
            "Give every delivery a short id of its own.",
            field="id",
        )
    return Letter(number, _plain(event), _shown(ring.headers), content, fingerprint)


def _plain(event: str) -> str:
    return "".join(letter for letter in event if letter.isprintable())[:LONGEST_NAME]


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    """What a handler or a person may want to know; nothing that proves who sent it."""
    return {
        name: value[:1_000]
        for name, value in headers.items()
        if name.startswith(_SHOWN) and "signature" not in name
    }
