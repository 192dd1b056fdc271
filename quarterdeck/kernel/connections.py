"""Connections: addresses and secrets of everything outside, encrypted in our own database.

Rooms read them here and nowhere else. They come in from the environment (first, and only as long as
nobody entered anything better), from a block, or through the API.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel import log
from quarterdeck.kernel.bus import Bus
from quarterdeck.kernel.columns import choice, timestamp
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Misconfigured, NotFound
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.kernel.settings import Settings

PURPOSE = "connections"
TOPIC = "connections"
MAX_AGE = timedelta(seconds=3)
"""How long a process may go on with a value after another one changed it, if no wake-up reached it."""

BATCH = 50


class Source(StrEnum):
    """Who said it; the environment never overrules the others."""

    ENVIRONMENT = "environment"
    BLOCK = "block"
    API = "api"


class Connection(SQLModel, table=True):
    """One connection. `source_version` is whatever its source calls its state, for a sync to compare."""

    __tablename__ = "connections"

    kind: str = Field(primary_key=True, max_length=50)
    name: str = Field(primary_key=True, max_length=100)
    sealed: str
    source: Source = Field(sa_column=choice(Source))
    source_version: str = Field(default="", max_length=100)
    updated_at: datetime = Field(sa_column=timestamp())


@dataclass(frozen=True)
class ConnectionInfo:
    """What may be shown of a connection: everything but its value."""

    kind: str
    name: str
    source: Source
    source_version: str
    updated_at: datetime


@dataclass(frozen=True)
class _Seen:
    value: dict[str, Any] | None
    at: datetime


class Connections:
    """Reads, writes and seals anew."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self._seen: dict[tuple[str, str], _Seen] = {}
        keyring.protect(PURPOSE, self.reencrypt)

    async def get(
        self, kind: str, name: str = "default", *, session: AsyncSession | None = None
    ) -> dict[str, Any] | None:
        """The value, at most `MAX_AGE` old, or None if there is no such connection.

        Inside a command give its `session`: a command that waits for a second one can wait for itself.
        Raises `Misconfigured` when it cannot be decrypted.
        """
        now = self._database.clock.now()
        seen = self._seen.get((kind, name))
        if seen is None or not timedelta(0) <= now - seen.at < MAX_AGE:
            async with nullcontext(session) if session else self._database.read() as reading:
                row = await reading.get(Connection, (kind, name))
            seen = _Seen(self._value(row) if row else None, now)
            self._seen[kind, name] = seen
        return None if seen.value is None else dict(seen.value)

    async def all(self) -> list[ConnectionInfo]:
        """All connections, without their values."""
        async with self._database.read() as session:
            rows = await session.exec(select(Connection).order_by(col(Connection.kind), col(Connection.name)))
            return [ConnectionInfo(r.kind, r.name, r.source, r.source_version, r.updated_at) for r in rows]

    async def put(
        self,
        unit: Unit,
        kind: str,
        name: str,
        value: dict[str, Any],
        source: Source,
        source_version: str = "",
    ) -> bool:
        """Set a connection; whether its value changed. `value` must be JSON.

        The environment changes only what is missing or came from the environment itself.
        """
        row = await unit.session.get(Connection, (kind, name), with_for_update=True)
        if row and source is Source.ENVIRONMENT and row.source is not source:
            return False
        changed = row is None or not self._says(row, value)
        if row and not changed and (row.source, row.source_version) == (source, source_version):
            return False
        sealed = self._seal(kind, name, value) if changed or row is None else row.sealed
        await _write(
            unit.session,
            Connection(
                kind=kind,
                name=name,
                sealed=sealed,
                source=source,
                source_version=source_version,
                updated_at=unit.now,
            ),
        )
        if changed:
            self._seen.pop((kind, name), None)
            unit.record("connection_changed", connection=f"{kind}/{name}", source=source.value)
            unit.wake(TOPIC, f"{kind}/{name}")
        return changed

    async def forget(self, unit: Unit, kind: str, name: str = "default") -> None:
        """Take a connection away. Raises `NotFound` naming those there are.

        A block of that name brings it back as soon as it is copied, variables do at the next set-up.
        """
        row = await unit.session.get(Connection, (kind, name), with_for_update=True)
        if row is None:
            known = (await unit.session.exec(select(Connection.kind, Connection.name))).all()
            raise NotFound.among("connection", f"{kind}/{name}", ("/".join(one) for one in known))
        await unit.session.delete(row)
        self._seen.pop((kind, name), None)
        unit.record("connection_changed", connection=f"{kind}/{name}", source="removed")
        unit.wake(TOPIC, f"{kind}/{name}")

    async def fill_from_environment(self, settings: Settings) -> list[str]:
        """Take over what the environment says and no block or person has said better; the kinds changed."""
        told = {kind: value for kind, read in FROM_ENVIRONMENT.items() if (value := read(settings))}
        async with self._database.command("fill connections") as unit:
            return [
                kind
                for kind, value in told.items()
                if await self.put(unit, kind, "default", value, Source.ENVIRONMENT)
            ]

    async def follow(self, bus: Bus) -> None:
        """Forget what was read as soon as it changes; runs until cancelled."""
        async for wake in bus.listen(TOPIC):
            if not wake.identity:
                self._seen.clear()
            kind, _, name = wake.identity.partition("/")
            self._seen.pop((kind, name), None)

    async def reencrypt(self) -> int:
        """Seal every row with the present master key, in small commands; how many were sealed.

        Raises `Misconfigured` at the end, when all others are done, naming rows that cannot be opened.
        """
        done, broken, after = 0, [], ("", "")
        while True:
            async with self._database.command("seal connections anew") as unit:
                rows = await _sealed_before(unit.session, self._keyring.current_prefix, after)
                for row in rows:
                    after = (row.kind, row.name)
                    try:
                        row.sealed = self._seal(row.kind, row.name, self._value(row))
                        done += 1
                    except Misconfigured as error:
                        broken.append(error.detail)
            if not rows:
                break
        if broken:
            raise Misconfigured(
                " ".join(broken), "Enter them again, or bring back their key; then rotate again."
            )
        return done

    def _seal(self, kind: str, name: str, value: dict[str, Any]) -> str:
        return self._keyring.seal(PURPOSE, f"{kind}/{name}", json.dumps(value, sort_keys=True).encode())

    def _value(self, row: Connection) -> dict[str, Any]:
        content = self._keyring.open(PURPOSE, f"{row.kind}/{row.name}", row.sealed)
        value: dict[str, Any] = json.loads(content)
        log.hide_secrets_of(value)
        return value

    def _says(self, row: Connection, value: dict[str, Any]) -> bool:
        try:
            return self._value(row) == value
        except Misconfigured:  # unreadable: whatever comes is better
            return False


async def _write(session: AsyncSession, row: Connection) -> None:
    values = row.model_dump()
    unique = {"kind", "name"}
    upsert = insert(Connection).values(values)
    await session.exec(
        upsert.on_conflict_do_update(
            index_elements=sorted(unique), set_={key: upsert.excluded[key] for key in values.keys() - unique}
        ),
        execution_options={"populate_existing": True},
    )


async def _sealed_before(session: AsyncSession, prefix: str, after: tuple[str, str]) -> list[Connection]:
    found = await session.exec(
        select(Connection)
        .where(~col(Connection.sealed).startswith(prefix, autoescape=True))
        .where(tuple_(col(Connection.kind), col(Connection.name)) > after)
        .order_by(col(Connection.kind), col(Connection.name))
        .limit(BATCH)
        .with_for_update()
    )
    return list(found)


def _agent_api(settings: Settings) -> dict[str, Any] | None:
    url = settings.agent_base_url.strip() or settings.agent_ws_url.strip()
    return {"url": url} if url else None


def _telegram(settings: Settings) -> dict[str, Any] | None:
    token = settings.telegram_bot_token
    if token is None or not settings.telegram_chat_id:
        return None
    return {"bot_token": token.get_secret_value(), "chat_id": settings.telegram_chat_id}


def _generic_webhook(settings: Settings) -> dict[str, Any] | None:
    secret = settings.webhook_secret
    return {"secret": secret.get_secret_value()} if secret else None


def _openclaw(settings: Settings) -> dict[str, Any] | None:
    token = settings.openclaw_token
    more = {"hooks_token": settings.openclaw_hooks_token, "webhook_token": settings.openclaw_webhook_token}
    if not settings.openclaw_url or token is None:
        return None
    return {
        "url": settings.openclaw_url,
        "token": token.get_secret_value(),
        **{name: secret.get_secret_value() if secret else "" for name, secret in more.items()},
    }


def _gitea(settings: Settings) -> dict[str, Any] | None:
    token, secret = settings.gitea_token, settings.gitea_webhook_secret
    if token is None or not settings.gitea_url:
        return None
    return {
        "url": settings.gitea_url,
        "token": token.get_secret_value(),
        "webhook_secret": secret.get_secret_value() if secret else "",
    }


def _multica(settings: Settings) -> dict[str, Any] | None:
    """By HTTP where there are address and token and no program was named."""
    token = settings.multica_token
    if not (settings.multica_workspace_id or settings.multica_url or token or settings.multica_cli):
        return None
    by_http = bool(settings.multica_url and token and not settings.multica_cli)
    return {
        "via": "rest" if by_http else "cli",
        "workspace_id": settings.multica_workspace_id,
        "url": settings.multica_url,
        "token": token.get_secret_value() if token else "",
        "program": settings.multica_cli or "multica",
    }


def _openclaw_cli(settings: Settings) -> dict[str, Any] | None:
    return {"program": settings.openclaw_cli} if settings.openclaw_cli else None


def _plane(settings: Settings) -> dict[str, Any] | None:
    key, secret = settings.plane_api_key, settings.plane_webhook_secret
    if key is None or not settings.plane_url or not settings.plane_workspace:
        return None
    return {
        "url": settings.plane_url,
        "workspace": settings.plane_workspace,
        "api_key": key.get_secret_value(),
        "webhook_secret": secret.get_secret_value() if secret else "",
    }


FROM_ENVIRONMENT: dict[str, Callable[[Settings], dict[str, Any] | None]] = {
    "agent_api": _agent_api,
    "generic_webhook": _generic_webhook,
    "gitea": _gitea,
    "multica": _multica,
    "openclaw": _openclaw,
    "openclaw_cli": _openclaw_cli,
    "plane": _plane,
    "telegram": _telegram,
}
"""What each kind of connection is made of when only the environment describes it."""
