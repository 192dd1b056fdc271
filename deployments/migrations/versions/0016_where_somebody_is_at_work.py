"""where somebody is at work by himself is remembered

Revision 0016, after 0015.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column(
        "heartbeat_work",
        sa.Column(
            "held",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=False,
            server_default="[]",
        ),
    )
    op.alter_column("heartbeat_work", "held", server_default=None)


def downgrade() -> None:
    op.drop_column("heartbeat_work", "held")
