"""What surfaces keep: bindings and small state of users and chats, never a conversation's history."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Index, Text, text
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, serial, timestamp


class SurfaceState(SQLModel, table=True):
    """One value under one key, `<namespace>:<user>:<entity>` (see `store`)."""

    __tablename__ = "surface_states"

    key: str = Field(sa_column=Column(Text, primary_key=True))
    value: dict[str, Any] = Field(sa_column=document())
    updated_at: datetime = Field(sa_column=timestamp())


class TurnState(StrEnum):
    """Where a turn stands."""

    OPEN = "open"  # to be answered, again if whoever was at it is gone
    DONE = "done"


class SurfaceTurn(SQLModel, table=True):
    """One event of a messenger that was taken in, and is answered outside of its delivery.

    `event_id` is the messenger's own, so a redelivery is known. `payload` is emptied once it is done.
    """

    __tablename__ = "surface_turns"
    __table_args__ = (
        Index("surface_turns_open", "surface", "id", postgresql_where=text("state = 'open'")),
        Index("surface_turns_done", "done_at"),
    )

    id: int | None = Field(default=None, sa_column=serial())
    surface: str = Field(max_length=30)
    event_id: str = Field(unique=True, max_length=200)
    state: TurnState = Field(default=TurnState.OPEN, sa_column=choice(TurnState))
    payload: dict[str, Any] = Field(sa_column=document())
    created_at: datetime = Field(sa_column=timestamp())
    done_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
