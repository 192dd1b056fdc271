"""The admin API's backends: as they are stored, and as they stand at this moment."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import structlog
from starlette.requests import Request
from starlette.routing import Route

from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.router.admin.forms import BackendChange, BackendForm
from quarterdeck.router.admin.wire import (
    Refused,
    answered,
    form_of,
    identity_of,
    iso,
    iso_of,
    missing,
    text_of,
    wrong,
)
from quarterdeck.router.backend import Pool
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.limits.standing import View
from quarterdeck.router.model import BackendRow
from quarterdeck.router.storage.store import Store

log = structlog.get_logger(__name__)

Changed = Callable[[], Awaitable[None]]
"""Lets the running router take over what was just written."""


class Backends:
    """Reading, entering, changing, resetting, deleting."""

    def __init__(self, store: Store, balancer: Balancer, now: Callable[[], float], changed: Changed) -> None:
        self._store = store
        self._balancer = balancer
        self._now = now
        self._changed = changed
        self.routes = [
            Route("/backends", answered(self._list), methods=["GET"]),
            Route("/backends", answered(self._add), methods=["POST"]),
            Route("/backends/{id}", answered(self._get), methods=["GET"]),
            Route("/backends/{id}", answered(self._change), methods=["PUT"]),
            Route("/backends/{id}", answered(self._delete), methods=["DELETE"]),
            Route("/backends/{id}/reset", answered(self._reset), methods=["POST"]),
            Route("/pools", answered(self._pools), methods=["GET"]),
        ]

    async def _list(self, request: Request) -> Any:
        pool = text_of(request, "pool")
        if pool and pool not in set(Pool):
            raise wrong("pool", "must be 'primary' or 'fallback'", "query")
        return [self._shown(row) for row in await self._store.backends(pool)]

    async def _get(self, request: Request) -> Any:
        return self._shown(await self._store.backend(identity_of(request)))

    async def _add(self, request: Request) -> Any:
        form = await form_of(request, BackendForm)
        if not form.api_key and not form.key_connection:
            raise (
                wrong("api_key", "must not be empty")
                if "api_key" in form.model_fields_set
                else missing("api_key")
            )
        _one_key(form.api_key, form.key_connection)
        row = await self._store.add_backend(form, self._balancer.tuning)
        await self._take_over()
        return self._shown(row)

    async def _change(self, request: Request) -> Any:
        change = await form_of(request, BackendChange)
        _one_key(change.api_key, change.key_connection)
        row = await self._store.change_backend(identity_of(request), change)
        await self._take_over()
        if change.resets:
            self._balancer.reset(row.id, self._now())
        return self._shown(row)

    async def _reset(self, request: Request) -> Any:
        row = await self._store.reset_backend(identity_of(request))
        await self._take_over()
        self._balancer.reset(row.id, self._now())
        return self._shown(row)

    async def _delete(self, request: Request) -> Any:
        identity = identity_of(request)
        await self._store.delete_backend(identity)
        await self._take_over()
        return {"status": "deleted", "id": identity}

    async def _pools(self, request: Request) -> Any:
        return {pool.value: asdict(count) for pool, count in self._balancer.pools(self._now()).items()}

    async def _take_over(self) -> None:
        await take_over(self._changed)

    def _shown(self, row: BackendRow) -> dict[str, Any]:
        try:
            live = _live(self._balancer.view(row.id, self._now()))
        except KeyError:  # routing has not taken it over yet
            live = {"cooldown_until": iso(row.cooldown_until), "reason": row.status_reason}
        return _stored(row) | {"api_key": self._store.masked(row)} | live


async def take_over(changed: Changed) -> None:
    """What was written counts at once; if that fails, at the next refresh."""
    try:
        await changed()
    except QuarterdeckError as error:
        log.warning("change_not_taken_over_yet", reason=str(error))


def _one_key(api_key: str, connection: str) -> None:
    if api_key and connection:
        raise Refused(
            422, [{"loc": ["body", "key_connection"], "msg": "give a key or a connection, not both"}]
        )


def _stored(row: BackendRow) -> dict[str, Any]:
    shown = (
        *("id", "name", "label", "api_base_url", "key_connection", "api", "timeout_seconds", "rpm_limit"),
        *("pool", "enabled", "status", "source", "consecutive_429_count", "model_mappings"),
    )
    return {name: getattr(row, name) for name in shown} | {
        "metadata": row.extra,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


def _live(view: View) -> dict[str, Any]:
    """How it stands. `half_open`: calls that may be in flight while it recovers; null = fully open."""
    return {
        "status": view.status,
        "reason": view.reason,
        "kind": view.kind,
        "cooldown_until": iso_of(view.until),
        "next_probe_at": iso_of(view.next_probe),
        "consecutive_429_count": view.count,
        "half_open": view.step or None,
        "in_flight": view.in_flight,
        "health": view.health,
        "failures": view.failures,
        "unwell_since": iso_of(view.unwell_since),
        "success_rate_5m": view.success_rate_5m,
        "calls_5m": view.calls_5m,
        "last_latency_ms": view.latency_ms,
        "last_status_code": view.status_code,
        "last_check_at": iso_of(view.checked_at),
        "rate_limiter": asdict(view.level),
    }
