"""The hook with which Gitea tells the desk what happened, and a look at whether all is as it must be."""

from dataclasses import dataclass
from typing import Any

from quarterdeck.forge.gitea_address import Place
from quarterdeck.forge.gitea_api import GiteaApi
from quarterdeck.kernel.errors import Forbidden, Misconfigured

PATH = "/webhooks/gitea"

EVENTS = (
    "push",
    "delete",
    "pull_request",
    "pull_request_review",
    "pull_request_sync",
    "status",
    "workflow_run",
)
"""What gates care about. Older versions of Gitea ignore the names that they do not know."""


@dataclass(frozen=True)
class Installed:
    """What was done in one repository; `replaced` counts hooks of ours that were there before."""

    repository: str
    hook: int
    replaced: int


@dataclass(frozen=True)
class Sight:
    """What a look at a repository found: whether we may push, and whether a hook of ours is active there."""

    repository: str
    may_push: bool
    has_hook: bool
    is_archived: bool

    @property
    def ok(self) -> bool:
        return self.may_push and not self.is_archived


def hook_address(public_url: str) -> str:
    """Where Gitea sends deliveries. Raises `Misconfigured` without a public address."""
    if not public_url.startswith(("http://", "https://")):
        raise Misconfigured(
            "Gitea must be told where this desk can be reached, and QUARTERDECK_PUBLIC_URL is not set.",
            "Set it to the address at which Gitea reaches the web process, such as https://desk.example.org.",
            code="no_public_url",
        )
    return public_url.rstrip("/") + PATH


async def install(api: GiteaApi, place: Place, address: str, secret: str) -> Installed:
    """Let there be exactly one hook of ours, with this secret and our events. Repeatable.

    Gitea neither shows a hook's secret nor lets every version change it, so a new one takes the place of
    the old; for a moment there are two, and a change is told twice rather than not at all.
    """
    if not secret:
        raise Misconfigured(
            "The connection to Gitea has no `webhook_secret`: deliveries could not be told from forgeries.",
            "Enter one in the block `Quarterdeck Gitea`, or set GITEA_WEBHOOK_SECRET; any long random text"
            " will do.",
            code="no_webhook_secret",
        )
    old = [hook["id"] for hook in await _ours(api, place, address)]
    wish: dict[str, Any] = {
        "type": "gitea",
        "config": {"url": address, "content_type": "json", "secret": secret},
        "events": list(EVENTS),
        "active": True,
    }
    try:
        made = (await api.ask("POST", f"{place.path}/hooks", body=wish)).content
    except Forbidden as error:
        todo = "Make the token's user an administrator of the repository, or add the hook by hand."
        raise Forbidden(error.detail, todo, code=error.code) from error
    for number in old:
        await api.ask("DELETE", f"{place.path}/hooks/{number}", judge=(404,))
    return Installed(place.full_name, int(made["id"]), len(old))


async def look(api: GiteaApi, place: Place, address: str) -> Sight:
    """How a repository stands to us. Raises as `GiteaApi` does."""
    facts = await api.get(place.path)
    may = facts.get("permissions") or {}
    has_hook = False
    if may.get("admin"):
        has_hook = any(hook.get("active") for hook in await _ours(api, place, address))
    return Sight(place.full_name, bool(may.get("push")), has_hook, bool(facts.get("archived")))


async def _ours(api: GiteaApi, place: Place, address: str) -> list[dict[str, Any]]:
    hooks = [hook async for hook in api.all(f"{place.path}/hooks")]
    return [hook for hook in hooks if (hook.get("config") or {}).get("url") == address]
