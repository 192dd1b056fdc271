"""Who sent this? Signatures over the raw bytes, compared in constant time.

A signature that is missing, empty or written in another alphabet is a wrong one.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from datetime import datetime, timedelta

from quarterdeck.kernel.errors import Misconfigured

TOLERANCE = timedelta(minutes=5)
"""How far a sender's clock may be from ours: Standard Webhooks' own value."""

_PREFIX = "whsec_"


def same(secret: str, presented: str) -> bool:
    """Are these two texts equal, and not empty?"""
    return bool(secret) and hmac.compare_digest(_bytes(secret), _bytes(presented))


def is_hex_hmac(secret: str, content: bytes, presented: str) -> bool:
    """Is `presented` the hexadecimal HMAC-SHA256 of the content, as Plane and Gitea write it?"""
    return bool(secret) and same(hex_hmac(secret, content), presented)


def hex_hmac(secret: str, content: bytes) -> str:
    """That signature."""
    return hmac.new(_bytes(secret), content, hashlib.sha256).hexdigest()


def is_recent(timestamp: str, now: datetime) -> bool:
    """Is this number of seconds since 1970 within `TOLERANCE` of now?"""
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12):
        return False
    return abs(now.timestamp() - int(timestamp)) <= TOLERANCE.total_seconds()


def is_standard(secrets: str, message_id: str, timestamp: str, content: bytes, presented: str) -> bool:
    """Is one of the presented signatures ours, by one of our secrets?

    Standard Webhooks: `presented` is a list such as `v1,<base64> v1,<base64>`, so that a sender can sign
    with its old and its new key; `secrets` may be several words too. Other versions (`v1a`) are passed over.
    """
    signed = _signed(message_id, timestamp, content)
    expected = [standard(key, signed) for key in _keys(secrets.split()) if key]
    given = [one for one in presented.split(" ")[:20] if one.startswith("v1,")]
    return any(same(good, one) for good in expected for one in given)


def signed_standard(secrets: str, message_id: str, timestamp: str, content: bytes) -> str:
    """What a sender presents that knows the first of our secrets."""
    return standard(_keys(secrets.split()[:1])[0], _signed(message_id, timestamp, content))


def _signed(message_id: str, timestamp: str, content: bytes) -> bytes:
    return b".".join((_bytes(message_id), _bytes(timestamp), content))


def standard(key: bytes, signed: bytes) -> str:
    """One signature of Standard Webhooks over `id.timestamp.body`."""
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _keys(secrets: Iterable[str]) -> list[bytes]:
    """`whsec_` and base64, or a text that is taken as it is."""
    try:
        return [
            base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
            if secret.startswith(_PREFIX)
            else _bytes(secret)
            for secret in secrets
        ]
    except ValueError:
        raise Misconfigured(
            "A webhook secret begins with whsec_ but is not base64 after it.",
            "Enter it again as it was given, or any long text without that beginning.",
        ) from None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
