"""Client keys as they are stored: made, changed, taken away, and what each used today."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel import log as logs
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.router.admin.forms import ClientChange, ClientForm, new_id, pico
from quarterdeck.router.model import ClientRow, ClientUsageRow
from quarterdeck.router.storage.keys import CLIENTS, Seals, digest, new_client_key

TOPIC = "clients"
"""Wake-ups that say a client was added, changed or deleted."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a client used in a day: tokens, pico-dollars, requests."""

    tokens: int = 0
    cost: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A client as it is stored, without its key."""

    id: str
    name: str
    agent: str
    key_hash: str
    key_hint: str
    enabled: bool
    tokens_per_day: int | None
    cost_per_day: int | None
    """Pico-dollars."""
    created_at: datetime
    updated_at: datetime


class ClientStore:
    """Whoever may call."""

    def __init__(self, database: Database, seals: Seals) -> None:
        self._database = database
        self._seals = seals

    async def add(self, form: ClientForm) -> tuple[ClientKey, str]:
        """A new client and its key, which is shown this once. Raises `Conflict` if the name is taken."""
        identity, key = new_id("cli"), new_client_key()
        async with self._database.command("add a client") as unit:
            row = ClientRow(
                id=identity,
                name=form.name,
                agent=form.agent,
                enabled=form.enabled,
                tokens_per_day=form.tokens_per_day,
                cost_pico_per_day=_budget(form.cost_per_day),
                created_at=unit.now,
                updated_at=unit.now,
                **self._kept(identity, key),
            )
            unit.session.add(row)
            await _unless_taken(unit.session, form.name)
            unit.wake(TOPIC, identity)
        return client_of(row), key

    async def change(self, client_id: str, change: ClientChange) -> ClientKey:
        """Raises `NotFound`, and `Conflict` if the name is taken."""
        given = change.model_dump(exclude_unset=True)
        if "cost_per_day" in given:
            given["cost_pico_per_day"] = _budget(given.pop("cost_per_day"))
        async with self._database.command("change a client") as unit:
            row = await _existing_client(unit.session, client_id)
            row.sqlmodel_update(given | {"updated_at": unit.now})
            await _unless_taken(unit.session, row.name)
            unit.wake(TOPIC, client_id)
        return client_of(row)

    async def new_key(self, client_id: str) -> tuple[ClientKey, str]:
        """Another key; the old one is nobody's from now on. Raises `NotFound`."""
        key = new_client_key()
        async with self._database.command("change a client's key") as unit:
            row = await _existing_client(unit.session, client_id)
            row.sqlmodel_update(self._kept(client_id, key) | {"updated_at": unit.now})
            unit.wake(TOPIC, client_id)
        return client_of(row), key

    async def delete(self, client_id: str) -> None:
        """Its key is nobody's; what it used stays booked. Raises `NotFound`."""
        async with self._database.command("delete a client") as unit:
            await unit.session.delete(await _existing_client(unit.session, client_id))
            unit.wake(TOPIC, client_id)

    async def key_of_agent(self, agent: str) -> str:
        """The key that calls of an agent are made with; its client is made when it has none.

        Raises `Misconfigured` when the kept key does not open, `Conflict` when another's client has its name.
        """
        if (row := await self._of_agent(agent)) is None:
            form = ClientForm(name=f"agent {agent}", agent=agent)
            try:
                return (await self.add(form))[1]
            except Conflict:
                row = await self._of_agent(agent)  # somebody else made it just now
            if row is None:
                raise Conflict(
                    f"The agent {agent} has no client, and one that is not its own is named {form.name!r}.",
                    f"Let that client call for it (`quarterdeck client edit {form.name!r} --agent {agent}`),"
                    " or give it another name.",
                    code="client_exists",
                )
        return self._seals.open(CLIENTS, row.id, row.key_encrypted)

    async def _of_agent(self, agent: str) -> ClientRow | None:
        query = select(ClientRow).where(ClientRow.agent == agent).order_by(col(ClientRow.created_at))
        async with self._database.read() as session:
            return (await session.exec(query)).first()

    async def all(self) -> list[ClientKey]:
        """The oldest first."""
        async with self._database.read() as session:
            return list(
                map(client_of, await session.exec(select(ClientRow).order_by(col(ClientRow.created_at))))
            )

    async def spent(self, now: float) -> dict[str, Spent]:
        """What each client used in the UTC day of that moment."""
        day = datetime.fromtimestamp(now, UTC).date()
        async with self._database.read() as session:
            rows = await session.exec(select(ClientUsageRow).where(ClientUsageRow.day == day))
            return {row.client_id: Spent(row.tokens, row.cost_pico, row.requests) for row in rows}

    def _kept(self, client_id: str, key: str) -> dict[str, str]:
        logs.hide(key)
        return {
            "key_hash": digest(key),
            "key_encrypted": self._seals.seal(CLIENTS, client_id, key),
            "key_hint": f"{key[:5]}…{key[-4:]}",
        }


def client_of(row: ClientRow) -> ClientKey:
    """What may be known of a stored client."""
    return ClientKey(
        id=row.id,
        name=row.name,
        agent=row.agent,
        key_hash=row.key_hash,
        key_hint=row.key_hint,
        enabled=row.enabled,
        tokens_per_day=row.tokens_per_day,
        cost_per_day=row.cost_pico_per_day,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _budget(dollars: float | None) -> int | None:
    return None if dollars is None else pico(dollars)


async def _existing_client(session: AsyncSession, client_id: str) -> ClientRow:
    row = await session.get(ClientRow, client_id, with_for_update=True)
    if row is None:
        raise NotFound(
            f"There is no client {client_id!r}.", "GET /api/admin/clients lists them.", code="unknown_client"
        )
    return row


async def _unless_taken(session: AsyncSession, name: str) -> None:
    try:
        await session.flush()
    except IntegrityError:
        raise Conflict(
            f"There is a client {name!r} already.", "Choose another name.", code="client_exists"
        ) from None
