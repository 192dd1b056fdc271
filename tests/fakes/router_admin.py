"""A small router behind its dashboard: the real balancer, the real forms, everything else kept in lists.

It answers the admin API as the router does, without a database, so that the page can be looked at alone.
"""

import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from quarterdeck.router.admin.forms import BackendChange, BackendForm, ClientChange, ClientForm
from quarterdeck.router.backend import Backend, Prices
from quarterdeck.router.config import Tuning
from quarterdeck.router.dashboard.pages import Dashboard
from quarterdeck.router.dashboard.snapshot import snapshots
from quarterdeck.router.limits.balancer import Balancer

TOKEN = "the-admin-token"
NOTHING = {
    "total_requests": 0,
    "total_errors": 0,
    "total_tokens": 0,
    "total_prompt_tokens": 0,
    "total_completion_tokens": 0,
    "total_cost": 0.0,
}


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class SmallRouter:
    """`hourly`, `daily`, `events` and `calls` are the rows that the API gives; `totals` what is told live.

    `new` are the limits of providers that come without any.
    """

    def __init__(self, interval: float = 0.05) -> None:
        self.balancer = Balancer(Tuning())
        self.stored: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.clients: dict[str, dict[str, Any]] = {}
        self.totals: dict[str, Any] = dict(NOTHING)
        self.hourly: list[dict[str, Any]] = []
        self.daily: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.new = {"rpm_limit": 40, "timeout_seconds": 120}
        self.token = TOKEN
        self.is_broken = False
        self.started_at = time.time()
        self.interval = interval
        self._count = 0

    def refusal(self, request: Request) -> Response | None:
        given = request.headers.get("authorization", "")
        if not given:
            return _no("The Authorization header is missing.")
        return None if given == f"Bearer {self.token}" else _no("The admin token is not valid.")

    def add(self, **values: Any) -> str:
        """A provider, without asking the API."""
        given = {
            "name": "P",
            "api_base_url": "https://provider.example/v1",
            "api_key": "sk-0123456789abcdef012345",
        }
        return self._keep(
            self._id("bkd"), BackendForm.model_validate(given | values).model_dump(mode="json")
        )["id"]

    @property
    def app(self) -> Starlette:
        """A new application, with a dashboard of its own."""
        source = snapshots(self.balancer, lambda: dict(self.totals), self.started_at, time.time)
        self.dashboard = Dashboard(source, self.refusal, lambda: self.interval)
        routes = [
            Route("/backends", self._backends, methods=["GET", "POST"]),
            Route("/backends/{id}", self._backend, methods=["GET", "PUT", "DELETE"]),
            Route("/backends/{id}/reset", self._reset, methods=["POST"]),
            Route("/clients", self._clients, methods=["GET", "POST"]),
            Route("/clients/{id}", self._client, methods=["PUT", "DELETE"]),
            Route("/clients/{id}/key", self._new_key, methods=["POST"]),
            Route("/calls", lambda _: self._rows(self.calls)),
            Route("/stats/daily", lambda _: self._rows(self.daily)),
            Route("/stats/cooldown", lambda _: self._rows(self.events)),
            Route("/stats/hourly", self._hourly),
        ]
        api = Starlette(routes=routes, exception_handlers={ValidationError: _wrong, HTTPException: _failed})
        return Starlette(routes=[Mount("/api/admin", app=self._guarded(api)), Mount("/", app=self.dashboard)])

    def _guarded(self, api: Starlette) -> Any:
        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            refused = self.refusal(Request(scope))
            if self.is_broken and not refused:
                refused = JSONResponse({"detail": "The database is away."}, 503)
            await (refused or api)(scope, receive, send)

        return guarded

    def _rows(self, rows: list[dict[str, Any]]) -> Response:
        return JSONResponse(rows)

    async def _hourly(self, request: Request) -> Response:
        only = request.query_params.get("backend_id")
        return JSONResponse([row for row in self.hourly if only in (None, row["backend_id"])])

    # Providers.

    async def _backends(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse([self._masked(row) for row in self.stored.values()])
        form = BackendForm.model_validate(await request.json())
        return JSONResponse(self._masked(self._keep(self._id("bkd"), form.model_dump(mode="json"))))

    async def _backend(self, request: Request) -> Response:
        identity = self._known(self.stored, request)
        if request.method == "DELETE":
            del self.stored[identity]
            self._adopt()
            return JSONResponse({"status": "deleted", "id": identity})
        if request.method == "PUT":
            change = BackendChange.model_validate(await request.json()).model_dump(
                mode="json", exclude_unset=True
            )
            change = {name: value for name, value in change.items() if name != "api_key" or value}
            self._keep(identity, self.stored[identity] | change)
        return JSONResponse(self._masked(self.stored[identity]))

    async def _reset(self, request: Request) -> Response:
        identity = self._known(self.stored, request)
        self.balancer.reset(identity, time.time())
        return JSONResponse(self._masked(self.stored[identity]))

    def _keep(self, identity: str, values: Mapping[str, Any]) -> dict[str, Any]:
        defaults = {name: values[name] or value for name, value in self.new.items()}
        self.stored[identity] = {**values, **defaults, "id": identity}
        self._adopt()
        return self.stored[identity]

    def _adopt(self) -> None:
        self.balancer.adopt([_routed(row) for row in self.stored.values()], time.time())

    def _masked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, "api_key": f"{row['api_key'][:2]}****"}

    # Clients.

    async def _clients(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse(list(self.clients.values()))
        form = ClientForm.model_validate(await request.json())
        if form.name in [client["name"] for client in self.clients.values()]:
            raise HTTPException(409, "The name is taken. Choose another.")
        client, key = self.add_client(**form.model_dump())
        return JSONResponse(client | {"key": key})

    def add_client(self, **values: Any) -> tuple[dict[str, Any], str]:
        """A client, without asking the API, and its key."""
        identity = self._id("cli")
        used = {"requests_today": 0, "tokens_today": 0, "cost_today": 0.0}
        self.clients[identity] = (
            ClientForm.model_validate(values).model_dump(mode="json") | used | {"id": identity}
        )
        return self.clients[identity], self._make_key(identity)

    async def _client(self, request: Request) -> Response:
        identity = self._known(self.clients, request)
        if request.method == "DELETE":
            del self.clients[identity]
            return JSONResponse({"status": "deleted", "id": identity})
        change = ClientChange.model_validate(await request.json()).model_dump(exclude_unset=True)
        self.clients[identity] |= change
        return JSONResponse(self.clients[identity])

    async def _new_key(self, request: Request) -> Response:
        identity = self._known(self.clients, request)
        key = self._make_key(identity)
        return JSONResponse(self.clients[identity] | {"key": key})

    def _make_key(self, identity: str) -> str:
        key = f"qdk-{hashlib.sha256(self._id(identity).encode()).hexdigest()[:40]}"
        self.keys[identity] = key
        self.clients[identity]["key_hint"] = f"{key[:5]}…{key[-4:]}"
        return key

    def _known(self, among: Mapping[str, Any], request: Request) -> str:
        identity: str = request.path_params["id"]
        if identity not in among:
            raise HTTPException(404, f"There is no {identity!r}.")
        return identity

    def _id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._count:012x}"


def _routed(row: Mapping[str, Any]) -> Backend:
    form = BackendForm.model_validate({name: row[name] for name in BackendForm.model_fields if name in row})
    mappings = {model: mapping.mapping(model, Prices()) for model, mapping in form.model_mappings.items()}
    return Backend(
        id=row["id"],
        name=form.name,
        label=form.label,
        api_base_url=form.api_base_url,
        api_key=form.api_key,
        pool=form.pool,
        enabled=form.enabled,
        rpm_limit=form.rpm_limit or 40,
        timeout_seconds=form.timeout_seconds or 120,
        mappings=mappings,
    )


def _no(detail: str) -> Response:
    return JSONResponse({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})


async def _wrong(request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    return JSONResponse(
        {"detail": [{"loc": ["body", *e["loc"]], "msg": e["msg"]} for e in error.errors()]}, 422
    )


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code)
