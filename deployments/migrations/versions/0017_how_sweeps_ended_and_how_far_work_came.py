"""how sweeps ended is counted, and how far work came is remembered

Revision 0017, after 0016.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"

NEW = (("heartbeats", "swept"), ("heartbeat_work", "progress"))


def upgrade() -> None:
    for table, name in NEW:
        kind = postgresql.JSONB(none_as_null=True, astext_type=sa.Text())
        op.add_column(table, sa.Column(name, kind, nullable=False, server_default="{}"))
        op.alter_column(table, name, server_default=None)


def downgrade() -> None:
    for table, name in NEW:
        op.drop_column(table, name)
