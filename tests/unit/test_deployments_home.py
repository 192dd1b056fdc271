"""The home's folders: nobody else may look into them, and one that cannot be made is explained."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments import cli, home, parts, setup
from quarterdeck.kernel.errors import Conflict, Misconfigured
from quarterdeck.kernel.postgres import embedded
from quarterdeck.kernel.settings import Settings


@pytest.fixture(autouse=True)
def usual_mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "new" / "home")


def modes(settings: Settings) -> dict[str, str]:
    made = [settings.folder.parent, settings.folder, *settings.folder.iterdir()]
    return {path.name: f"{path.stat().st_mode & 0o777:o}" for path in made if path.is_dir()}


@pytest.mark.parametrize(("server_runs_as", "home_is"), [(None, "700"), ("postgres", "711")])
def test_nobody_else_may_look_into_a_home_made_by_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, server_runs_as: str | None, home_is: str
) -> None:
    """Where root's server runs as another user, that one may pass, and not look around."""
    monkeypatch.setattr(embedded, "servers_user", lambda: server_runs_as)
    with home.only_one(settings):
        home.make(settings, home.logs(settings))
        parts.prefect(settings, embedded.EmbeddedPostgres(settings.folder))
    above = {"new": home_is, "home": home_is}
    assert modes(settings) == above | dict.fromkeys(("run", "logs", "prefect", "keys"), "700")


def test_a_home_whose_server_is_elsewhere_is_private(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "servers_user", lambda: "postgres")
    own = Settings(home=settings.home, database_url="postgresql://db/desk")
    home.make(own)
    assert modes(settings) == {"new": "700", "home": "700"}


def test_a_home_that_people_made_is_left_as_it_is(settings: Settings) -> None:
    settings.folder.mkdir(parents=True, mode=0o750)
    assert setup._folders(settings).outcome == "done"
    assert modes(settings)["home"] == "750"
    assert modes(settings)["keys"] == "700"
    assert setup._folders(settings).outcome == "already"


def test_a_home_is_open_once(settings: Settings) -> None:
    with home.only_one(settings), pytest.raises(Conflict), home.only_one(settings):
        pass
    with home.only_one(settings):
        pass


def test_what_a_dead_supervisor_left_is_known_also_after_the_clock_was_set(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.make(settings, home.folder(settings))
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as left:
        parts_of = {"web": (left.pid, home.born(left.pid))}
        home.write(settings, home.Running(2**22 + 1, 8500, 4200, parts_of))
        told = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: told(process) + 3600)
        found = home.read(settings)
        assert found is not None
        assert home.leftovers(found) == [left.pid]
        left.kill()
        left.wait()
        assert home.leftovers(found) == []


@pytest.fixture
def no_other_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' process becomes nothing else."""

    def never(*_: object) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr(os, "execve", never)


def test_a_place_of_secrets_that_cannot_be_used_is_named(settings: Settings) -> None:
    home.make(settings)
    settings.keys_folder.touch()
    with pytest.raises(Misconfigured, match=r"home cannot be used: .*/keys"):
        parts.prefect(settings, embedded.EmbeddedPostgres(settings.folder))


@pytest.mark.usefixtures("logs_left_as_they_were", "no_other_program")
@pytest.mark.parametrize("command", ["setup", "web"])
def test_a_file_where_a_folder_must_be_is_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys").touch()
    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path))
    assert cli.run([command]) == 1
    assert f"{tmp_path} cannot be used: File exists ({tmp_path / 'keys'})" in "".join(capfd.readouterr())


@pytest.mark.usefixtures("logs_left_as_they_were", "no_other_program")
@pytest.mark.parametrize("command", ["up", "setup", "web", "desk", "runner", "router"])
def test_a_home_that_cannot_be_made_is_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path / "file" / "home"))
    assert cli.run([command]) == 1
    said = "".join(capfd.readouterr())
    assert f"{tmp_path / 'file' / 'home'} cannot be used: Not a directory" in said
    assert "set QUARTERDECK_HOME to another folder" in said


@pytest.mark.parametrize(
    ("host", "port", "open_at", "address"),
    [
        ("127.0.0.1", 8500, None, "http://127.0.0.1:8500"),
        ("0.0.0.0", 8500, None, "http://127.0.0.1:8500"),
        ("::", 8500, None, "http://[::1]:8500"),
        ("192.0.2.7", 0, 8611, "http://192.0.2.7:8611"),
        ("127.0.0.1", 8500, 8611, "http://127.0.0.1:8611"),
    ],
)
def test_the_address_of_the_web_process_is_where_it_really_is(
    tmp_path: Path, host: str, port: int, open_at: int | None, address: str
) -> None:
    settings = Settings(home=tmp_path, http_host=host, http_port=port)
    if open_at:
        home.folder(settings).mkdir()
        home.write(settings, home.Running(os.getpid(), open_at, 4200))
    assert home.web_address(settings) == address


def test_a_desk_that_died_is_at_no_address(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    home.folder(settings).mkdir()
    home.write(settings, home.Running(2**22 + 1, 8611, 4200))
    assert home.web_address(settings) == "http://127.0.0.1:8500"
