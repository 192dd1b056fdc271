"""What routing works from: every backend with its key open and its prices known, read at one moment."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sql
import structlog
from pydantic import ValidationError
from sqlalchemy import Row
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel import log as logs
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.router import backend as routed
from quarterdeck.router import config
from quarterdeck.router.admin.forms import MappingForm
from quarterdeck.router.backend import Backend, Health, Limit, Prices
from quarterdeck.router.limits.standing import State
from quarterdeck.router.model import BackendRow, ClientRow, ConfigRow, CooldownEvent, HealthRow
from quarterdeck.router.storage.client_store import ClientKey, client_of
from quarterdeck.router.storage.keys import BACKENDS, Seals

log = structlog.get_logger(__name__)

KEY_CONNECTION = "provider_key"
"""The kind of connection that holds a provider's key."""

_CONFIGURED = (
    *("id", "name", "label", "api_base_url", "api_key_encrypted", "key_connection", "api"),
    *("timeout_seconds", "rpm_limit", "pool", "enabled", "model_mappings"),
)
"""The columns that a `Backend` is made of."""

_LEARNT = ("id", "status", "status_reason", "cooldown_until", "consecutive_429_count")
"""The columns that a `State` is made of, beside its open cooldown and its last probe."""


class PriceBook(Protocol):
    """What a model costs where its mapping does not say."""

    def of(self, api: str, native_id: str) -> Prices | None: ...


class KeyConnections(Protocol):
    """Where keys lie that are not in our own table."""

    async def get(self, kind: str, name: str = "default") -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that routing needs. `states` are those that were persisted, for backends not seen yet."""

    backends: tuple[Backend, ...]
    states: Mapping[str, State]
    clients: tuple[ClientKey, ...]
    config: Mapping[str, str]


class Snapshots:
    """Takes them; a backend whose row did not change is the same object as before, its key open already."""

    def __init__(
        self,
        database: Database,
        seals: Seals,
        prices: PriceBook,
        connections: KeyConnections | None = None,
    ) -> None:
        self._database = database
        self._seals = seals
        self._prices = prices
        self._connections = connections
        self._built: dict[str, tuple[Row[Any], str, Backend]] = {}
        self._taking = asyncio.Lock()

    async def take(self) -> Snapshot:
        """Read everything once. Raises `Unavailable`."""
        async with self._taking:
            async with self._database.read() as session:
                await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
                rows = await _configured(session)
                states = await _states(session)
                clients = (await session.exec(select(ClientRow).order_by(col(ClientRow.created_at)))).all()
                settings = await settings_of(session)
            built = [await self._backend(row) for row in rows]
            self._built = {row.id: self._built[row.id] for row in rows}
        return Snapshot(tuple(built), states, tuple(map(client_of, clients)), settings)

    async def _backend(self, row: Row[Any]) -> Backend:
        key, fault = await self._key(row)
        seen = self._built.get(row.id)
        if seen is None or seen[:2] != (row, key) or seen[2].fault != fault:
            self._built[row.id] = (row, key, _made(row, key, fault, self._prices))
        return self._built[row.id][2]

    async def _key(self, row: Row[Any]) -> tuple[str, str]:
        """The key in plain, and why there is none."""
        if row.key_connection:
            return await self._connected_key(row.key_connection)
        if not row.api_key_encrypted:
            return "", "It has no key."
        seen = self._built.get(row.id)
        if seen and not seen[2].fault and seen[0].api_key_encrypted == row.api_key_encrypted:
            return seen[1], ""
        try:
            plain = self._seals.open(BACKENDS, row.id, row.api_key_encrypted)
        except Misconfigured as error:
            if not seen or not seen[2].fault:
                log.error("backend_key_does_not_open", backend=row.id, reason=error.detail)
            return "", str(error)
        logs.hide(plain)
        return plain, ""

    async def _connected_key(self, name: str) -> tuple[str, str]:
        if self._connections is None:
            return "", "Connections are not available here."
        try:
            value = await self._connections.get(KEY_CONNECTION, name)
        except Misconfigured as error:  # not `Unavailable`: a database that is away takes no key away
            return "", error.detail
        key = str((value or {}).get("api_key") or "").strip()
        if not key:
            return "", f"There is no connection {KEY_CONNECTION}/{name} with an `api_key`."
        logs.hide(key)
        return key, ""


def _made(row: Row[Any], key: str, fault: str, prices: PriceBook) -> Backend:
    return Backend(
        id=row.id,
        name=row.name,
        api_base_url=row.api_base_url,
        api_key=key,
        api=row.api,
        pool=row.pool,
        label=row.label,
        enabled=row.enabled,
        timeout_seconds=row.timeout_seconds,
        rpm_limit=row.rpm_limit,
        mappings={m.model: m for m in _mappings(row, prices)},
        fault=fault,
    )


def _mappings(row: Row[Any], prices: PriceBook) -> "Iterator[routed.Mapping]":
    for model, stored in row.model_mappings.items():
        try:
            form = MappingForm.model_validate(stored)
        except ValidationError as error:  # written past us
            log.warning("mapping_ignored", backend=row.id, model=model, problems=error.error_count())
            continue
        known = None if form.cost else prices.of(row.api, form.native_id)
        yield form.mapping(model, known or Prices())


async def _configured(session: AsyncSession) -> list[Row[Any]]:
    table = BackendRow.__table__  # type: ignore[attr-defined]
    query = sql.select(*(table.c[name] for name in _CONFIGURED))
    query = query.where(table.c.deleted_at.is_(None)).order_by(table.c.created_at, table.c.id)
    return list((await (await session.connection()).execute(query)).all())


async def _states(session: AsyncSession) -> dict[str, State]:
    """What was known of each backend when it was last written."""
    table, health = BackendRow.__table__, HealthRow.__table__  # type: ignore[attr-defined]
    events = CooldownEvent.__table__  # type: ignore[attr-defined]
    is_open = (events.c.backend_id == table.c.id) & events.c.ended_at.is_(None)
    columns = (
        *(table.c[name] for name in _LEARNT),
        events.c.kind,
        health.c.state,
        health.c.consecutive_failures,
    )
    joined = table.outerjoin(events, is_open).outerjoin(health, health.c.backend_id == table.c.id)
    query = sql.select(*columns).select_from(joined).where(table.c.deleted_at.is_(None))
    rows = (await (await session.connection()).execute(query)).all()
    return {row.id: _state(row) for row in rows}


def _state(row: Row[Any]) -> State:
    return State(
        status=row.status,
        reason=row.status_reason,
        cooldown_until=row.cooldown_until.timestamp() if row.cooldown_until else None,
        kind=row.kind or Limit.RATE,
        count=row.consecutive_429_count,
        health=row.state or Health.HEALTHY,
        failures=row.consecutive_failures or 0,
    )


async def settings_of(session: AsyncSession) -> dict[str, str]:
    """The stored values of known keys."""
    rows = await session.exec(
        select(ConfigRow.key, ConfigRow.value).where(col(ConfigRow.key).in_(config.KEYS))
    )
    return dict(rows.all())
