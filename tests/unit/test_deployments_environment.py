"""What each process is told, and what is kept from it."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from deployments import parts, prefect_server
from quarterdeck.crew.command import Parameters, environment
from quarterdeck.crew.runtime import Job
from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.kernel.settings import Settings
from quarterdeck.router import access

SHELL = {
    "PATH": "/bin",
    "LANG": "C.UTF-8",
    "PREFECT_API_URL": "http://somewhere.else/api",
    "PREFECT_API_KEY": "canary-cloud-key",
    "QUARTERDECK_MASTER_KEY": "canary-master-key",
    "QUARTERDECK_TOKEN": "canary-owner-token",
    "ORCH_TELEGRAM_BOT_TOKEN": "canary-bot-token",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", prefect_port=4321, http_port=8765)


def test_the_servers_environment_holds_no_secret_of_ours(settings: Settings) -> None:
    told = prefect_server.server_environment(settings, 4321, "postgresql+asyncpg:///prefect", SHELL)
    assert "canary" not in "".join(told.values())
    assert told["PATH"] == "/bin"


def test_the_ui_finds_its_api_where_people_open_it(settings: Settings) -> None:
    def told(public_url: str) -> tuple[str, list[str]]:
        known = settings.model_copy(update={"prefect_public_url": public_url})
        said = prefect_server.server_environment(known, 4321, "postgresql+asyncpg:///prefect", SHELL)
        origins = said["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"].split(",")
        return said["PREFECT_SERVER_UI_API_URL"], origins

    here = ["http://127.0.0.1:4321", "http://localhost:4321"]
    assert told("") == ("http://127.0.0.1:4321/api", here)
    public = "https://runs.example"
    assert told(f"{public}/") == (f"{public}/api", [*here, public])


def test_a_shells_prefect_settings_reach_none_of_our_processes(settings: Settings) -> None:
    told = parts.environment(settings, SHELL)
    assert told["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert "PREFECT_API_KEY" not in told


def test_only_the_server_knows_the_key_of_the_blocks(settings: Settings) -> None:
    key = prefect_server.encryption_key(settings)
    server = prefect_server.server_environment(settings, 4321, "postgresql+asyncpg:///prefect", SHELL)
    Fernet(key.encode())
    assert server["PREFECT_SERVER_ENCRYPTION_KEY"] == key
    assert key not in parts.environment(settings, SHELL).values()


def test_secrets_are_made_once_and_kept_from_others(settings: Settings) -> None:
    first = prefect_server.auth_string(settings), prefect_server.encryption_key(settings)
    assert first == (prefect_server.auth_string(settings), prefect_server.encryption_key(settings))
    assert [f.stat().st_mode & 0o777 for f in settings.keys_folder.iterdir()] == [0o600, 0o600]
    assert settings.keys_folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["", "\n"])
def test_a_secret_that_was_lost_from_its_file_lets_nobody_in(settings: Settings, content: str) -> None:
    """A power cut may leave a name without its content."""
    file = settings.keys_folder / "router-admin"
    access.admin_token(settings)
    file.write_text(content)
    with pytest.raises(Misconfigured) as caught:
        access.admin_token(settings)
    assert str(file) in caught.value.detail
    file.unlink()
    assert len(access.admin_token(settings)) > 20


def test_the_flush_interval_is_an_integer_of_at_least_one(settings: Settings) -> None:
    """Prefect cuts it to an integer, and 0 would keep a core busy for ever."""
    told = prefect_server.server_environment(settings, 4321, "postgresql+asyncpg:///prefect", SHELL)
    assert int(told["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL"]) >= 1


def test_a_dead_run_is_told_from_a_slow_one_by_three_heartbeats(settings: Settings) -> None:
    told = parts.environment(settings, SHELL)
    assert 3 * int(told["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) <= prefect_server.SILENCE


def test_parts_are_told_absolute_paths_and_the_ports_as_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = parts.environment(
        Settings(home=Path("data"), crew=Path("c.yaml"), http_port=1, prefect_port=2), {}
    )
    assert told["QUARTERDECK_HOME"] == str(tmp_path / "data")
    assert told["QUARTERDECK_CREW"] == str(tmp_path / "c.yaml")
    assert (told["QUARTERDECK_HTTP_PORT"], told["QUARTERDECK_PREFECT_PORT"]) == ("1", "2")


def test_an_agent_is_told_neither_prefects_login_nor_any_key(settings: Settings, tmp_path: Path) -> None:
    desk = parts.environment(settings, SHELL)
    job = Job(
        run_id=1,
        item_key="ET-007",
        title="Greet",
        description="",
        stage="analysis",
        round=1,
        agent="analyst",
        folder=tmp_path,
        work_tree=tmp_path,
        branch="item/ET-007",
        limit=timedelta(minutes=1),
        parameters={},
    )
    told = environment(job, Parameters(program="true"), desk)
    assert not any(name.startswith("PREFECT") for name in told)
    login = prefect_server.auth_string(settings)
    assert not any(login in value or "canary" in value for value in told.values())


def test_a_port_that_was_chosen_already_is_not_chosen_again() -> None:
    """It looks free until somebody listens on it; two parts of one desk must not be given the same."""
    taken: set[int] = set()
    for _ in range(1000):  # so many that chance alone would give some of them twice
        taken.add(parts.free_port("X", "127.0.0.1", 0, taken))
    assert len(taken) == 1000


def test_a_port_is_found_at_an_address_of_the_new_internet_protocol_as_well() -> None:
    assert parts.free_port("X", "::1", 0) > 0


def test_the_routers_ports_are_chosen_once_and_are_none_of_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in parts.PORTS:
        monkeypatch.setenv(name, "0")
    told = parts.router(settings).environment
    chosen = {told["SIDECAR_PORT"], told["SIDECAR_METRICS_PORT"]}
    assert len(chosen | {"0", "4321", "8765"}) == 5


def test_the_router_is_told_no_login_of_prefect_and_no_token_of_the_owner(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    told = parts.router(settings).environment
    assert not [name for name in told if name.startswith("PREFECT_")]
    assert "QUARTERDECK_TOKEN" not in told
    assert "SIDECAR_PORT" not in told, "unset, so that a stored one counts"
