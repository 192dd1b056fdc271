"""A ring at one of our own doors, as its source would ring: signed with the secret that is kept here.

The inverse of `doors`. Nobody who works on deliveries does anything about it.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime

from quarterdeck.kernel import signatures
from quarterdeck.pipeline.doors import TRIAL, Ring


def ring_of(source: str, secret: str, number: str, at: datetime) -> Ring:
    """`source` is one of `DOORS`; each `number` makes another delivery."""
    body = json.dumps({"event": TRIAL, "type": TRIAL, "number": number}).encode()
    proof = _PROOFS[source](secret, number, at, body)
    return Ring({"content-type": "application/json", **proof}, body, at)


def _plane(secret: str, number: str, _: datetime, body: bytes) -> dict[str, str]:
    return {"x-plane-delivery": number, "x-plane-signature": signatures.hex_hmac(secret, body)}


def _gitea(secret: str, number: str, _: datetime, body: bytes) -> dict[str, str]:
    signature = signatures.hex_hmac(secret, body)
    return {"x-gitea-delivery": number, "x-gitea-event": TRIAL, "x-gitea-signature": signature}


def _openclaw(secret: str, *_: object) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def _generic(secret: str, number: str, at: datetime, body: bytes) -> dict[str, str]:
    timestamp = str(int(at.timestamp()))
    signature = signatures.signed_standard(secret, number, timestamp, body)
    return {"webhook-id": number, "webhook-timestamp": timestamp, "webhook-signature": signature}


_PROOFS: Mapping[str, Callable[[str, str, datetime, bytes], dict[str, str]]] = {
    "plane": _plane,
    "gitea": _gitea,
    "openclaw": _openclaw,
    "generic": _generic,
}
