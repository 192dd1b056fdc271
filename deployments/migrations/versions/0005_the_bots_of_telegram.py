"""The bots of Telegram

Revision 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "telegram_bots",
        sa.Column("agent_id", sa.String(length=100), nullable=False),
        sa.Column("bot_id", sa.String(length=40), nullable=False),
        sa.Column("username", sa.String(length=100), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("connection", sa.String(length=100), nullable=False),
        sa.Column(
            "allowed_chats", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False
        ),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("trouble", sa.String(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("announced", sa.Boolean(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_poll_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_routed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("agent_id"),
        sa.UniqueConstraint("bot_id"),
    )
    op.create_table(
        "telegram_sends",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("agent_id", sa.String(length=100), nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("content", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("begun", sa.Boolean(), nullable=False),
        sa.Column("possibly_twice", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("message_ids", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("agent_id", "idempotency_key"),
    )
    op.create_index(op.f("ix_telegram_sends_finished_at"), "telegram_sends", ["finished_at"], unique=False)
    op.create_index(
        "telegram_sends_waiting",
        "telegram_sends",
        ["agent_id", "chat", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_table(
        "telegram_told",
        sa.Column("consumer", sa.String(length=50), nullable=False),
        sa.Column("agent_id", sa.String(length=100), nullable=False),
        sa.Column("chat_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("update", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "agent_id", "chat_id"),
    )
    op.create_table(
        "telegram_updates",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("event_id", sa.String(length=100), nullable=False),
        sa.Column("agent_id", sa.String(length=100), nullable=False),
        sa.Column("bot_id", sa.String(length=40), nullable=False),
        sa.Column("update_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=50), nullable=False),
        sa.Column("chat_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("ts", sa.DateTime(timezone=True), nullable=False),
        sa.Column("text", sa.String(), nullable=True),
        sa.Column("message_id", sa.BigInteger(), nullable=True),
        sa.Column("message_thread_id", sa.BigInteger(), nullable=True),
        sa.Column("raw_update", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("event_id"),
    )
    op.create_index(
        op.f("ix_telegram_updates_received_at"), "telegram_updates", ["received_at"], unique=False
    )
    op.create_index(
        "telegram_updates_of_chat", "telegram_updates", ["agent_id", "chat_id", "id"], unique=False
    )
    op.create_index(
        "telegram_updates_unpublished",
        "telegram_updates",
        ["id"],
        unique=False,
        postgresql_where=sa.text("published_at is null"),
    )


def downgrade() -> None:
    op.drop_index(
        "telegram_updates_unpublished",
        table_name="telegram_updates",
        postgresql_where=sa.text("published_at is null"),
    )
    op.drop_index("telegram_updates_of_chat", table_name="telegram_updates")
    op.drop_index(op.f("ix_telegram_updates_received_at"), table_name="telegram_updates")
    op.drop_table("telegram_updates")
    op.drop_table("telegram_told")
    op.drop_index(
        "telegram_sends_waiting", table_name="telegram_sends", postgresql_where=sa.text("state = 'queued'")
    )
    op.drop_index(op.f("ix_telegram_sends_finished_at"), table_name="telegram_sends")
    op.drop_table("telegram_sends")
    op.drop_table("telegram_bots")
