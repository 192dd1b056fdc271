"""The column types that all tables share, so that a time, a choice or a document is stored one way."""

from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Enum, Identity
from sqlalchemy.dialects.postgresql import JSONB


def serial() -> Any:
    """A primary key counted by the database."""
    return Column(BigInteger, Identity(), primary_key=True)


def timestamp(*, nullable: bool = False, index: bool = False) -> Any:
    """An aware UTC time."""
    return Column(DateTime(timezone=True), nullable=nullable, index=index)


def choice(kind: type[StrEnum], *, index: bool = False) -> Any:
    """One value of a `StrEnum`, stored as its text (a native enum cannot be changed in a transaction)."""
    stored = Enum(kind, native_enum=False, length=32, values_callable=lambda kinds: [k.value for k in kinds])
    return Column(stored, nullable=False, index=index)


def document(*, nullable: bool = False) -> Any:
    """A JSON value."""
    return Column(JSONB(none_as_null=True), nullable=nullable)
