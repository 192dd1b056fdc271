"""surfaces

Revision 0006, after 0003.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "surface_states",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "surface_turns",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("surface", sa.String(length=30), nullable=False),
        sa.Column("event_id", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("payload", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("event_id"),
    )
    op.create_index("surface_turns_done", "surface_turns", ["done_at"], unique=False)
    op.create_index(
        "surface_turns_open",
        "surface_turns",
        ["surface", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'open'"),
    )
    op.add_column("people", sa.Column("agent", sa.String(length=50), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("people", "agent")
    op.drop_index(
        "surface_turns_open", table_name="surface_turns", postgresql_where=sa.text("state = 'open'")
    )
    op.drop_index("surface_turns_done", table_name="surface_turns")
    op.drop_table("surface_turns")
    op.drop_table("surface_states")
