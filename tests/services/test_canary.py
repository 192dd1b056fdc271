"""A whole desk is given secrets with a known face; then every place where one could show is searched."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments import parts
from quarterdeck.kernel.postgres import server_for
from quarterdeck.kernel.postgres.programs import find_programs
from quarterdeck.kernel.settings import Settings
from tests.fakes.telegram import CHAT, FakeTelegram
from tests.services.test_up import TOKEN, OpenDesk, until

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

BOT = "7777777777:CANARY-bot-token-that-nobody-may-see"
ANNA = "CANARY-token-of-anna"
SECRETS = (BOT, ANNA, TOKEN)
ROSTER = """
agents:
  - {slug: analyst, parameters: {program: env}}
  - {slug: architect, parameters: {program: "true"}}
  - {slug: developer, parameters: {program: "true"}}
  - {slug: reviewer, parameters: {program: "true"}}
people:
  - {slug: anna, may_approve: true, token_env: ANNA_TOKEN}
"""
"""The analyst prints its whole environment into its log."""


@pytest.fixture
def telegram() -> Iterator[FakeTelegram]:
    with FakeTelegram(BOT) as fake:
        yield fake


@pytest.fixture
def desk(tmp_path: Path, telegram: FakeTelegram) -> Iterator[OpenDesk]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "crew.yaml").write_text(ROSTER)
    opened = OpenDesk(
        home,
        **dict.fromkeys(parts.PORTS, "0"),
        ANNA_TOKEN=ANNA,
        ORCH_TELEGRAM_BOT_TOKEN=BOT,
        ORCH_TELEGRAM_CHAT_ID=str(CHAT),
        TELEGRAM_API_BASE=telegram.base,
    ).wait()
    yield opened
    opened.stop()


def texts_of(home: Path) -> Iterator[tuple[str, str]]:
    """Every file that people or programs may read, except keys and the databases' own files."""
    for path in home.rglob("*"):
        inside = path.relative_to(home).parts[0]
        if path.is_file() and inside not in ("keys", "postgres"):
            yield str(path.relative_to(home)), path.read_bytes().decode("utf-8", "replace")


def dumps_of(home: Path) -> Iterator[tuple[str, str]]:
    """Both databases as text."""
    server = server_for(Settings(home=home))
    programs = find_programs()
    with server.running():
        for name in ("quarterdeck", "prefect"):
            url = server.url(name).replace("+psycopg", "", 1)
            dump = subprocess.run(
                [programs.folder / "pg_dump", "--data-only", url],
                capture_output=True,
                check=True,
                text=True,
                env={"PATH": os.environ["PATH"]},
            )
            yield f"database {name}", dump.stdout


def test_no_secret_shows_in_logs_events_runs_or_databases(desk: OpenDesk, telegram: FakeTelegram) -> None:
    desk.ask("POST", "/projects", key="ET", name="Enduro")
    key = desk.ask("POST", "/items", project="ET", title="Greet")["key"]
    until(lambda: desk.ask("GET", f"/items/{key}")["state"] == "blocked")
    telegram.wait_for(lambda: len(telegram.sent()) >= 3, 120)  # its listener starts first
    telegram.fail("sendMessage", 401, "Unauthorized")
    desk.ask("POST", f"/items/{key}/retry")
    until(lambda: desk.ask("GET", "/dead-letters")["items"])
    said = [
        ("API", str([desk.ask("GET", path) for path in ("/dead-letters", "/outbox", f"/items/{key}/events")]))
    ]
    places = [*texts_of(desk.home), *dumps_of(desk.home), *said]
    assert len(places) > 10
    shown = [(secret[:12], place) for place, text in places for secret in SECRETS if secret in text]
    assert shown == []
