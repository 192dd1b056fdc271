"""groups that became supergroups are known by both ids

Revision 0019, after 0018.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "telegram_moved_chats",
        sa.Column("old_chat", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("new_chat", sa.BigInteger(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("old_chat"),
    )


def downgrade() -> None:
    op.drop_table("telegram_moved_chats")
