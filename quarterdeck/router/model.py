"""The router's tables. Names and columns follow the provider-router specification where it has them.

Usage is kept per backend, model, pool and hour; a backend that is deleted keeps its history (`deleted_at`).
What was booked refers to nothing by key: the ledger never refuses a row.
"""

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Column, Date, Index, Table, Text
from sqlmodel import Field, SQLModel

from quarterdeck.kernel.columns import choice, document, timestamp
from quarterdeck.router.backend import OPENAI, Health, Limit, Pool, Source, Status


def _count() -> Any:
    return Column(BigInteger, nullable=False, default=0, server_default="0")


def _name(**options: Any) -> Any:
    """The id of a backend or a client that may be gone."""
    return Column(Text, nullable=False, **options)


class BackendRow(SQLModel, table=True):
    """A backend as it is stored; its key is sealed, or lies in a connection (`key_connection`)."""

    __tablename__ = "backends"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    name: str
    label: str = ""
    api_base_url: str
    api_key_encrypted: str = ""
    key_connection: str = ""
    api: str = OPENAI
    timeout_seconds: int = 120
    rpm_limit: int = 40
    pool: Pool = Field(default=Pool.PRIMARY, sa_column=choice(Pool))
    enabled: bool = True
    status: Status = Field(default=Status.HEALTHY, sa_column=choice(Status))
    status_reason: str = ""
    model_mappings: dict[str, Any] = Field(default_factory=dict, sa_column=document())
    source: Source = Field(default=Source.WEBUI, sa_column=choice(Source))
    cooldown_until: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    consecutive_429_count: int = 0
    extra: dict[str, Any] = Field(
        default_factory=dict, sa_column=Column("metadata", document().type, nullable=False)
    )
    created_at: datetime = Field(sa_column=timestamp())
    updated_at: datetime = Field(sa_column=timestamp())
    deleted_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class UsageRow(SQLModel, table=True):
    """What one backend did for one model in one hour, in the pool it then belonged to."""

    __tablename__ = "backend_usage_logs"

    backend_id: str = Field(sa_column=_name(primary_key=True))
    model: str = Field(primary_key=True)
    pool: Pool = Field(sa_column=Column(choice(Pool).type, primary_key=True))
    hour_bucket: datetime = Field(sa_column=Column(timestamp().type, primary_key=True, index=True))
    prompt_tokens: int = Field(default=0, sa_column=_count())
    completion_tokens: int = Field(default=0, sa_column=_count())
    total_tokens: int = Field(default=0, sa_column=_count())
    cost_pico: int = Field(default=0, sa_column=_count())
    request_count: int = Field(default=0, sa_column=_count())
    error_count: int = Field(default=0, sa_column=_count())
    client_request_count: int = Field(default=0, sa_column=_count())
    latency_ms_sum: int = Field(default=0, sa_column=_count())
    ttft_ms_sum: int = Field(default=0, sa_column=_count())
    ttft_count: int = Field(default=0, sa_column=_count())


class CallRow(SQLModel, table=True):
    """One attempt: the ledger. Rows are appended in batches and never changed."""

    __tablename__ = "model_calls"
    __table_args__ = (
        Index("model_calls_by_time", "at"),
        Index("model_calls_by_item", "item", "at", postgresql_where="item <> ''"),
        Index("model_calls_by_agent", "agent", "at", postgresql_where="agent <> ''"),
        Index("model_calls_by_client", "client_id", "at", postgresql_where="client_id <> ''"),
    )

    id: str = Field(sa_column=Column(Text, primary_key=True))
    at: datetime = Field(sa_column=timestamp())
    request: str
    attempt: int
    is_answer: bool
    backend_id: str = Field(sa_column=_name())
    pool: Pool = Field(sa_column=choice(Pool))
    is_emergency: bool = False
    model: str
    client_id: str = ""
    agent: str = ""
    item: str = ""
    outcome: str
    status: int
    is_stream: bool
    prompt_tokens: int = Field(default=0, sa_column=_count())
    completion_tokens: int = Field(default=0, sa_column=_count())
    total_tokens: int = Field(default=0, sa_column=_count())
    cache_read_tokens: int = Field(default=0, sa_column=_count())
    cache_write_tokens: int = Field(default=0, sa_column=_count())
    is_estimate: bool = False
    cost_pico: int = Field(default=0, sa_column=_count())
    latency_ms: int = Field(default=0, sa_column=_count())
    ttft_ms: int | None = None


class CooldownEvent(SQLModel, table=True):
    """One cooldown of one backend; at most one is open (`ended_at` null) at a time."""

    __tablename__ = "cooldown_events"
    __table_args__ = (
        Index("idx_cooldown_backend_time", "backend_id", "started_at"),
        Index("one_open_cooldown", "backend_id", unique=True, postgresql_where="ended_at is null"),
    )

    id: str = Field(sa_column=Column(Text, primary_key=True))
    backend_id: str = Field(sa_column=_name())
    kind: Limit = Field(default=Limit.RATE, sa_column=choice(Limit))
    consecutive_count: int = 1
    cooldown_seconds: int
    until: datetime = Field(sa_column=timestamp())
    response_summary: str = ""
    started_at: datetime = Field(sa_column=timestamp())
    ended_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class HealthRow(SQLModel, table=True):
    """What the last probe of a backend said."""

    __tablename__ = "backend_health"

    backend_id: str = Field(sa_column=_name(primary_key=True))
    state: Health = Field(default=Health.HEALTHY, sa_column=choice(Health))
    last_latency_ms: int = 0
    last_status_code: int = 200
    success_rate_5m: float = 1.0
    consecutive_failures: int = 0
    last_check_at: datetime = Field(sa_column=timestamp())


class ConfigRow(SQLModel, table=True):
    """One overridden setting; only known keys, never a secret."""

    __tablename__ = "system_config"

    key: str = Field(primary_key=True)
    value: str
    description: str = ""
    updated_at: datetime = Field(sa_column=timestamp())


class DailyRow(SQLModel, table=True):
    """One pool's day, made from the hours."""

    __tablename__ = "daily_stats"

    day: date = Field(sa_column=Column("date", Date, primary_key=True))
    pool: Pool = Field(sa_column=Column(choice(Pool).type, primary_key=True))
    total_requests: int = Field(default=0, sa_column=_count())
    total_errors: int = Field(default=0, sa_column=_count())
    total_tokens: int = Field(default=0, sa_column=_count())
    cost_pico: int = Field(default=0, sa_column=_count())
    unique_backends: int = 0


class ClientRow(SQLModel, table=True):
    """One who may call: a key of its own, whom its calls are booked to, and what a day may cost.

    Only the key's hash is looked up; the sealed key is kept so that agents can be handed theirs again.
    """

    __tablename__ = "client_keys"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    name: str = Field(unique=True)
    agent: str = ""
    key_hash: str = Field(unique=True)
    key_encrypted: str
    key_hint: str
    enabled: bool = True
    tokens_per_day: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    cost_pico_per_day: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    created_at: datetime = Field(sa_column=timestamp())
    updated_at: datetime = Field(sa_column=timestamp())


class ClientUsageRow(SQLModel, table=True):
    """What one client used in one UTC day: budgets are loaded from here after a restart."""

    __tablename__ = "client_usage"

    client_id: str = Field(sa_column=_name(primary_key=True))
    day: date = Field(sa_column=Column("date", Date, primary_key=True))
    requests: int = Field(default=0, sa_column=_count())
    tokens: int = Field(default=0, sa_column=_count())
    cost_pico: int = Field(default=0, sa_column=_count())


class Job(StrEnum):
    """The upkeep that a schedule asks for, and the router itself when nobody did."""

    PROBE = "probe"
    AGGREGATE = "aggregate"
    RETENTION = "retention"
    BACKUP = "backup"
    ROTATE = "rotate"


class UpkeepRow(SQLModel, table=True):
    """When each job last ran, at whose call, and what came of it."""

    __tablename__ = "router_upkeep"

    job: Job = Field(sa_column=Column(choice(Job).type, primary_key=True))
    ran_at: datetime = Field(sa_column=timestamp())
    by: str
    ok: bool
    result: str = ""


KINDS: tuple[type[SQLModel], ...] = (
    BackendRow,
    HealthRow,
    CooldownEvent,
    UsageRow,
    DailyRow,
    ConfigRow,
    ClientRow,
    ClientUsageRow,
    CallRow,
)
"""What a backup holds, in the order in which it can be written: each after those it refers to."""

TABLES: tuple[Table, ...] = tuple(SQLModel.metadata.tables[str(kind.__tablename__)] for kind in KINDS)
