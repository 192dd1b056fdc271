"""Backends, configuration and upkeep as they are stored; clients and the snapshot are beside it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel import log as logs
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Misconfigured, NotFound
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.router import config
from quarterdeck.router.admin.forms import BackendChange, BackendForm, MappingForm, new_id
from quarterdeck.router.backend import Health, Status
from quarterdeck.router.limits.rules import mask
from quarterdeck.router.model import (
    TABLES,
    BackendRow,
    ClientRow,
    ConfigRow,
    CooldownEvent,
    HealthRow,
    Job,
    UpkeepRow,
)
from quarterdeck.router.storage.client_store import ClientStore
from quarterdeck.router.storage.keys import BACKENDS, CLIENTS, Seals
from quarterdeck.router.storage.snapshot import KeyConnections, PriceBook, Snapshot, Snapshots, settings_of
from quarterdeck.router.upkeep.jobs import Result

log = structlog.get_logger(__name__)

OWNER = "router"
"""Under this name the keyring knows whose rows these are."""


_TABLES_SIZE = """
select coalesce(sum(pg_total_relation_size(oid)), 0) from pg_class
where relkind = 'r' and relname = any(:names)
"""
_MAY_SEE_LOG = "select has_function_privilege('pg_ls_waldir()', 'execute')"
_LOG_SIZE = "select coalesce(sum(size), 0) from pg_ls_waldir()"


class Store:
    """All of the router's queries but those of the ledger and the statistics."""

    def __init__(
        self,
        database: Database,
        seals: Seals,
        prices: PriceBook,
        connections: KeyConnections | None = None,
    ) -> None:
        self._database = database
        self._seals = seals
        self._snapshots = Snapshots(database, seals, prices, connections)
        self.clients = ClientStore(database, seals)

    def protect(self, keyring: Keyring) -> None:
        """Let a rotation of the house's master key reach these rows."""
        keyring.protect(OWNER, self.reseal)

    async def snapshot(self) -> Snapshot:
        """All that routing needs, read once. Raises `Unavailable`."""
        return await self._snapshots.take()

    # Backends.

    async def backends(self, pool: str = "") -> list[BackendRow]:
        """Those that are not deleted, the oldest first."""
        query = select(BackendRow).where(col(BackendRow.deleted_at).is_(None))
        if pool:
            query = query.where(BackendRow.pool == pool)
        async with self._database.read() as session:
            return list(await session.exec(query.order_by(col(BackendRow.created_at), col(BackendRow.id))))

    async def backend(self, backend_id: str) -> BackendRow:
        """Raises `NotFound`."""
        async with self._database.read() as session:
            return await _existing(session, backend_id)

    async def names(self) -> dict[str, str]:
        """The name of every backend there ever was, by id."""
        async with self._database.read() as session:
            rows = await session.exec(select(BackendRow.id, BackendRow.name))
            return dict(rows.all())

    async def add_backend(self, form: BackendForm, tuning: config.Tuning) -> BackendRow:
        """What the form leaves out is as the tuning says."""
        identity = new_id("bkd")
        async with self._database.command("add a backend") as unit:
            values = form.model_dump(exclude={"api_key", "metadata", "model_mappings"})
            row = BackendRow(
                **values
                | {
                    "id": identity,
                    "api_key_encrypted": self._sealed(identity, form.api_key),
                    "rpm_limit": form.rpm_limit or tuning.default_rpm_limit,
                    "timeout_seconds": form.timeout_seconds or tuning.default_request_timeout_seconds,
                    "model_mappings": stored_mappings(form.model_mappings),
                    "extra": form.metadata,
                    "created_at": unit.now,
                    "updated_at": unit.now,
                }
            )
            unit.session.add(row)
        return row

    async def change_backend(self, backend_id: str, change: BackendChange) -> BackendRow:
        """Write the given columns and no others. Raises `NotFound`."""
        given = change.model_dump(exclude_unset=True)
        values = {key: given[key] for key in given.keys() & _PLAIN_COLUMNS}
        if change.api_key:
            values |= {"api_key_encrypted": self._sealed(backend_id, change.api_key), "key_connection": ""}
        if change.key_connection:
            values |= {"api_key_encrypted": "", "key_connection": change.key_connection}
        if "model_mappings" in given:
            values["model_mappings"] = stored_mappings(change.model_mappings)
        if "metadata" in given:
            values["extra"] = change.metadata
        if given.get("status") is Status.DISABLED:
            values["enabled"] = False
        async with self._database.command("change a backend") as unit:
            await _existing(unit.session, backend_id)
            if values:
                await unit.session.exec(
                    update(BackendRow)
                    .where(col(BackendRow.id) == backend_id)
                    .values(**values, updated_at=unit.now)
                )
            if change.resets:
                await _reset(unit.session, backend_id, unit.now)
        return await self.backend(backend_id)

    async def reset_backend(self, backend_id: str) -> BackendRow:
        """End its cooldown and forget its errors. Raises `NotFound`."""
        async with self._database.command("reset a backend") as unit:
            await _existing(unit.session, backend_id)
            await _reset(unit.session, backend_id, unit.now)
        return await self.backend(backend_id)

    async def delete_backend(self, backend_id: str) -> None:
        """Take it away with its key; its history stays. Raises `NotFound`."""
        async with self._database.command("delete a backend") as unit:
            await _existing(unit.session, backend_id)
            gone = {"deleted_at": unit.now, "updated_at": unit.now, "enabled": False}
            await unit.session.exec(
                update(BackendRow)
                .where(col(BackendRow.id) == backend_id)
                .values(**gone, api_key_encrypted="", key_connection="")
            )
            await _end_cooldown(unit.session, backend_id, unit.now)
            await unit.session.exec(delete(HealthRow).where(col(HealthRow.backend_id) == backend_id))

    async def health(self) -> dict[str, HealthRow]:
        """What the last probes said, by backend."""
        async with self._database.read() as session:
            return {row.backend_id: row for row in await session.exec(select(HealthRow))}

    def masked(self, row: BackendRow) -> str:
        """Its key as it may be shown; '' where it lies elsewhere or does not open."""
        if row.key_connection:
            return ""
        try:
            return mask(self._seals.open(BACKENDS, row.id, row.api_key_encrypted))
        except Misconfigured:
            return ""

    def _sealed(self, backend_id: str, key: str) -> str:
        if not key:
            return ""
        logs.hide(key)
        return self._seals.seal(BACKENDS, backend_id, key)

    # Configuration.

    async def settings(self) -> list[ConfigRow]:
        """All rows of known keys, by key."""
        query = select(ConfigRow).where(col(ConfigRow.key).in_(config.KEYS)).order_by(col(ConfigRow.key))
        async with self._database.read() as session:
            return list(await session.exec(query))

    async def put_setting(self, key: str, value: str, description: str | None) -> None:
        """Raises `NotFound` for an unknown key or a secret, `Invalid` for a value that does not fit."""
        config.parse(key, value)
        async with self._database.command("change a setting") as unit:
            row = {"value": value.strip(), "updated_at": unit.now}
            if description is not None:
                row["description"] = description
            await unit.session.exec(
                insert(ConfigRow)
                .values(**{"key": key, "description": ""} | row)
                .on_conflict_do_update(index_elements=["key"], set_=row)
            )

    async def delete_setting(self, key: str) -> None:
        """Raises `NotFound`."""
        async with self._database.command("forget a setting") as unit:
            row = await unit.session.get(ConfigRow, key)
            if row is None:
                raise NotFound.among("stored setting", key, await settings_of(unit.session))
            await unit.session.delete(row)

    # Keys and upkeep.

    async def sizes(self) -> tuple[int, int]:
        """Bytes of the router's tables, and of the server's write-ahead log (0 where it may not be seen)."""
        async with self._database.read() as session:
            connection = await session.connection()
            names = [table.name for table in TABLES]
            tables = int((await connection.scalars(text(_TABLES_SIZE), {"names": names})).one())
            if not (await connection.scalars(text(_MAY_SEE_LOG))).one():
                return tables, 0
            return tables, int((await connection.scalars(text(_LOG_SIZE))).one())

    async def reseal(self) -> int:
        """Seal every key with the present one, in one transaction; how many were sealed anew.

        Raises `Misconfigured` afterwards when some could not be opened: they are left as they are.
        """
        done, broken = 0, []
        async with self._database.command("seal the router's keys anew") as unit:
            for row, purpose, column in await _sealed(unit.session):
                sealed = getattr(row, column)
                if not sealed or self._seals.is_current(sealed):
                    continue
                try:
                    plain = self._seals.open(purpose, row.id, sealed)
                except Misconfigured as error:
                    broken.append(error.detail)
                    continue
                setattr(row, column, self._seals.seal(purpose, row.id, plain))
                done += 1
        if done:
            log.info("router_keys_sealed_anew", count=done, key=self._seals.current)
        if broken:
            raise Misconfigured(" ".join(broken), "Bring back the old key, or enter these keys again.")
        return done

    async def upkeep(self) -> list[Result]:
        """How each job last ended."""
        async with self._database.read() as session:
            rows = await session.exec(select(UpkeepRow))
            return [Result(row.job, row.ran_at.timestamp(), row.by, row.ok, row.result) for row in rows]

    async def keep_upkeep(self, result: Result) -> None:
        """Remember how a job ended."""
        ran_at = datetime.fromtimestamp(result.ran_at, UTC)
        row = {"ran_at": ran_at, "by": result.by, "ok": result.ok, "result": result.text}
        async with self._database.command("keep a result of upkeep") as unit:
            await unit.session.exec(
                insert(UpkeepRow)
                .values(job=Job(result.job), **row)
                .on_conflict_do_update(index_elements=["job"], set_=row)
            )


_PLAIN_COLUMNS = frozenset(
    {"name", "label", "api_base_url", "api", "timeout_seconds", "rpm_limit", "pool", "enabled", "source"}
)
"""The columns that are written as they come."""


def stored_mappings(forms: Mapping[str, MappingForm]) -> dict[str, Any]:
    """As the column keeps them: with defaults, but without a price that nobody entered."""
    return {model: form.model_dump(exclude_none=True) for model, form in forms.items()}


async def _existing(session: AsyncSession, backend_id: str) -> BackendRow:
    row = await session.get(BackendRow, backend_id)
    if row is None or row.deleted_at is not None:
        raise NotFound(
            f"There is no backend {backend_id!r}.",
            "GET /api/admin/backends lists them.",
            code="unknown_backend",
        )
    return row


async def _reset(session: AsyncSession, backend_id: str, now: datetime) -> None:
    fresh = {
        "status": Status.HEALTHY,
        "status_reason": "",
        "cooldown_until": None,
        "consecutive_429_count": 0,
    }
    await session.exec(update(BackendRow).where(col(BackendRow.id) == backend_id).values(**fresh))
    await _end_cooldown(session, backend_id, now)
    well = {"state": Health.HEALTHY, "consecutive_failures": 0}
    await session.exec(update(HealthRow).where(col(HealthRow.backend_id) == backend_id).values(**well))


async def _end_cooldown(session: AsyncSession, backend_id: str, now: datetime) -> None:
    await session.exec(
        update(CooldownEvent)
        .where(col(CooldownEvent.backend_id) == backend_id, col(CooldownEvent.ended_at).is_(None))
        .values(ended_at=now)
    )


async def _sealed(session: AsyncSession) -> list[tuple[BackendRow | ClientRow, str, str]]:
    """Every row with a sealed key, what it was sealed for, and the column it lies in."""
    backends = await session.exec(select(BackendRow).with_for_update())
    clients = await session.exec(select(ClientRow).with_for_update())
    return [
        *((row, BACKENDS, "api_key_encrypted") for row in backends),
        *((row, CLIENTS, "key_encrypted") for row in clients),
    ]
