"""The admin API's clients: keys, whom they belong to, budgets, and what was used today."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from quarterdeck.kernel.errors import NotFound
from quarterdeck.router.admin.backends import Changed, take_over
from quarterdeck.router.admin.forms import ClientChange, ClientForm, usd
from quarterdeck.router.admin.wire import answered, form_of, identity_of, iso
from quarterdeck.router.storage.client_store import ClientKey, ClientStore, Spent


class ClientRoutes:
    """Making, changing, renewing, deleting. A key is told once, in the answer that made it."""

    def __init__(self, store: ClientStore, now: Callable[[], float], changed: Changed) -> None:
        self._store = store
        self._now = now
        self._changed = changed
        self.routes = [
            Route("/clients", answered(self._list), methods=["GET"]),
            Route("/clients", answered(self._add), methods=["POST"]),
            Route("/clients/{id}", answered(self._get), methods=["GET"]),
            Route("/clients/{id}", answered(self._change), methods=["PUT"]),
            Route("/clients/{id}", answered(self._delete), methods=["DELETE"]),
            Route("/clients/{id}/key", answered(self._new_key), methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Any:
        spent = await self._store.spent(self._now())
        return [_shown(client, spent.get(client.id, Spent())) for client in await self._store.all()]

    async def _get(self, request: Request) -> Any:
        identity = identity_of(request)
        for client in await self._store.all():
            if client.id == identity:
                return await self._one(client)
        raise NotFound(f"There is no client {identity!r}.", code="unknown_client")

    async def _add(self, request: Request) -> Any:
        client, key = await self._store.add(await form_of(request, ClientForm))
        await take_over(self._changed)
        return await self._one(client) | {"key": key}

    async def _change(self, request: Request) -> Any:
        change = await form_of(request, ClientChange)
        client = await self._store.change(identity_of(request), change)
        await take_over(self._changed)
        return await self._one(client)

    async def _new_key(self, request: Request) -> Any:
        client, key = await self._store.new_key(identity_of(request))
        await take_over(self._changed)
        return await self._one(client) | {"key": key}

    async def _delete(self, request: Request) -> Any:
        identity = identity_of(request)
        await self._store.delete(identity)
        await take_over(self._changed)
        return {"status": "deleted", "id": identity}

    async def _one(self, client: ClientKey) -> dict[str, Any]:
        return _shown(client, (await self._store.spent(self._now())).get(client.id, Spent()))


def _shown(client: ClientKey, spent: Spent) -> dict[str, Any]:
    return {
        "id": client.id,
        "name": client.name,
        "agent": client.agent,
        "enabled": client.enabled,
        "key_hint": client.key_hint,
        "tokens_per_day": client.tokens_per_day,
        "cost_per_day": None if client.cost_per_day is None else usd(client.cost_per_day),
        "requests_today": spent.requests,
        "tokens_today": spent.tokens,
        "cost_today": usd(spent.cost),
        "created_at": iso(client.created_at),
        "updated_at": iso(client.updated_at),
    }
