"""Where surfaces keep their small state: key to value, durable in PostgreSQL, in memory for tests.

Keys are `<namespace>:<user>:<entity>`; the namespaces of the core are here, those of a surface with it.
"""

from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import BigInteger, cast, func, literal
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlmodel import col, delete, select

from quarterdeck.kernel.clock import Clock, SystemClock
from quarterdeck.kernel.database import Database
from quarterdeck.surfaces.model import SurfaceState

CHAT, AUTH, SETTINGS, LANGUAGE = "chat", "auth", "settings", "language"
SEQUENCE = "matrix_platform_chat_seq"
"""Called after the first surface, and shared by all: two chats of one number would share a memory."""


class StateStore(Protocol):
    """Values are JSON objects. What is given out belongs to the caller."""

    async def get(self, key: str) -> dict[str, Any] | None: ...

    async def set(self, key: str, value: Mapping[str, Any]) -> None: ...

    async def delete(self, key: str) -> None: ...

    async def keys(self, prefix: str) -> list[str]:
        """All keys that begin so, in order."""
        ...

    async def values(self, prefix: str) -> list[dict[str, Any]]:
        """The values of these keys, in their order."""
        ...

    async def forget(self, prefix: str, before: datetime) -> int:
        """Drop what was set under such keys before then, and not since; how many keys."""
        ...

    async def take_number(self, key: str, field: str) -> int:
        """The number that is kept in a field, counted up for the next taker: 1, 2, 3, ...

        Atomic between processes: nobody gets the same number. Other fields of the value stay.
        """
        ...


class MemoryStore:
    """Forgets everything with its process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._values: dict[str, dict[str, Any]] = {}
        self._set_at: dict[str, datetime] = {}
        self._clock = clock or SystemClock()

    async def get(self, key: str) -> dict[str, Any] | None:
        return deepcopy(self._values.get(key))

    async def set(self, key: str, value: Mapping[str, Any]) -> None:
        self._values[key] = deepcopy(dict(value))
        self._set_at[key] = self._clock.now()

    async def delete(self, key: str) -> None:
        self._values.pop(key, None)

    async def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self._values if key.startswith(prefix))

    async def values(self, prefix: str) -> list[dict[str, Any]]:
        return [deepcopy(self._values[key]) for key in await self.keys(prefix)]

    async def forget(self, prefix: str, before: datetime) -> int:
        old = [key for key in await self.keys(prefix) if self._set_at[key] < before]
        for key in old:
            await self.delete(key)
        return len(old)

    async def take_number(self, key: str, field: str) -> int:
        kept = self._values.setdefault(key, {})
        self._set_at[key] = self._clock.now()
        number = int(kept.get(field, 1))
        kept[field] = number + 1
        return number


class PostgresStore:
    """One table of our database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: str) -> dict[str, Any] | None:
        async with self._database.read() as session:
            row = await session.get(SurfaceState, key)
            return dict(row.value) if row else None

    async def set(self, key: str, value: Mapping[str, Any]) -> None:
        async with self._database.command("keep surface state") as unit:
            upsert = insert(SurfaceState).values(key=key, value=dict(value), updated_at=unit.now)
            changed = {"value": upsert.excluded.value, "updated_at": upsert.excluded.updated_at}
            await unit.session.exec(upsert.on_conflict_do_update(index_elements=["key"], set_=changed))

    async def delete(self, key: str) -> None:
        async with self._database.command("forget surface state") as unit:
            await unit.session.exec(delete(SurfaceState).where(col(SurfaceState.key) == key))

    async def keys(self, prefix: str) -> list[str]:
        wanted = select(SurfaceState.key).where(col(SurfaceState.key).startswith(prefix, autoescape=True))
        async with self._database.read() as session:
            return sorted((await session.exec(wanted)).all())

    async def values(self, prefix: str) -> list[dict[str, Any]]:
        wanted = select(SurfaceState).where(col(SurfaceState.key).startswith(prefix, autoescape=True))
        async with self._database.read() as session:
            rows = (await session.exec(wanted)).all()
        return [dict(row.value) for row in sorted(rows, key=lambda row: row.key)]

    async def forget(self, prefix: str, before: datetime) -> int:
        old = col(SurfaceState.key).startswith(prefix, autoescape=True), col(SurfaceState.updated_at) < before
        async with self._database.command("forget old surface state") as unit:
            return (await unit.session.exec(delete(SurfaceState).where(*old))).rowcount

    async def take_number(self, key: str, field: str) -> int:
        async with self._database.command("count in surface state") as unit:
            first = insert(SurfaceState).values(key=key, value={field: 2}, updated_at=unit.now)
            present = func.coalesce(cast(col(SurfaceState.value)[field].as_string(), BigInteger), 1)
            raised = func.jsonb_build_object(literal(field), present + 1)
            value = col(SurfaceState.value).op("||", return_type=JSONB())(raised)
            upsert = first.on_conflict_do_update(
                index_elements=["key"], set_={"value": value, "updated_at": unit.now}
            ).returning(col(SurfaceState.value))
            kept = (await unit.session.exec(upsert)).one()[0]
        return int(kept[field]) - 1


async def next_chat_number(store: StateStore, platform: str, user_id: str) -> int:
    """The number of a user's next chat, from the user's metadata in this surface."""
    return await store.take_number(f"{platform}_user:{user_id}", "next_chat_index")


async def next_platform_chat_id(store: StateStore) -> str:
    """The identity of a new conversation at an agent: a number, never given twice."""
    return str(await store.take_number(SEQUENCE, "next_platform_chat_index"))
