"""What all processes share: what was seen, when the next call may leave, what a source has no place for."""

from datetime import datetime
from typing import Any

from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import document, timestamp


class Sighting(SQLModel, table=True):
    """What was last seen in one place.

    `found` and `seen_at` are of the last look that succeeded, `trouble`, `detail` and `looked_at` of the
    last look. Whoever looks holds `looking_until`; others wait for what it sees.
    """

    __tablename__ = "source_sightings"

    place: str = Field(primary_key=True, max_length=200)
    found: list[dict[str, Any]] = Field(default_factory=list, sa_column=document())
    seen_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    looked_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    trouble: str = Field(default="", max_length=30)
    detail: str = ""
    looking_until: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class Turn(SQLModel, table=True):
    """When the next call through one door may leave."""

    __tablename__ = "source_turns"

    door: str = Field(primary_key=True, max_length=200)
    next_at: datetime = Field(sa_column=timestamp())


class Note(SQLModel, table=True):
    """What a source has no place for: rounds, and what was said about a piece of work."""

    __tablename__ = "source_notes"

    source: str = Field(primary_key=True, max_length=50)
    work: str = Field(primary_key=True, max_length=300)
    rounds: int | None = None
    said: list[dict[str, Any]] = Field(default_factory=list, sa_column=document())
    updated_at: datetime = Field(sa_column=timestamp())
