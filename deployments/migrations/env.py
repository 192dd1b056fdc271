"""What Alembic runs for every command; `deployments.schema` hands it an open connection."""

from typing import Any, Literal

from alembic import context
from alembic.operations.ops import MigrationScript
from sqlalchemy import Enum
from sqlmodel.sql.sqltypes import AutoString

from deployments.tables import metadata


def plain_text(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """A step names plain types only: the models' own types and choices may change after it."""
    if kind == "type" and isinstance(item, (AutoString, Enum)):
        return f"sa.String(length={item.length})" if item.length else "sa.String()"
    return False


def only_if_needed(_: Any, __: Any, steps: list[MigrationScript]) -> None:
    """Write no step that does nothing."""
    if all(part.is_empty() for part in steps[0].upgrade_ops_list):
        steps.clear()


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    render_item=plain_text,
    process_revision_directives=only_if_needed,
)
with context.begin_transaction():
    context.run_migrations()
