"""Repeated requests: the same `Idempotency-Key` with the same body has one effect and one answer.

The key is taken, the work is done and the answer is kept in one transaction. A repetition that arrives
while the first is under way waits for it; a failed first attempt leaves the key free.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import delete, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Field, SQLModel, col, select

from quarterdeck.kernel.columns import document, timestamp
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Invalid

KEPT = timedelta(days=7)
"""How long an answer is remembered; a later repetition counts as new."""


Answer = TypeVar("Answer", bound=BaseModel)


class IdempotencyKey(SQLModel, table=True):
    """A request that was answered. `answer` is empty only inside the transaction that works on it."""

    __tablename__ = "idempotency_keys"

    caller: str = Field(primary_key=True, max_length=50)
    key: str = Field(primary_key=True, max_length=200)
    digest: str = Field(max_length=64)
    answer: dict[str, Any] | None = Field(default=None, sa_column=document(nullable=True))
    created_at: datetime = Field(sa_column=timestamp(index=True))


@dataclass(frozen=True)
class Request:
    """One request with its key. `operation` and `body` must be equal for it to be the same request."""

    caller: str
    key: str
    operation: str
    body: Mapping[str, Any]

    @property
    def digest(self) -> str:
        text = json.dumps([self.operation, self.body], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def request(caller: str, key: str, operation: str, body: Mapping[str, Any]) -> Request | None:
    """None without a key: such a request is always a new one."""
    return Request(caller, key, operation, body) if key else None


async def once(
    unit: Unit, asked: Request | None, kind: type[Answer], work: Callable[[], Awaitable[Answer]]
) -> Answer:
    """The answer given before, or what `work` does and answers now, kept together with its effect.

    Raises `Invalid` when the key belongs to another request.
    """
    if asked is None:
        return await work()
    if (earlier := await earlier_answer(unit, asked)) is not None:
        return kind.model_validate(earlier)
    answer = await work()
    await remember(unit, asked, answer.model_dump(mode="json"))
    return answer


async def answered(database: Database, asked: Request | None, kind: type[Answer]) -> Answer | None:
    """The answer given before, if there is one: for work that goes on outside of the transaction.

    Look first, do it, and `keep` the answer. Raises `Invalid` when the key belongs to another request.
    """
    if asked is None:
        return None
    async with database.read() as session:
        row = (await session.exec(select(IdempotencyKey).where(*_is(asked)))).one_or_none()
    return None if row is None else kind.model_validate(_of(row, asked))


async def keep(unit: Unit, asked: Request | None, answer: BaseModel) -> None:
    """Keep the answer to what was done outside of the transaction; of two that came together, the first."""
    if asked is not None and await earlier_answer(unit, asked) is None:
        await remember(unit, asked, answer.model_dump(mode="json"))


async def earlier_answer(unit: Unit, request: Request) -> dict[str, Any] | None:
    """The answer given before, or None: then the key is ours and `remember` must follow.

    Raises `Invalid` when the key belongs to another request.
    """
    await _forget_old(unit)
    taken = insert(IdempotencyKey).values(
        caller=request.caller, key=request.key, digest=request.digest, created_at=unit.now
    )
    ours = await unit.session.exec(taken.on_conflict_do_nothing().returning(col(IdempotencyKey.key)))
    if ours.first():
        return None
    return _of((await unit.session.exec(select(IdempotencyKey).where(*_is(request)))).one(), request)


def _of(row: IdempotencyKey, request: Request) -> dict[str, Any] | None:
    if row.digest != request.digest:
        raise Invalid(
            "This Idempotency-Key was used for another request.",
            "Use a new key for every new request; repeat a key only with the same body.",
            code="idempotency_key_reused",
            field="Idempotency-Key",
        )
    return row.answer


async def remember(unit: Unit, request: Request, answer: dict[str, Any]) -> None:
    """Keep the answer for repetitions."""
    await unit.session.exec(update(IdempotencyKey).where(*_is(request)).values(answer=answer))


def _is(request: Request) -> tuple[Any, ...]:
    return col(IdempotencyKey.caller) == request.caller, col(IdempotencyKey.key) == request.key


async def _forget_old(unit: Unit) -> None:
    name = tuple_(col(IdempotencyKey.caller), col(IdempotencyKey.key))
    old = (
        select(IdempotencyKey)
        .with_only_columns(col(IdempotencyKey.caller), col(IdempotencyKey.key))
        .where(col(IdempotencyKey.created_at) < unit.now - KEPT)
        .limit(100)
        .with_for_update(skip_locked=True)
    )
    await unit.session.exec(delete(IdempotencyKey).where(name.in_(old)))
