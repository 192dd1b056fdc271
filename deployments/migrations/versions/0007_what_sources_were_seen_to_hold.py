"""what sources were seen to hold

Revision 0007, after 0005.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "source_notes",
        sa.Column("source", sa.String(length=50), nullable=False),
        sa.Column("work", sa.String(length=300), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=True),
        sa.Column("said", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("source", "work"),
    )
    op.create_table(
        "source_sightings",
        sa.Column("place", sa.String(length=200), nullable=False),
        sa.Column("found", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trouble", sa.String(length=30), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("looking_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("place"),
    )
    op.create_table(
        "source_turns",
        sa.Column("door", sa.String(length=200), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("door"),
    )


def downgrade() -> None:
    op.drop_table("source_turns")
    op.drop_table("source_sightings")
    op.drop_table("source_notes")
