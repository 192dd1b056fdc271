"""heartbeats

Revision 0004, after 0006.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0006"


def _time(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.add_column("agents", sa.Column("heartbeat", JSONB(none_as_null=True), nullable=True))
    op.create_table(
        "sweeps",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("agent", sa.String(length=50), nullable=False),
        sa.Column("cause", sa.String(length=30), nullable=False),
        _time("started_at"),
        _time("finished_at", nullable=True),
        sa.Column("result", sa.String(length=32), nullable=False),
        sa.Column("sources", JSONB(none_as_null=True), nullable=False),
        sa.Column("found", sa.Integer(), nullable=False),
        sa.Column("started", sa.Integer(), nullable=False),
        sa.Column("suspected", JSONB(none_as_null=True), nullable=False),
        sa.Column("confirmed", JSONB(none_as_null=True), nullable=False),
        sa.Column("warnings", JSONB(none_as_null=True), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("sweeps_of_agent", "sweeps", ["agent", "id"])
    op.create_index(op.f("ix_sweeps_started_at"), "sweeps", ["started_at"])
    op.create_table(
        "heartbeats",
        sa.Column("agent", sa.String(length=50), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        _time("leased_until", nullable=True),
        sa.Column("sweep_id", sa.BigInteger(), nullable=True),
        _time("since"),
        _time("last_finished", nullable=True),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("is_deferred", sa.Boolean(), nullable=False),
        _time("stale_since", nullable=True),
        sa.Column("told", JSONB(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("agent"),
    )
    op.create_table(
        "heartbeat_work",
        sa.Column("source", sa.String(length=50), nullable=False),
        sa.Column("ref", sa.String(), nullable=False),
        sa.Column("agent", sa.String(length=50), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("item_key", sa.String(length=20), nullable=True),
        sa.Column("places", JSONB(none_as_null=True), nullable=False),
        _time("sign", nullable=True),
        _time("own_sign", nullable=True),
        _time("suspected_since", nullable=True),
        sa.Column("timeouts", sa.Integer(), nullable=False),
        _time("timed_out_at", nullable=True),
        sa.Column("acted", sa.Boolean(), nullable=False),
        sa.Column("silent_rounds", sa.Integer(), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=False),
        sa.Column("round_limit", sa.Integer(), nullable=True),
        _time("waits_since", nullable=True),
        sa.Column("told", JSONB(none_as_null=True), nullable=False),
        sa.Column("is_allowed", sa.Boolean(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(length=30), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("breaker", sa.String(), nullable=False),
        _time("broken_at", nullable=True),
        _time("finished_at", nullable=True),
        sa.Column("owed", JSONB(none_as_null=True), nullable=False),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("source", "ref"),
    )
    op.create_index("heartbeat_work_of_agent", "heartbeat_work", ["agent"])
    op.create_index(
        "heartbeat_work_owing",
        "heartbeat_work",
        ["agent"],
        postgresql_where=sa.text("jsonb_array_length(owed) > 0"),
    )
    op.create_index(
        "heartbeat_work_running",
        "heartbeat_work",
        ["run_id"],
        postgresql_where=sa.text("run_id is not null"),
    )


def downgrade() -> None:
    op.drop_table("heartbeat_work")
    op.drop_table("heartbeats")
    op.drop_table("sweeps")
    op.drop_column("agents", "heartbeat")
