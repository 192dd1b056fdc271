"""Which repositories live in Gitea: `gitea:owner/name`, or an address below Gitea's own."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from quarterdeck.kernel.errors import Invalid

PREFIX = "gitea:"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_SEPARATE = ("", ".", "..")


@dataclass(frozen=True)
class Place:
    """A repository of Gitea. Names are compared without regard to case, as Gitea does."""

    owner: str
    name: str

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def path(self) -> str:
        """Where the REST API has it."""
        return f"/repos/{self.full_name}"

    def is_called(self, full_name: str) -> bool:
        return self.full_name.lower() == full_name.lower()


def place(repository: str, base: str) -> Place | None:
    """The place that an address names; None if it lives elsewhere. `base` is Gitea's address, or "".

    Raises `Invalid` for an address in Gitea that names no repository.
    """
    if repository.startswith(PREFIX):
        return _place(repository, repository.removeprefix(PREFIX))
    if not base or not repository.startswith(("http://", "https://")):
        return None
    there, ours = urlsplit(repository), urlsplit(base)
    root = ours.path.rstrip("/") + "/"
    if (there.scheme, there.netloc.lower()) != (ours.scheme, ours.netloc.lower()):
        return None
    if not there.path.startswith(root) or there.query or there.fragment:
        return None
    return _place(repository, unquote(there.path.removeprefix(root)))


def _place(repository: str, path: str) -> Place:
    owner, _, name = path.strip("/").partition("/")
    name = name.removesuffix(".git")
    if all(_NAME.fullmatch(part) and part not in _SEPARATE for part in (owner, name)):
        return Place(owner, name)
    raise Invalid(
        f"{repository[:80]!r} names no repository of Gitea.",
        "Write it as gitea:owner/name, or give the address of its page.",
        field="repository",
    )
