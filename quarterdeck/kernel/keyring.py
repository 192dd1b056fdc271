"""Secrets at rest: AES-256-GCM under master keys that never meet the database.

    sealed = keyring.seal("connections", "telegram/default", b"...")     # text, bound to that very row
    keyring.open("connections", "telegram/default", sealed)

A sealed value is `qd1.<key id>.<nonce and ciphertext, base64url>`. Its key is derived from the master key
for one purpose (HKDF-SHA256), and purpose and row are authenticated with it: a value that was changed,
cut, or moved to another row or purpose does not open.

Master keys are files `master-0001.key` in `$QUARTERDECK_HOME/keys` (the highest number seals, all of them
open), or they come from the environment and win over the files:

    QUARTERDECK_MASTER_KEY          32 bytes in base64
    QUARTERDECK_MASTER_KEYS_OLD     former keys, separated by commas; they only open

Rotation loses nothing: a new key seals from then on, the old ones go on opening, and the owners of
sealed rows (`protect`) seal them anew with `reencrypt`, in pieces that can be interrupted. Old keys are
never deleted here: backups need them.
"""

import base64
import os
import secrets
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from quarterdeck.kernel import folders
from quarterdeck.kernel.errors import Conflict, Misconfigured

log = structlog.get_logger(__name__)

VERSION = "qd1"
VARIABLE = "QUARTERDECK_MASTER_KEY"
OLD_VARIABLE = "QUARTERDECK_MASTER_KEYS_OLD"

Reencrypt = Callable[[], Awaitable[int]]
"""Seals every row of one owner with the present key; returns how many it sealed. Repeatable."""


@dataclass(frozen=True)
class MasterKey:
    """32 random bytes and where they came from; `id` names them without telling them."""

    secret: bytes = field(repr=False)
    origin: str

    @property
    def id(self) -> str:
        return self.derive("key id")[:4].hex()

    def derive(self, purpose: str) -> bytes:
        """The key of one purpose: 32 bytes."""
        info = f"quarterdeck {VERSION} {purpose}".encode()
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self.secret)


class Keyring:
    """Seals with the present key, opens with any key it has. Safe to share between threads and tasks."""

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        """Read the keys, and make the first one if there is none.

        Raises `Misconfigured` when a key cannot be read, made, or kept from other users.
        """
        self._folder = folder
        self._fixed = _from_environment(os.environ if environ is None else environ)
        self._owners: dict[str, Reencrypt] = {}
        self._keys: dict[str, MasterKey] = {}
        self._seen: frozenset[str] = frozenset()
        self._read()
        if not self._keys:
            _make(folder, 1)
            self._read()

    @property
    def current(self) -> str:
        """The id of the key that seals."""
        return self._present().id

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, the present one first."""
        return tuple(self._keys)

    def seal(self, purpose: str, identity: str, content: bytes) -> str:
        """Encrypt for one row of one purpose. The same content gives another text each time."""
        key = self._present()
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(key.derive(purpose)).encrypt(nonce, content, _bound(key.id, purpose, identity))
        return f"{VERSION}.{key.id}.{_text(nonce + sealed)}"

    def open(self, purpose: str, identity: str, sealed: str) -> bytes:
        """Decrypt. Raises `Misconfigured`: the key is missing, or the value is not what was sealed here."""
        version, key_id, content = _parts(sealed)
        if version != VERSION or content is None:
            raise _broken(purpose, identity)
        key = self._keys.get(key_id) or self._reread().get(key_id)
        if key is None:
            raise Misconfigured(
                f"The secret {purpose} {identity} was sealed with master key {key_id}, which is not here.",
                f"Put its file back into {self._folder}, or its value into {OLD_VARIABLE}; "
                "if it is lost, enter the secret again.",
                code="key_missing",
            )
        try:
            bound = _bound(key_id, purpose, identity)
            return AESGCM(key.derive(purpose)).decrypt(content[:12], content[12:], bound)
        except (InvalidTag, ValueError):
            raise _broken(purpose, identity) from None

    def is_current(self, sealed: str) -> bool:
        """Whether a value is sealed with the present key."""
        return sealed.startswith(self.current_prefix)

    @property
    def current_prefix(self) -> str:
        """How every value sealed with the present key begins (for queries)."""
        return f"{VERSION}.{self.current}."

    def rotate(self) -> str:
        """Make a new master key; returns its id. Everything sealed before stays readable.

        A key from the environment was changed there: then that is the new one. Raises `Conflict` if it is
        the only one, for nothing was changed then.
        """
        if self._fixed and len(self._keys) > 1:
            return self.current
        if self._fixed:
            raise Conflict(
                f"The master key comes from {VARIABLE}; it can only be changed there.",
                f"Set {VARIABLE} to a new key and {OLD_VARIABLE} to the present one, then rotate again.",
                code="key_from_environment",
            )
        self._reread()
        highest = max((_number(path) for path in _files(self._folder)), default=0)
        _make(self._folder, highest + 1)
        self._reread()
        return self.current

    def protect(self, owner: str, reencrypt: Reencrypt) -> None:
        """Register the owner of sealed rows, so that a rotation reaches them."""
        self._owners[owner] = reencrypt

    async def reencrypt(self) -> dict[str, int]:
        """Let every owner seal its rows with the present key; rows sealed anew, by owner.

        May be interrupted anywhere and repeated: what is not done yet is still readable.
        """
        return {owner: await reencrypt() for owner, reencrypt in self._owners.items()}

    def _present(self) -> MasterKey:
        """The sealing key; another process may have made a newer one since we looked."""
        if not self._fixed and _names(self._folder) != self._seen:
            self._read()
        return next(iter(self._keys.values()))

    def _reread(self) -> dict[str, MasterKey]:
        self._read()
        return self._keys

    def _read(self) -> None:
        names = _names(self._folder)
        newest_first = sorted(_files(self._folder), key=_number, reverse=True)
        keys = [*self._fixed, *map(_load, newest_first)]
        if keys:  # a folder that vanished takes nothing away from a running process
            self._keys = {key.id: key for key in keys}
        self._seen = names


def _bound(key_id: str, purpose: str, identity: str) -> bytes:
    """The associated data: lengths keep ("a", "bc") and ("ab", "c") apart."""
    parts = (VERSION, key_id, purpose, identity)
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)


def _parts(sealed: str) -> tuple[str, str, bytes | None]:
    version, _, rest = sealed.partition(".")
    key_id, _, content = rest.partition(".")
    raw = _bytes(content)
    return version, key_id, raw if raw is not None and _text(raw) == content else None


def _bytes(text: str) -> bytes | None:
    """What base64 says, in either alphabet, with or without its padding; None if it is not base64."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        return None


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _broken(purpose: str, identity: str) -> Misconfigured:
    return Misconfigured(
        f"The secret {purpose} {identity} does not open: it was changed, cut, or belongs to another row.",
        "Restore the row from a backup, or enter the secret again.",
        code="sealed_value_broken",
    )


def _from_environment(environ: Mapping[str, str]) -> list[MasterKey]:
    present, old = environ.get(VARIABLE, "").strip(), environ.get(OLD_VARIABLE, "")
    former = [text.strip() for text in old.split(",") if text.strip()]
    if not present and former:
        raise Misconfigured(f"{OLD_VARIABLE} is set, but {VARIABLE} is not.", f"Set {VARIABLE} too.")
    keys = [MasterKey(_decoded(text, OLD_VARIABLE), OLD_VARIABLE) for text in former]
    return [MasterKey(_decoded(present, VARIABLE), VARIABLE), *keys] if present else []


def _decoded(text: str, origin: str) -> bytes:
    raw = _bytes(text.strip())
    if raw is None or len(raw) != 32:
        raise Misconfigured(
            f"The master key in {origin} is not 32 bytes in base64.",
            "Restore it from where you keep it; `openssl rand -base64 32` makes a new one.",
            code="key_malformed",
        )
    return raw


def _files(folder: Path) -> list[Path]:
    return list(folder.glob("master-*.key"))


def _number(path: Path) -> int:
    number = path.stem.removeprefix("master-")
    return int(number) if number.isdigit() else 0


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in _files(folder))


def _load(path: Path) -> MasterKey:
    try:
        _keep_private(path)
        return MasterKey(_decoded(path.read_text("ascii"), str(path)), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"The master key {path} cannot be read: {error}.",
            "Make it readable for this user alone.",
            code="key_unreadable",
        ) from None


def _keep_private(path: Path) -> None:
    """Take the rights away from everybody else, or refuse the key."""
    if not stat.S_IMODE(path.stat().st_mode) & 0o077:
        return
    path.chmod(0o600)
    log.warning("key_was_readable_by_others", path=str(path), now="0600")


def _make(folder: Path, number: int) -> None:
    """Write a new key under this number, complete or not at all; whoever is first wins."""
    path = folder / f"master-{number:04d}.key"
    draft = folder / f".draft-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folders.make(folder)
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(draft)
        except FileExistsError:
            pass  # another process made it; its key is as good as ours
        finally:
            draft.unlink(missing_ok=True)
        folders.sync(folder)
    except OSError as error:
        raise Misconfigured(
            f"A master key cannot be made in {folder}: {error.strerror}.",
            f"Make the folder writable, or set {VARIABLE}.",
            code="key_not_made",
        ) from None
