"""A whole desk with bots: its listener outlives Prefect, and no secret that it was given shows anywhere."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from deployments import parts
from deployments.supervisor import ROOT
from quarterdeck.kernel.postgres import server_for
from quarterdeck.kernel.postgres.programs import find_programs
from quarterdeck.kernel.settings import Settings
from tests.fakes.telegram import CHAT, FakeTelegram
from tests.services.test_up import TOKEN, OpenDesk, until

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

BOT = "7777777777:CANARY-bot-token-that-nobody-may-see"
AGENTS_BOT = "7777777778:CANARY-bot-token-of-an-agent-who-talks"
LISTENED = "7777777781:CANARY-bot-token-that-outlives-an-outage"
UNKNOWN = "7777777780:CANARY-bot-token-that-nobody-knows"
REVOKED = "7777777779:CANARY-bot-token-that-was-taken-away"
REGISTRATIONS = (
    ("talker", AGENTS_BOT),
    ("revoked", REVOKED),
    ("twice", AGENTS_BOT),
    ("typo", UNKNOWN),
)
STREAM = "CANARY-password-of-the-stream"
ANNA = "CANARY-token-of-anna"
SECRETS = (BOT, AGENTS_BOT, LISTENED, REVOKED, UNKNOWN, STREAM, ANNA, TOKEN)
SHAPES = tuple({shape for secret in SECRETS for shape in (secret, quote(secret), quote(secret, safe=""))})
"""As they are, and as they stand in addresses."""
TOLD = ("bot:7777777779", "Conflict: terminated by other", "Telegram does not know this token")
"""What stands near the secrets, and shows that the places where they could be are looked at."""

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


PATIENCE = 180


@pytest.fixture(scope="module")
def telegram() -> Iterator[FakeTelegram]:
    with FakeTelegram(BOT, AGENTS_BOT, LISTENED, REVOKED) as fake:
        yield fake


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, telegram: FakeTelegram) -> Iterator[OpenDesk]:
    home = tmp_path_factory.mktemp("bots") / "home"
    home.mkdir()
    (home / "crew.yaml").write_text(ROSTER)
    opened = OpenDesk(
        home,
        **dict.fromkeys(parts.PORTS, "0"),
        ANNA_TOKEN=ANNA,
        ORCH_TELEGRAM_BOT_TOKEN=BOT,
        ORCH_TELEGRAM_CHAT_ID=str(CHAT),
        TELEGRAM_API_BASE=telegram.base,
        NATS_URL=f"nats://desk:{STREAM}@127.0.0.1:{nobodys_port()}",
    ).wait()
    yield opened
    opened.stop()


@pytest.fixture
def runs(desk: OpenDesk, telegram: FakeTelegram) -> Iterator["Runs"]:
    register(desk, "listened", LISTENED).raise_for_status()
    until(lambda: telegram.is_polled(LISTENED), PATIENCE)
    with prefects_api(desk) as api:
        yield Runs(api)


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Instead of the check after every test: the desk here outlives one."""


def nobodys_port() -> int:
    """A port at which nothing answers: what fails tells why, and must not tell the password."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def register(desk: OpenDesk, agent: str, token: str) -> httpx.Response:
    """Give an agent a bot, through the gateway's door."""
    return httpx.post(
        f"{desk.addresses['web']}/bots/register",
        headers={"Authorization": f"Bearer {TOKEN}"},
        json={"agent_id": agent, "bot_token": token},
        timeout=30,
    )


def prefects_api(desk: OpenDesk) -> httpx.Client:
    """Prefect's API, logged in."""
    told = parts.environment(Settings(home=desk.home, prefect_port=desk.running.prefect_port), os.environ)
    user, _, password = told["PREFECT_API_AUTH_STRING"].partition(":")
    return httpx.Client(base_url=told["PREFECT_API_URL"] + "/", auth=(user, password), timeout=30)


# Its listener


class Runs:
    """What Prefect knows of the listener's runs."""

    def __init__(self, api: httpx.Client) -> None:
        self._api = api

    def all(self) -> list[dict[str, Any]]:
        wanted = {"deployments": {"name": {"any_": ["listen"]}}}
        found = self._api.post("flow_runs/filter", json=wanted).raise_for_status().json()
        return list(found)

    def running(self) -> list[str]:
        return [run["id"] for run in self.all() if run["state"]["type"] == "RUNNING"]

    def state(self, id: str) -> dict[str, Any]:
        state: dict[str, Any] = self._api.get(f"flow_runs/{id}").json()["state"]
        return state

    def cancel(self, id: str) -> None:
        """As the button of the UI does."""
        wanted = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        self._api.post(f"flow_runs/{id}/set_state", json=wanted).raise_for_status()


def test_the_desk_starts_one_listener_and_an_outage_of_prefect_does_not_end_it(
    desk: OpenDesk, telegram: FakeTelegram, runs: Runs
) -> None:
    (first,) = until(runs.running, PATIENCE)

    by_hand = desk.ask("POST", "/deployments/listen/run", parameters={})
    second = by_hand["flow_run_id"]
    until(lambda: runs.state(second)["type"] == "COMPLETED", PATIENCE)
    assert "somebody serves them" in runs.state(second)["message"]

    os.kill(desk.pid_of("prefect"), signal.SIGKILL)
    telegram.say("Is anybody there?", token=LISTENED)
    until(lambda: telegram.unread(LISTENED) == 0, PATIENCE)  # acknowledged: stored
    until(desk.is_healthy, PATIENCE)
    assert runs.running() == [first]

    runs.cancel(first)
    until(lambda: runs.state(first)["type"] not in ("RUNNING", "CANCELLING"), PATIENCE)
    assert runs.state(first)["type"] != "FAILED", runs.state(first)["message"]
    # "crashed" is Prefect's word where its server, just back, did not take the end in time
    telegram.say("And now?", token=LISTENED)
    (third,) = until(runs.running, PATIENCE)  # where bots are, the desk starts another
    assert third not in (first, second)
    until(lambda: telegram.unread(LISTENED) == 0, PATIENCE)
    answers = [call.answer for call in telegram.calls if call.token == LISTENED and call.answer]
    assert [answer for answer in answers if answer.get("error_code") == 409] == []


# Its secrets


def pages_of(desk: OpenDesk) -> Iterator[tuple[str, str]]:
    """What Prefect's API tells of runs, their logs and parameters, blocks and events."""
    with prefects_api(desk) as api:
        for path in ("flow_runs/filter", "task_runs/filter", "logs/filter", "deployments/filter"):
            yield f"Prefect {path}", api.post(path, json={}).raise_for_status().text
        for path in ("block_documents/filter", "artifacts/filter", "variables/filter", "events/filter"):
            yield f"Prefect {path}", api.post(path, json={}).raise_for_status().text


def commands_of(desk: OpenDesk) -> Iterator[tuple[str, str]]:
    """What commands say."""
    for command in ("bot list --json", "bot list", "bot test talker", "bot test revoked", "doctor", "status"):
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", *command.split()],
            env=os.environ | {"QUARTERDECK_HOME": str(desk.home), "QUARTERDECK_TOKEN": TOKEN},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.stdout + done.stderr, command
        yield f"quarterdeck {command}", done.stdout + done.stderr


def bots_have_troubles(desk: OpenDesk, telegram: FakeTelegram) -> list[tuple[str, str]]:
    """Bots are registered and used, broken off, limited, revoked; what the gateway answers to all that."""
    said = []
    with httpx.Client(base_url=desk.addresses["web"], timeout=30) as gateway:
        gateway.headers["Authorization"] = f"Bearer {TOKEN}"
        for agent, token in (
            ("talker", AGENTS_BOT),
            ("revoked", REVOKED),
            ("twice", AGENTS_BOT),
            ("typo", UNKNOWN),
        ):
            said.append(register(desk, agent, token))
        until(lambda: telegram.is_polled(AGENTS_BOT) and telegram.is_polled(REVOKED), 300)
        telegram.drop("sendMessage", chat=7)
        telegram.babble("sendMessage", 502, b"<html>Bad Gateway</html>")
        telegram.fail("getUpdates", 409, "Conflict: terminated by other getUpdates request", token=AGENTS_BOT)
        for chat in (7, 8, "nonsense"):
            said.append(gateway.post("/send", json={"agent_id": "talker", "chat_id": chat, "text": "Hello"}))
        telegram.say("Good morning", chat=7, token=AGENTS_BOT)
        until(lambda: "Conflict: terminated" in gateway.get("/bots").text, PATIENCE)
        telegram.revoke(REVOKED)
        telegram.down()
        telegram.up()
        until(lambda: "stopped" in gateway.get("/bots").text, 300)
        said += [gateway.get("/bots"), gateway.post("/send", json={"agent_id": "revoked", "chat_id": 7})]
    return [(f"gateway {answer.url.path}", answer.text) for answer in said]


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
    # Its listener starts first. The bots of the other test say something too.
    telegram.wait_for(lambda: [call.token for call in telegram.sent()].count(BOT) >= 3, 120)
    telegram.fail("sendMessage", 401, "Unauthorized", token=BOT)
    desk.ask("POST", f"/items/{key}/retry")
    until(lambda: desk.ask("GET", "/dead-letters")["items"])
    said = [
        *[
            (path, str(desk.ask("GET", path)))
            for path in ("/dead-letters", "/outbox", f"/items/{key}/events")
        ],
        *bots_have_troubles(desk, telegram),
        *pages_of(desk),
        *commands_of(desk),
    ]
    places = [*texts_of(desk.home), *dumps_of(desk.home), *said]
    assert len(places) > 30
    there = [known for known in TOLD if any(known in text for _, text in places)]
    assert there == list(TOLD)
    shown = [(shape[:20], place) for place, text in places for shape in SHAPES if shape in text]
    assert shown == []
