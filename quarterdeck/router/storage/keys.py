"""Secrets of the router at rest: provider keys and client keys, each bound to its own row.

    sc2.<key id>.<nonce and ciphertext, base64url>    under `SIDECAR_ENCRYPTION_KEY`
    qd1.…                                             under the house's keyring, while that is not set
    <nonce hex>:<ciphertext and tag hex>              Sidecar V2's: no key id, bound to nothing; read only

All three open as long as their key is here (the present one, `SIDECAR_ENCRYPTION_KEYS_PREVIOUS`, the
keyring), so that no change of keys loses anything; the present one seals.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.kernel.keyring import Keyring

VERSION = "sc2"
VARIABLE = "SIDECAR_ENCRYPTION_KEY"
PREVIOUS_VARIABLE = "SIDECAR_ENCRYPTION_KEYS_PREVIOUS"

BACKENDS = "router backends"
CLIENTS = "router clients"

LEAST_VARIETY = 17
"""Different bytes, and steps between them, that a key must have; 32 random ones practically never do not."""

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_OLD_FORM = re.compile(r"([0-9a-f]{24}):((?:[0-9a-f]{2}){16,})", re.IGNORECASE)
_PUBLISHED = frozenset(
    {
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",  # NIST SP 800-38A, F.1.5
        "b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4",  # NIST GCM test vectors
        "e3c08a8f06c6e3ad95a70557b23f75483ce33021a9c72b7025666204c69c0b72",
        "8000000000000000000000000000000000000000000000000000000000000000",
    }
)


@dataclass(frozen=True)
class EncryptionKey:
    """32 bytes from the environment; `id` names them without telling them."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        return hashlib.sha256(b"quarterdeck router key id" + self.secret).hexdigest()[:8]


def encryption_key(text: str, variable: str = VARIABLE) -> EncryptionKey:
    """A key from exactly 64 hexadecimal digits. Raises `Misconfigured`, never showing it."""
    if not _HEX.fullmatch(text):
        raise _refused(variable, "is not exactly 64 hexadecimal digits")
    raw = bytes.fromhex(text)
    if text.lower() in _PUBLISHED or _is_pattern(raw):
        raise _refused(variable, "is an example or a pattern that anybody can guess")
    return EncryptionKey(raw)


def _is_pattern(raw: bytes) -> bool:
    """Repeated, counted up or down, or of few different bytes: then bytes or the steps between them recur."""
    steps = {(after - before) % 256 for before, after in pairwise(raw)}
    return min(len(set(raw)), len(steps)) < LEAST_VARIETY


def _refused(variable: str, why: str) -> Misconfigured:
    return Misconfigured(
        f"{variable} {why}.",
        "Make one with: python -c 'import secrets; print(secrets.token_hex(32))'",
        code="encryption_key_refused",
    )


class Seals:
    """Seals with the present key, opens with every key there is."""

    def __init__(
        self, keyring: Keyring, key: EncryptionKey | None = None, previous: Sequence[EncryptionKey] = ()
    ) -> None:
        self._keyring = keyring
        self._key = key
        self._all = ((key,) if key else ()) + tuple(previous)

    @classmethod
    def of(cls, keyring: Keyring, present: str = "", previous: str = "") -> "Seals":
        """From the values of the two variables. Raises `Misconfigured` naming the wrong one."""
        former = [text.strip() for text in previous.split(",") if text.strip()]
        return cls(
            keyring,
            encryption_key(present) if present else None,
            [encryption_key(text, PREVIOUS_VARIABLE) for text in former],
        )

    @property
    def current(self) -> str:
        """The id of the key that seals."""
        return self._key.id if self._key else self._keyring.current

    def is_current(self, sealed: str) -> bool:
        """Whether it was sealed by the key that seals now."""
        if self._key:
            return sealed.startswith(f"{VERSION}.{self._key.id}.")
        return self._keyring.is_current(sealed)

    def seal(self, purpose: str, identity: str, plain: str) -> str:
        """Encrypt for one row; the same text gives another result each time."""
        if not self._key:
            return self._keyring.seal(purpose, identity, plain.encode())
        nonce = secrets.token_bytes(12)
        bound = _bound(self._key.id, purpose, identity)
        content = nonce + AESGCM(self._key.secret).encrypt(nonce, plain.encode(), bound)
        return f"{VERSION}.{self._key.id}.{base64.urlsafe_b64encode(content).decode().rstrip('=')}"

    def open(self, purpose: str, identity: str, sealed: str) -> str:
        """Decrypt. Raises `Misconfigured`: its key is not here, or it was sealed for something else."""
        if old := _OLD_FORM.fullmatch(sealed):
            return self._open_old(identity, bytes.fromhex(old[1]), bytes.fromhex(old[2]))
        if not sealed.startswith(f"{VERSION}."):
            return self._keyring.open(purpose, identity, sealed).decode()
        key_id, _, text = sealed.removeprefix(f"{VERSION}.").partition(".")
        key = next((key for key in self._all if key.id == key_id), None)
        if key is None:
            raise _missing(identity, f"encryption key {key_id}")
        try:
            content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            bound = _bound(key_id, purpose, identity)
            return AESGCM(key.secret).decrypt(content[:12], content[12:], bound).decode()
        except (InvalidTag, ValueError):
            raise Misconfigured(
                f"The key of {identity} does not open: it was changed, cut, or belongs to another row.",
                "Enter the key again.",
                code="sealed_value_broken",
            ) from None

    def _open_old(self, identity: str, nonce: bytes, content: bytes) -> str:
        for key in self._all:
            try:
                return AESGCM(key.secret).decrypt(nonce, content, None).decode()
            except (InvalidTag, UnicodeDecodeError):
                continue
        raise _missing(identity, "an encryption key")


def _missing(identity: str, what: str) -> Misconfigured:
    return Misconfigured(
        f"The key of {identity} was sealed with {what} that is not here.",
        f"Put the old one into {PREVIOUS_VARIABLE} and start again, or enter the key again.",
        code="key_missing",
    )


def _bound(key_id: str, purpose: str, identity: str) -> bytes:
    """The associated data: the lengths keep ("a", "bc") and ("ab", "c") apart."""
    parts = [part.encode() for part in (VERSION, key_id, purpose, identity)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def new_client_key() -> str:
    """`qr_` and 256 random bits."""
    return "qr_" + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """What a token is looked up by; it has 256 random bits, so that no salt is needed."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
