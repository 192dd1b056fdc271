"""The router, put together: what calls are answered from, what runs beside them, how all of it ends.

async with opened(load(), config.load(), url) as router:
    ...                                  # serve router.application and router.metrics
    await router.drain()
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp
import structlog

from quarterdeck.kernel import log as logs
from quarterdeck.kernel.bus import PostgresBus
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.kernel.settings import Settings
from quarterdeck.kernel.words import counted
from quarterdeck.router import access, config, steady
from quarterdeck.router.admin.api import Admin
from quarterdeck.router.admin.wire import only
from quarterdeck.router.backend import OPENAI, REHEARSAL
from quarterdeck.router.call import Call
from quarterdeck.router.clients import Clients
from quarterdeck.router.dashboard.pages import Dashboard
from quarterdeck.router.dashboard.snapshot import snapshots
from quarterdeck.router.door.application import Application
from quarterdeck.router.door.attempts import Ways
from quarterdeck.router.door.request_log import RequestLog
from quarterdeck.router.ending import ended
from quarterdeck.router.freshness import Freshness
from quarterdeck.router.ledger.prices import PriceTable
from quarterdeck.router.ledger.stats import Stats
from quarterdeck.router.ledger.writer import Ledger
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.limits.line import Line
from quarterdeck.router.model import Job
from quarterdeck.router.storage import importing
from quarterdeck.router.storage.client_store import TOPIC
from quarterdeck.router.storage.keys import Seals
from quarterdeck.router.storage.lease import Lease
from quarterdeck.router.storage.snapshot import Snapshot
from quarterdeck.router.storage.store import Store
from quarterdeck.router.upkeep import changes_log
from quarterdeck.router.upkeep.backing_up import back_up
from quarterdeck.router.upkeep.jobs import Upkeep
from quarterdeck.router.upkeep.metrics import Gauges, Metrics
from quarterdeck.router.upkeep.probing import Prober
from quarterdeck.router.ways import rehearsal
from quarterdeck.router.ways.counting import TokenCounter
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from quarterdeck.router.ways.openai_way import OpenAIWay

log = structlog.get_logger(__name__)

VERSION = "2.0.0"
"""Of the router's API, as its users know it."""

CHANGES_EVERY = 0.2
"""Seconds until a change of a backend's standing is on its way to the database."""

SIZES_EVERY = 30.0


class Router:
    """An open router; `opened` makes it. `application` and `metrics` are to be served, each on its port."""

    def __init__(self, settings: Settings, environment: config.RouterSettings, url: str) -> None:
        self._settings = settings
        self._environment = environment
        self._database = Database(url, connections=8)
        keyring = Keyring(settings.keys_folder)
        secrets = (_text(environment.encryption_key), _text(environment.encryption_keys_previous))
        self._seals = Seals.of(keyring, *secrets)
        self._connections = Connections(self._database, keyring)
        self._store = Store(self._database, self._seals, PriceTable(), self._connections)
        self._store.protect(keyring)
        self._ledger = Ledger(self._database, settings.folder / "router", steady.now)
        self._stats = Stats(self._database, steady.now, lambda: self._ledger.totals)
        self._balancer = Balancer(config.Tuning())
        self._line = Line(self._balancer)
        self._clients = Clients(_text(environment.proxy_token))
        self._translated = LiteLLMWay(steady.now)
        self._ways = Ways(OpenAIWay(steady.now), self._translated, rehearsal.RehearsalWay())
        self._counter = TokenCounter()
        self._log = RequestLog()
        self._log_level = ""
        self._names = {rehearsal.BACKEND.id: rehearsal.BACKEND.name}
        self._rows: dict[str, str] = {}
        self._sizes = (0, 0)
        self._began = steady.now()
        self._refreshing = asyncio.Lock()
        self._freshness = Freshness(self.refresh, self._age)
        self.metrics = Metrics(self._gauges, lambda identity: self._names.get(identity, identity))
        self.place = config.place(environment, {})
        self.upkeep: Upkeep
        self.application: Application

    @property
    def drain_seconds(self) -> float:
        """How long calls under way may go on at a stop."""
        return self._environment.drain_seconds

    async def open(self, stack: AsyncExitStack) -> None:
        """Begin with what is stored. Raises `Unavailable` without a database, `Misconfigured`."""
        stack.push_async_callback(self._database.close)
        rows = {row.key: row.value for row in await self._store.settings()}
        self.place = config.place(self._environment, rows)
        if done := await importing.first_start(self._database, self._seals, self._environment, rows):
            log.info("sidecar_imported", what=done)
        with suppress(QuarterdeckError):  # told by the rows that do not open
            await self._store.reseal()
        await stack.enter_async_context(self._ledger)
        await self.refresh()
        self._clients.load(await self._store.clients.spent(steady.now()), steady.now())
        for part in (self._counter, self._ways.short, self._translated):
            stack.push_async_callback(part.close)
        await self._put_together(stack)

    async def _put_together(self, stack: AsyncExitStack) -> None:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        prober = Prober(self._balancer, session, steady.now)
        self.upkeep = Upkeep(self._jobs(prober), self._store, steady.now, lambda: self._balancer.tuning)
        admin = Admin(
            self._store,
            self._stats,
            self._balancer,
            self.upkeep,
            now=steady.now,
            changed=self.refresh,
            is_admin=only(access.admin_token(self._settings)),
            settings=self._environment,
        )
        source = snapshots(self._balancer, self._stats.total, self._began, steady.now)
        dashboard = Dashboard(source, admin.refusal, self._pace)
        stack.callback(dashboard.close)
        self._dashboard = dashboard
        self.application = Application(
            balancer=self._balancer,
            line=self._line,
            ways=self._ways,
            clients=self._clients,
            book=self,
            counter=self._counter,
            now=steady.now,
            admin=_either(dashboard, admin),
            health=self.health,
            log=self._log,
            refused=self.metrics.refused,
            renewed=self._freshness.renewed,
        )
        await stack.enter_async_context(self._freshness)
        works = (self._freshness.keep, self._tell_changes, self._measure, self.upkeep.keep, self._listen)
        stack.push_async_callback(ended, *(asyncio.create_task(work()) for work in works))
        if not self._clients.needs_key:
            log.info("no_key_is_needed", to_close="set SIDECAR_PROXY_TOKEN, or add a client")
        log.info("router_started", models=self._balancer.models())

    def _pace(self) -> float:
        """Seconds between two looks of the dashboard."""
        return self._balancer.tuning.dashboard_sse_interval_seconds

    def _age(self) -> float:
        """Seconds that what routing knows may be old."""
        return self._balancer.tuning.router_refresh_interval_seconds

    def record(self, call: Call) -> None:
        """Book a call: count it, and write it down."""
        self.metrics.record(call)
        self._ledger.record(call)

    async def drain(self) -> None:
        """No new calls; those under way end, in time or with an error that says so."""
        self._dashboard.close()
        await self.application.drain(self.drain_seconds)
        self._tell()
        log.info("router_stopped")

    # What routing knows.

    async def refresh(self) -> None:
        """Take over what is stored now. Raises `Unavailable`."""
        async with self._refreshing:  # an older snapshot must not be adopted after a newer one
            snapshot = await self._store.snapshot()
            self._names |= await self._store.names()
            self._adopt(snapshot)
        if any(backend.enabled and backend.api not in (OPENAI, REHEARSAL) for backend in snapshot.backends):
            await self._translated.prepare()

    def _adopt(self, snapshot: Snapshot) -> None:
        now = steady.now()
        tuning = config.tuning(self._environment, snapshot.config)
        if (tuning.log_level, tuning.log_format) != (self._log_level, self._log.form):
            self._log_level, self._log.form = tuning.log_level, tuning.log_format
            chosen = self._settings.model_copy(update={"log_format": tuning.log_format})
            logs.set_up(chosen, level=tuning.log_level.lower())
        self._balancer.tuning = tuning
        self._rows = dict(snapshot.config)
        self._balancer.adopt(snapshot.backends or (rehearsal.BACKEND,), now, snapshot.states)
        self._clients.adopt(snapshot.clients)
        self._line.wake()

    async def _listen(self) -> None:
        """Another process changed a client, or a connection that may hold a key."""
        async for wake in PostgresBus(self._database.url).listen("connections", TOPIC):
            if wake.topic == TOPIC or wake.identity.startswith("provider_key") or not wake.identity:
                self._freshness.expire()

    async def _tell_changes(self) -> None:
        """What calls taught about backends goes to the log and the database."""
        while True:
            await asyncio.sleep(CHANGES_EVERY)
            self._balancer.sweep(steady.now())
            if self._tell():
                self._line.wake()

    def _tell(self) -> bool:
        """Was there anything to tell?"""
        changes = self._balancer.take_changes()
        changes_log.tell(changes)
        self._ledger.changes(changes)
        return bool(changes)

    # What is measured.

    async def _measure(self) -> None:
        while True:
            with suppress(QuarterdeckError):
                self._sizes = await self._store.sizes()
            await asyncio.sleep(SIZES_EVERY)

    def _gauges(self) -> Gauges:
        now = steady.now()
        counts = self._balancer.pools(now)
        return Gauges(
            pools={
                pool.value: {
                    name: getattr(count, name) for name in ("total", "enabled", "healthy", "cooling", "error")
                }
                for pool, count in counts.items()
            },
            cooling=sum(count.cooling for count in counts.values()),
            queue_depth=self._line.depth,
            queue_timeouts=self._line.timeouts,
            emergencies=self.application.emergencies,
            ledger_waiting=self._ledger.waiting_bytes,
            uptime_seconds=now - self._began,
            database_bytes=self._sizes[0],
            wal_bytes=self._sizes[1],
        )

    def health(self) -> tuple[int, dict[str, Any]]:
        """What `GET /health` says: 503 while nothing can be written or read."""
        fault = self._ledger.fault or self._freshness.fault
        told = {
            "status": "degraded" if fault else "ok",
            "version": VERSION,
            "uptime_seconds": round(steady.now() - self._began, 1),
        }
        return (503, told | {"detail": fault}) if fault else (200, told)

    # What is done from time to time.

    def _jobs(self, prober: Prober) -> dict[Job, Callable[[], Awaitable[str]]]:
        return {
            Job.PROBE: prober.round,
            Job.AGGREGATE: self._aggregate,
            Job.RETENTION: self._retain,
            Job.BACKUP: self._back_up,
            Job.ROTATE: self._rotate,
        }

    async def _aggregate(self) -> str:
        await self._ledger.flush()
        return await self._stats.aggregate()

    async def _retain(self) -> str:
        tuning = self._balancer.tuning
        return await self._stats.retain(tuning.usage_retention_days, tuning.calls_retention_days)

    async def _back_up(self) -> str:
        await self._ledger.flush()
        folder = config.backup_folder(self._environment, self._rows, self._settings.folder)
        now = datetime.fromtimestamp(steady.now(), UTC)
        return await back_up(self._database.url, folder, now, self._balancer.tuning.backup_retention_days)

    async def _rotate(self) -> str:
        return f"{counted(await self._store.reseal(), 'key')} sealed anew"


@asynccontextmanager
async def opened(
    settings: Settings, environment: config.RouterSettings, url: str
) -> AsyncIterator[tuple[Router, Lease]]:
    """The router of a database, alone on it. Raises `Conflict` when another one runs there."""
    async with Lease(url) as lease, AsyncExitStack() as stack:
        router = Router(settings, environment, url)
        await router.open(stack)
        yield router, lease


def _text(secret: Any) -> str:
    return secret.get_secret_value() if secret else ""


def _either(dashboard: Any, admin: Any) -> Callable[..., Awaitable[None]]:
    """The dashboard's paths to the dashboard, the rest to the admin API."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/dashboard"):
            await dashboard(scope, receive, send)
        else:
            await admin(scope | {"root_path": scope.get("root_path", "") + "/api/admin"}, receive, send)

    return app
