"""The demo's home: nothing of the real desk reaches it, and only one demo is in it."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from deployments import demo
from quarterdeck.kernel.connections import FROM_ENVIRONMENT
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.settings import Settings, load
from quarterdeck.router import config

REAL_DESK = {
    "QUARTERDECK_DATABASE_URL": "postgresql://real/desk",
    "QUARTERDECK_LANGUAGE": "uk",
    "QUARTERDECK_STAGES": "deployment",
    "QUARTERDECK_WEBHOOK_SECRET": "canary",
    "ORCH_TELEGRAM_BOT_TOKEN": "1:canary",
    "orch_telegram_chat_id": "-100",
    "PLANE_URL": "http://plane.example",
    "PLANE_WORKSPACE": "company",
    "PLANE_API_KEY": "canary",
    "GITEA_URL": "http://gitea.example",
    "GITEA_TOKEN": "canary",
    "OPENCLAW_URL": "http://openclaw.example",
    "OPENCLAW_TOKEN": "canary",
    "OPENCLAW_CLI": "openclaw",
    "MULTICA_SERVER_URL": "http://multica.example",
    "MULTICA_TOKEN": "canary",
    "AGENT_BASE_URL": "http://agents.example",
    "SIDECAR_HOST": "0.0.0.0",
    "SIDECAR_API_KEY": "canary",
}


@pytest.fixture(autouse=True)
def real_desk(tmp_path: Path) -> Iterator[Settings]:
    """The settings of a desk that has all connections; the environment is restored afterwards."""
    with patch.dict(os.environ, REAL_DESK | {"QUARTERDECK_HOME": str(tmp_path)}):
        yield load()


def test_no_connection_of_the_real_desk_reaches_the_demo(real_desk: Settings) -> None:
    assert FROM_ENVIRONMENT["telegram"](real_desk) is not None
    with demo.prepared_home() as settings:
        assert [kind for kind, read in FROM_ENVIRONMENT.items() if read(settings)] == []
        assert (settings.database_url, settings.stages) == (None, "desk")
        assert "canary" not in " ".join(os.environ.values())


def test_the_demo_speaks_the_language_of_the_desk_and_listens_on_its_own_ports() -> None:
    with demo.prepared_home() as settings:
        assert settings.language == "uk"
        assert settings.http_port not in (0, Settings.model_fields["http_port"].default)
        assert (config.load().host, config.load().port) == (None, 0)


def test_a_demo_begins_with_an_empty_home(real_desk: Settings) -> None:
    old = real_desk.folder / "demo" / "postgres" / "PG_VERSION"
    old.parent.mkdir(parents=True)
    old.write_text("1")
    with demo.prepared_home() as settings:
        found = {path.name for path in settings.folder.iterdir()}
    assert found == {"run", "agents", "pipelines", "crew.yaml"}


def test_a_second_demo_leaves_the_first_its_home(real_desk: Settings) -> None:
    with demo.prepared_home() as settings:
        (marker := settings.folder / "marker").touch()
        with (
            patch.dict(os.environ, {"QUARTERDECK_HOME": str(real_desk.folder)}),
            pytest.raises(Conflict, match="up already"),
            demo.prepared_home(),
        ):
            pass
        assert marker.exists()
