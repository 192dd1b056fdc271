"""updates are published agent by agent

Revision 0014, after 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0007"

WAITING = sa.text("published_at is null")


def upgrade() -> None:
    op.drop_index("telegram_updates_unpublished", table_name="telegram_updates", postgresql_where=WAITING)
    op.create_index(
        "telegram_updates_to_publish", "telegram_updates", ["agent_id", "id"], postgresql_where=WAITING
    )


def downgrade() -> None:
    op.drop_index("telegram_updates_to_publish", table_name="telegram_updates", postgresql_where=WAITING)
    op.create_index("telegram_updates_unpublished", "telegram_updates", ["id"], postgresql_where=WAITING)
