"""an item's budget begins anew when somebody unblocks it

Revision 0015, after 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("heartbeat_work", sa.Column("budget_since", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("heartbeat_work", "budget_since")
