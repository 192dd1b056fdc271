"""the routers tables

Revision 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "backend_health",
        sa.Column("backend_id", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("last_latency_ms", sa.Integer(), nullable=False),
        sa.Column("last_status_code", sa.Integer(), nullable=False),
        sa.Column("success_rate_5m", sa.Float(), nullable=False),
        sa.Column("consecutive_failures", sa.Integer(), nullable=False),
        sa.Column("last_check_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("backend_id"),
    )
    op.create_table(
        "backend_usage_logs",
        sa.Column("backend_id", sa.Text(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("pool", sa.String(length=32), nullable=False),
        sa.Column("hour_bucket", sa.DateTime(timezone=True), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_pico", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("request_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("client_request_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("latency_ms_sum", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ttft_ms_sum", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ttft_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("backend_id", "model", "pool", "hour_bucket"),
    )
    op.create_index(
        op.f("ix_backend_usage_logs_hour_bucket"), "backend_usage_logs", ["hour_bucket"], unique=False
    )
    op.create_table(
        "backends",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("api_base_url", sa.String(), nullable=False),
        sa.Column("api_key_encrypted", sa.String(), nullable=False),
        sa.Column("key_connection", sa.String(), nullable=False),
        sa.Column("api", sa.String(), nullable=False),
        sa.Column("timeout_seconds", sa.Integer(), nullable=False),
        sa.Column("rpm_limit", sa.Integer(), nullable=False),
        sa.Column("pool", sa.String(length=32), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("status_reason", sa.String(), nullable=False),
        sa.Column(
            "model_mappings", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False
        ),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("cooldown_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("consecutive_429_count", sa.Integer(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "client_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("key_hash", sa.String(), nullable=False),
        sa.Column("key_encrypted", sa.String(), nullable=False),
        sa.Column("key_hint", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("tokens_per_day", sa.BigInteger(), nullable=True),
        sa.Column("cost_pico_per_day", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key_hash"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "client_usage",
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_pico", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("client_id", "date"),
    )
    op.create_table(
        "cooldown_events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("backend_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("consecutive_count", sa.Integer(), nullable=False),
        sa.Column("cooldown_seconds", sa.Integer(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("response_summary", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "idx_cooldown_backend_time", "cooldown_events", ["backend_id", "started_at"], unique=False
    )
    op.create_index(
        "one_open_cooldown",
        "cooldown_events",
        ["backend_id"],
        unique=True,
        postgresql_where="ended_at is null",
    )
    op.create_table(
        "daily_stats",
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("pool", sa.String(length=32), nullable=False),
        sa.Column("total_requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_errors", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_pico", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unique_backends", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("date", "pool"),
    )
    op.create_table(
        "model_calls",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("request", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("is_answer", sa.Boolean(), nullable=False),
        sa.Column("backend_id", sa.Text(), nullable=False),
        sa.Column("pool", sa.String(length=32), nullable=False),
        sa.Column("is_emergency", sa.Boolean(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("client_id", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("item", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("is_stream", sa.Boolean(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("is_estimate", sa.Boolean(), nullable=False),
        sa.Column("cost_pico", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("latency_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ttft_ms", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "model_calls_by_agent", "model_calls", ["agent", "at"], unique=False, postgresql_where="agent <> ''"
    )
    op.create_index(
        "model_calls_by_client",
        "model_calls",
        ["client_id", "at"],
        unique=False,
        postgresql_where="client_id <> ''",
    )
    op.create_index(
        "model_calls_by_item", "model_calls", ["item", "at"], unique=False, postgresql_where="item <> ''"
    )
    op.create_index("model_calls_by_time", "model_calls", ["at"], unique=False)
    op.create_table(
        "router_upkeep",
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("ran_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        sa.Column("result", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("job"),
    )
    op.create_table(
        "system_config",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )


def downgrade() -> None:
    op.drop_table("system_config")
    op.drop_table("router_upkeep")
    op.drop_index("model_calls_by_time", table_name="model_calls")
    op.drop_index("model_calls_by_item", table_name="model_calls", postgresql_where="item <> ''")
    op.drop_index("model_calls_by_client", table_name="model_calls", postgresql_where="client_id <> ''")
    op.drop_index("model_calls_by_agent", table_name="model_calls", postgresql_where="agent <> ''")
    op.drop_table("model_calls")
    op.drop_table("daily_stats")
    op.drop_index("one_open_cooldown", table_name="cooldown_events", postgresql_where="ended_at is null")
    op.drop_index("idx_cooldown_backend_time", table_name="cooldown_events")
    op.drop_table("cooldown_events")
    op.drop_table("client_usage")
    op.drop_table("client_keys")
    op.drop_table("backends")
    op.drop_index(op.f("ix_backend_usage_logs_hour_bucket"), table_name="backend_usage_logs")
    op.drop_table("backend_usage_logs")
    op.drop_table("backend_health")
