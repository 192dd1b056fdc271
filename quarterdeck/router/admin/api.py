"""The admin API: an ASGI application to be mounted at `/api/admin` (specification, section 15.2).

Every path, also one that does not exist, asks for the admin's token first.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from quarterdeck.kernel.errors import NotFound
from quarterdeck.router import config
from quarterdeck.router.admin.backends import Backends, Changed, take_over
from quarterdeck.router.admin.clients import ClientRoutes
from quarterdeck.router.admin.forms import SettingForm
from quarterdeck.router.admin.stats import StatsRoutes
from quarterdeck.router.admin.wire import (
    IsAdmin,
    Refused,
    answered,
    form_of,
    identity_of,
    iso,
    iso_of,
    no_such_route,
    refusal,
    text_of,
    wrong,
)
from quarterdeck.router.config import RouterSettings
from quarterdeck.router.ledger.stats import Stats
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.storage.store import Store
from quarterdeck.router.upkeep.jobs import Result


class Jobs(Protocol):
    """Runs upkeep when it is asked to."""

    async def run(self, name: str, by: str = ...) -> Result: ...


class Admin:
    """The application. `changed` lets routing take over what was written; `is_admin` None = it is off."""

    def __init__(
        self,
        store: Store,
        stats: Stats,
        balancer: Balancer,
        upkeep: Jobs,
        *,
        now: Callable[[], float],
        changed: Changed,
        is_admin: IsAdmin | None,
        settings: RouterSettings,
    ) -> None:
        self._is_admin = is_admin
        rooms = (
            Backends(store, balancer, now, changed),
            ClientRoutes(store.clients, now, changed),
            StatsRoutes(stats),
            Settings(store, changed, settings),
            Upkeep(store, upkeep),
        )
        self._app = Starlette(
            routes=[route for room in rooms for route in room.routes],
            exception_handlers={HTTPException: no_such_route},
        )
        self._app.router.redirect_slashes = False

    def refusal(self, request: Request) -> Response | None:
        """Why a request may not come in; None = it may. The dashboard's stream asks the same."""
        return refusal(request, self._is_admin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self.refusal(Request(scope)) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)


class Settings:
    """The rows of `system_config`, and what is in effect."""

    def __init__(self, store: Store, changed: Changed, settings: RouterSettings) -> None:
        self._store = store
        self._changed = changed
        self._settings = settings
        self.routes = [
            Route("/config", answered(self._list), methods=["GET"]),
            Route("/config/{key}", answered(self._get), methods=["GET"]),
            Route("/config/{key}", answered(self._put), methods=["PUT"]),
            Route("/config/{key}", answered(self._delete), methods=["DELETE"]),
            Route("/settings", answered(self._effective), methods=["GET"]),
        ]

    async def _list(self, request: Request) -> Any:
        return [
            {
                "key": row.key,
                "value": row.value,
                "description": row.description,
                "updated_at": iso(row.updated_at),
            }
            for row in await self._store.settings()
        ]

    async def _get(self, request: Request) -> Any:
        key, rows = identity_of(request, "key"), await self._rows()
        if key not in rows:
            raise NotFound.among("stored setting", key, rows)
        return {"key": key, "value": rows[key]}

    async def _put(self, request: Request) -> Any:
        key = identity_of(request, "key")
        if key not in config.KEYS:
            raise Refused(400, f"There is no setting {key!r} that could be stored.")
        form = await form_of(request, SettingForm)
        await self._store.put_setting(key, form.text, form.description)
        await take_over(self._changed)
        return {"key": key, "value": (await self._rows())[key]}

    async def _delete(self, request: Request) -> Any:
        key = identity_of(request, "key")
        await self._store.delete_setting(key)
        await take_over(self._changed)
        return {"status": "deleted", "key": key}

    async def _effective(self, request: Request) -> Any:
        """Every key: its value, whence it is, and whether a change needs a restart."""
        now = config.values(self._settings, await self._rows())
        return [
            {
                "key": key,
                "value": value,
                "source": source,
                "variable": config.variable(key),
                "needs_restart": key in config.RESTART,
            }
            for key, (value, source) in now.items()
        ]

    async def _rows(self) -> Mapping[str, str]:
        return {row.key: row.value for row in await self._store.settings()}


class Upkeep:
    """What is done from time to time: when it last was, and doing it now."""

    def __init__(self, store: Store, upkeep: Jobs) -> None:
        self._store = store
        self._upkeep = upkeep
        self.routes = [
            Route("/upkeep", answered(self._list), methods=["GET"]),
            Route("/upkeep/{job}", answered(self._run), methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Any:
        return [_shown(result) for result in await self._store.upkeep()]

    async def _run(self, request: Request) -> Any:
        by = text_of(request, "by") or "api"
        if len(by) > 50 or not by.isprintable():
            raise wrong("by", "must be a name of at most 50 characters", "query")
        return _shown(await self._upkeep.run(identity_of(request, "job"), by=by))


def _shown(result: Result) -> dict[str, Any]:
    return {
        "job": result.job,
        "ran_at": iso_of(result.ran_at),
        "by": result.by,
        "ok": result.ok,
        "text": result.text,
    }
