"""messages go through the bots

Revision 0008, after 0014. Order and limits of chats are the queue's of the telegram room.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0014"


def upgrade() -> None:
    op.drop_table("outbox_lanes")
    op.drop_table("outbox_senders")
    op.drop_column("outbox", "not_before")
    op.add_column("outbox", sa.Column("replaces", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_outbox_replaces"), "outbox", ["replaces"], unique=False)
    op.add_column(
        "outbox",
        sa.Column(
            "choices",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=False,
            server_default="[]",
        ),
    )
    op.alter_column("outbox", "choices", server_default=None)


def downgrade() -> None:
    op.drop_column("outbox", "choices")
    op.drop_index(op.f("ix_outbox_replaces"), table_name="outbox")
    op.drop_column("outbox", "replaces")
    op.add_column("outbox", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "outbox_senders",
        sa.Column("channel", sa.String(length=30), nullable=False),
        sa.Column("sends", postgresql.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.PrimaryKeyConstraint("channel"),
    )
    op.create_table(
        "outbox_lanes",
        sa.Column("lane", sa.String(length=240), nullable=False),
        sa.Column("channel", sa.String(length=30), nullable=False),
        sa.Column("chat", sa.String(length=200), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resume_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("sends", postgresql.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.PrimaryKeyConstraint("lane"),
    )
