"""Prefect's server as we run it: its command, its environment, and the environment of its clients.

The names are those of Prefect 3.8's settings (`prefect/settings/models/`). What a person has set for
Prefect in the shell is not for our server: every inherited `PREFECT_*` variable is left out.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.fernet import Fernet

from quarterdeck.kernel.kept import kept
from quarterdeck.kernel.settings import Settings

HOST = "127.0.0.1"
USER = "admin"

HEARTBEAT = 30
"""Seconds between the heartbeats of a flow run: the least that Prefect allows."""

SILENCE = 3 * HEARTBEAT
"""Seconds without a heartbeat after which a run counts as dead."""

_NEEDED = {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "VIRTUAL_ENV"}
_KEEP_EVENTS = "P2D"
_KEEP_RUNS = 14 * 24 * 3600


def folder(settings: Settings) -> Path:
    """Prefect's own home."""
    return settings.folder / "prefect"


def login_file(settings: Settings) -> Path:
    """Where the login of the UI and the API is kept."""
    return settings.keys_folder / "prefect-login"


def auth_string(settings: Settings) -> str:
    """`user:password` of the API and the UI, made on first use. Whoever has it can read every block."""
    return kept(login_file(settings), f"{USER}:{secrets.token_urlsafe(24)}")


def encryption_key(settings: Settings) -> str:
    """The key of the block values, made on first use; kept outside Prefect's database."""
    return kept(key_file(settings), Fernet.generate_key().decode())


def key_file(settings: Settings) -> Path:
    """Where the encryption key of the block values lies."""
    return settings.keys_folder / "prefect-blocks"


def command(port: int) -> tuple[str, ...]:
    """The module that serves Prefect's API and UI, with its arguments."""
    return ("prefect", "server", "start", "--host", HOST, "--port", str(port))


def address(port: int) -> str:
    """Where the UI is."""
    return f"http://{HOST}:{port}"


def server_environment(
    settings: Settings, port: int, database_url: str, base: Mapping[str, str]
) -> dict[str, str]:
    """The environment of the server, and nothing of ours beside it. `database_url` is for asyncpg."""
    public = settings.prefect_public_url.rstrip("/")
    return _bare(base) | {
        "PREFECT_HOME": str(folder(settings)),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        "PREFECT_SERVER_ENCRYPTION_KEY": encryption_key(settings),
        "PREFECT_SERVER_API_AUTH_STRING": auth_string(settings),
        "PREFECT_SERVER_UI_API_URL": f"{public or address(port)}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ",".join(
            [address(port), f"http://localhost:{port}", *([_origin(public)] if public else [])]
        ),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Four times less CPU per task run. The interval is cut to an integer: 0 would spin for ever.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": _KEEP_EVENTS,
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(_KEEP_RUNS),
    }


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def client_environment(settings: Settings, port: int, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of our own processes that talk to the server. Never an agent's: it has the login."""
    return _without_prefect(base) | {
        "PREFECT_HOME": str(folder(settings)),
        "PREFECT_API_URL": f"{address(port)}/api",
        "PREFECT_API_AUTH_STRING": auth_string(settings),
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",  # both are of the same installation
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "DO_NOT_TRACK": "1",
    }


def _bare(base: Mapping[str, str]) -> dict[str, str]:
    """What any program needs; no secret of ours is among it."""
    return {name: value for name, value in base.items() if name in _NEEDED or name.startswith("LC_")}


def _without_prefect(base: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in base.items() if not name.startswith("PREFECT_")}
