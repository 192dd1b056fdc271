"""The database server: an embedded PostgreSQL in the home, or your own.

    with server_for(settings).running() as server:        # `async with ....using()` in asynchronous code
        Database(server.url())

The first start takes about a second, later ones a tenth; `acquire`, `release` and `ensure_running` block.
"""

from quarterdeck.kernel.postgres.embedded import EmbeddedPostgres, home_mode
from quarterdeck.kernel.postgres.explain import explain_os
from quarterdeck.kernel.postgres.server import (
    CORE,
    PREFECT,
    ExternalPostgres,
    Server,
    core_url,
    libpq,
    network,
    options,
)
from quarterdeck.kernel.settings import Settings

__all__ = [
    "CORE",
    "PREFECT",
    "EmbeddedPostgres",
    "ExternalPostgres",
    "Server",
    "core_url",
    "explain_os",
    "home_mode",
    "libpq",
    "network",
    "options",
    "server_for",
]


def server_for(settings: Settings) -> Server:
    """Your own server when `QUARTERDECK_DATABASE_URL` is set, else the one in the home."""
    if settings.database_url is None:
        return EmbeddedPostgres(settings.folder, binaries=settings.postgres_bin)
    prefect = settings.prefect_database_url
    return ExternalPostgres(
        settings.database_url.get_secret_value(), prefect.get_secret_value() if prefect else None
    )
