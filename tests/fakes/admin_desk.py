"""The admin API as a router has it: real database, balancer and ledger; only calls are made up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from quarterdeck.kernel.database import Database
from quarterdeck.router.admin.api import Admin
from quarterdeck.router.admin.wire import IsAdmin, only
from quarterdeck.router.clients import Clients
from quarterdeck.router.config import RouterSettings, Tuning, tuning
from quarterdeck.router.ledger.stats import Stats
from quarterdeck.router.ledger.writer import Ledger
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.model import Job
from quarterdeck.router.storage.store import Store
from quarterdeck.router.upkeep.jobs import Upkeep
from tests.fakes.router_parts import NOON, store

TOKEN = "the-admin-token"
ADMIN = only(TOKEN)


@dataclass
class Desk:
    """Everything that an admin request can reach. `now` stands still until a test moves it."""

    database: Database
    http: httpx.AsyncClient
    store: Store
    ledger: Ledger
    balancer: Balancer
    clients: Clients
    stats: Stats
    admin: Admin
    now: float = NOON
    taken_over: int = 0
    jobs: list[str] = field(default_factory=list)

    async def changed(self) -> None:
        """What the router does when something was written."""
        snapshot = await self.store.snapshot()
        self.balancer.tuning = tuning(RouterSettings(), snapshot.config)
        self.balancer.adopt(snapshot.backends, self.now, snapshot.states)
        self.clients.adopt(snapshot.clients)
        self.taken_over += 1

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """The admin API below its path, as the router's door calls it."""
        await self.admin(scope | {"root_path": "/api/admin"}, receive, send)

    async def get(self, path: str, status: int = 200, **query: Any) -> Any:
        return self._told(await self.http.get(path, params=query), status)

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        return self._told(await self.http.post(path, json=body), status)

    async def put(self, path: str, body: Any, status: int = 200) -> Any:
        return self._told(await self.http.put(path, json=body), status)

    async def delete(self, path: str, status: int = 200) -> Any:
        return self._told(await self.http.delete(path), status)

    @staticmethod
    def _told(answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, answer.text
        return answer.json()


@asynccontextmanager
async def admin_desk(
    database: Database, folder: Path, is_admin: IsAdmin | None = ADMIN
) -> AsyncIterator[Desk]:
    rooms, balancer, clients = store(database), Balancer(Tuning()), Clients()
    desk: Desk

    def now() -> float:
        return desk.now

    async with Ledger(database, folder, lambda: NOON) as ledger:
        stats = Stats(database, now, lambda: ledger.totals)

        async def aggregate() -> str:
            desk.jobs.append("aggregate")
            return await stats.aggregate()

        upkeep = Upkeep({Job.AGGREGATE: aggregate}, rooms, now, Tuning)
        admin = Admin(
            rooms,
            stats,
            balancer,
            upkeep,
            now=now,
            changed=lambda: desk.changed(),
            is_admin=is_admin,
            settings=RouterSettings(),
        )
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(lambda *call: desk.app(*call), raise_app_exceptions=False),
            base_url="http://router/api/admin",
            headers={"Authorization": f"Bearer {TOKEN}"},
        ) as http:
            desk = Desk(database, http, rooms, ledger, balancer, clients, stats, admin)
            yield desk
