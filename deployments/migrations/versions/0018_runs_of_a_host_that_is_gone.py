"""runs of a host that was declared gone are known, should it come back

Revision 0018, after 0017.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column(
        "agent_runs", sa.Column("given_up", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.create_index("agent_runs_given_up", "agent_runs", ["host"], postgresql_where=sa.text("given_up"))


def downgrade() -> None:
    op.drop_index("agent_runs_given_up", table_name="agent_runs")
    op.drop_column("agent_runs", "given_up")
