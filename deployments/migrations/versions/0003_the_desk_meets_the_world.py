"""the desk meets the world

Revision 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("source", sa.String(length=30), nullable=False),
        sa.Column("delivery_id", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.String(length=200), nullable=False),
        sa.Column("event", sa.String(length=200), nullable=False),
        sa.Column("headers", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("replays", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leased_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("source", "delivery_id"),
        sa.UniqueConstraint("source", "fingerprint"),
    )
    op.create_index(
        "inbox_waiting",
        "inbox",
        ["source", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(op.f("ix_inbox_received_at"), "inbox", ["received_at"], unique=False)
    op.create_table(
        "tracked_items",
        sa.Column("issue_id", sa.String(length=64), nullable=False),
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("tracker_project", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("seen", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("group", sa.String(length=20), nullable=False),
        sa.Column("comments_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("issue_id"),
        sa.UniqueConstraint("item_key"),
    )
    op.create_index(
        op.f("ix_tracked_items_tracker_project"), "tracked_items", ["tracker_project"], unique=False
    )
    op.create_table(
        "tracker_budgets",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("calls", sa.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.Column("closed_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "tracker_comments",
        sa.Column("comment_id", sa.String(length=64), nullable=False),
        sa.Column("said", sa.String(length=20), nullable=False),
        sa.Column("editor", sa.String(length=64), nullable=False),
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("comment_id", "said", "editor"),
    )
    op.create_table(
        "tracker_links",
        sa.Column("project_key", sa.String(length=10), nullable=False),
        sa.Column("tracker_project", sa.String(length=64), nullable=False),
        sa.Column("identifier", sa.String(length=20), nullable=False),
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("takes_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sweep_top", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sweep_page", sa.String(length=200), nullable=False),
        sa.Column("swept_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("linked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project_key"),
        sa.UniqueConstraint("tracker_project"),
    )
    op.create_table(
        "tracker_posts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("item_key", sa.String(length=20), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("our_id", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "tracker_posts_waiting",
        "tracker_posts",
        ["item_key", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.add_column("agent_runs", sa.Column("prompt", sa.String(), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("agent_runs", "prompt")
    op.drop_index(
        "tracker_posts_waiting", table_name="tracker_posts", postgresql_where=sa.text("state = 'queued'")
    )
    op.drop_table("tracker_posts")
    op.drop_table("tracker_links")
    op.drop_table("tracker_comments")
    op.drop_table("tracker_budgets")
    op.drop_index(op.f("ix_tracked_items_tracker_project"), table_name="tracked_items")
    op.drop_table("tracked_items")
    op.drop_index(op.f("ix_inbox_received_at"), table_name="inbox")
    op.drop_index("inbox_waiting", table_name="inbox", postgresql_where=sa.text("state = 'waiting'"))
    op.drop_table("inbox")
