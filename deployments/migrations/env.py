"""What Alembic runs for every command; `deployments.schema` hands it an open connection."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Enum
from sqlmodel.sql.sqltypes import AutoString

from deployments.tables import metadata


def plain_text(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """A step names plain types only: the models' own types and choices may change after it."""
    if kind == "type" and isinstance(item, (AutoString, Enum)):
        return f"sa.String(length={item.length})" if item.length else "sa.String()"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    render_item=plain_text,
)
with context.begin_transaction():
    context.run_migrations()
