"""The way to a running router for the rest of the house: its admin API, by address and token.

The router itself takes only its addresses and token from here; httpx would cost it 6 MB.
"""

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.ids import new_token
from quarterdeck.kernel.kept import kept
from quarterdeck.kernel.settings import Settings

if TYPE_CHECKING:
    import httpx

VARIABLE = "SIDECAR_ADMIN_TOKEN"
USUAL = "http://127.0.0.1:9190"
UPKEEP_SECONDS = 600.0
"""The longest job: a backup of a large ledger."""


def admin_token(settings: Settings) -> str:
    """The token of the admin API and the dashboard: from the environment, else made once and kept."""
    return os.environ.get(VARIABLE, "").strip() or kept(settings.keys_folder / "router-admin", new_token())


@dataclass(frozen=True)
class Addresses:
    """Where a router listens."""

    calls: str
    metrics: str


def announce(settings: Settings, addresses: Addresses) -> None:
    """Tell the rest of the house; readers see the old or the new, never half."""
    draft = settings.router_file.with_suffix(".new")
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.write_text(json.dumps(asdict(addresses)), encoding="utf-8")
    draft.replace(settings.router_file)


def address(settings: Settings) -> str:
    """Base address of the router: as set, else as the one of this home said last, else the usual one."""
    if settings.router_url:
        return settings.router_url.rstrip("/")
    try:
        return Addresses(**json.loads(settings.router_file.read_text(encoding="utf-8"))).calls
    except (OSError, ValueError, TypeError):
        return USUAL


def admin(settings: Settings, *, seconds: float = 10.0) -> "httpx.AsyncClient":
    """A client of the admin API. Its errors are those of `kernel.http`."""
    from quarterdeck.kernel import http

    return http.client(
        "the router",
        base_url=f"{address(settings)}/api/admin",
        headers={"Authorization": f"Bearer {admin_token(settings)}"},
        seconds=seconds,
    )


async def run_job(settings: Settings, job: str, by: str) -> str:
    """Have the router do an upkeep job now; what it did, in words.

    Raises `Unavailable` when the router is not there, `Conflict` when the job failed.
    """
    from quarterdeck.kernel import http

    async with admin(settings, seconds=UPKEEP_SECONDS) as router:
        done: dict[str, Any] = http.json_of(await router.post(f"/upkeep/{job}", params={"by": by}))
    if not done["ok"]:
        raise Conflict(f"The router's {job} failed: {done['text']}.", "See the router's log.")
    return str(done["text"])
