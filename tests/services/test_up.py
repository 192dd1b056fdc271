"""`quarterdeck up` as a program: it starts, loses parts, is stopped, is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deployments import home as homes
from deployments import parts
from deployments.leash import GRACE
from deployments.supervisor import ROOT
from quarterdeck.kernel.http import trusted
from quarterdeck.kernel.settings import Settings
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

TOKEN = "token-of-the-owner"
STUBBORN = """
agents:
  - {slug: analyst, parameters: {program: sh, args: [-c, "trap '' TERM; sleep 600 & wait; sleep 600"]}}
  - {slug: architect, parameters: {program: "true"}}
  - {slug: developer, parameters: {program: "true"}}
  - {slug: reviewer, parameters: {program: "true"}}
"""
"""A crew whose analyst works for long and does not hear that it should stop."""


def until(condition: Callable[[], Any], seconds: float = 180) -> Any:
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.1)
    return found


class OpenDesk:
    """A running `quarterdeck up` of one home; `entrance`: what leads to where that home is."""

    def __init__(self, home: Path, *, entrance: Sequence[str] = (), **environment: str) -> None:
        self.home = home
        told = {"QUARTERDECK_HOME": str(home)} | {variable: str(free_port()) for variable in parts.PORTS}
        told["QUARTERDECK_TOKEN"] = TOKEN
        self.process = subprocess.Popen(
            [*entrance, sys.executable, "-m", "deployments.cli", "up", "--json"],
            env=os.environ | told | environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addresses: dict[str, str] = {}

    def wait(self) -> "OpenDesk":
        """Until it says that it is open."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.rest()
        self.addresses = json.loads(line)
        return self

    def rest(self) -> str:
        """What it said until it ended."""
        return "".join(self.process.communicate(timeout=120))

    @property
    def running(self) -> homes.Running:
        found = homes.read(Settings(home=self.home))
        assert found is not None
        return found

    def pid_of(self, part: str) -> int:
        return self.running.processes.get(part, (0, 0.0))[0]

    def is_healthy(self) -> bool:
        """Whether the desk can work, and the router too: the desk's health says nothing of it."""
        try:
            web, router = (
                httpx.get(f"{self.addresses[part]}/health", timeout=30, verify=trusted())
                for part in ("web", "router")
            )
            return router.is_success and bool(web.json()["status"] == "ok")
        except (httpx.HTTPError, ValueError):
            return False

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """What the API answers the owner."""
        answer = httpx.request(
            method,
            f"{self.addresses['web']}/api/v1{path}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            json=body or None,
            timeout=60,
            verify=trusted(),
        )
        assert answer.is_success, answer.text
        return answer.json()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=120)


def processes_of(home: Path) -> list[str]:
    """Whatever still runs and has to do with this home."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values(), process.cwd()]
            if process.status() != psutil.STATUS_ZOMBIE and any(str(home) in word for word in words):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except psutil.Error:
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Instead of the check after every test: the desk here outlives one; `open_desks` checks at the end."""


@pytest.fixture(scope="module")
def a_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("up") / "home"
    home.mkdir()
    (home / "crew.yaml").write_text(STUBBORN)
    return home


@pytest.fixture(scope="module")
def open_desks(a_home: Path) -> Iterator[list[OpenDesk]]:
    """The one that is open at the end must stop in time as well, told by SIGTERM."""
    opened: list[OpenDesk] = []
    yield opened
    for desk in opened:
        if desk.process.poll() is None:
            must_stop_within_ten_seconds(desk, signal.SIGTERM)
    assert processes_of(a_home) == []


@pytest.fixture
def desk(a_home: Path, open_desks: list[OpenDesk]) -> OpenDesk:
    """The module's desk, opened again when an earlier test closed it."""
    if not open_desks or open_desks[-1].process.poll() is not None:
        open_desks.append(OpenDesk(a_home).wait())
    return open_desks[-1]


def test_one_command_opens_everything(desk: OpenDesk) -> None:
    until(desk.is_healthy)
    assert httpx.get(f"{desk.addresses['prefect']}/api/health", timeout=30).json() is True
    assert set(desk.running.processes) == {"prefect", "router", "web", "desk", "runner"}
    assert all(homes.born(pid) == born for pid, born in desk.running.processes.values())


def test_parts_that_are_killed_come_back(desk: OpenDesk) -> None:
    until(desk.is_healthy)
    before = {part: desk.pid_of(part) for part in ("web", "router", "desk", "runner")}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(desk.pid_of(part) not in (0, pid) for part, pid in before.items()))
    until(desk.is_healthy)


def test_models_are_called_while_prefect_and_the_web_process_are_dead_and_both_come_back(
    desk: OpenDesk,
) -> None:
    until(desk.is_healthy)
    address = f"{desk.addresses['router']}/v1/chat/completions"
    body = {"model": "rehearsal", "messages": [{"role": "user", "content": "hello"}]}
    before = {part: desk.pid_of(part) for part in ("prefect", "web")}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    for _ in range(20):
        assert httpx.post(address, json=body, timeout=30, verify=trusted()).status_code == 200
    until(lambda: all(desk.pid_of(part) not in (0, pid) for part, pid in before.items()))
    until(desk.is_healthy)


def test_a_killed_postgresql_comes_back(desk: OpenDesk) -> None:
    until(desk.is_healthy)
    data = str(desk.home / "postgres")
    servers = [
        process for process in psutil.process_iter(["cmdline"]) if data in (process.info["cmdline"] or [])
    ]
    assert servers
    for server in servers:
        server.kill()
    psutil.wait_procs(servers, 10)
    until(desk.is_healthy)


def test_a_second_up_in_the_same_home_is_refused(desk: OpenDesk) -> None:
    second = OpenDesk(desk.home)
    said = second.rest()
    assert second.process.returncode != 0
    assert "is up already" in said
    assert str(desk.process.pid) in said


def must_stop_within_ten_seconds(desk: OpenDesk, number: signal.Signals) -> None:
    """Told to, in order; nothing of it is left."""
    assert processes_of(desk.home)
    began = time.monotonic()
    desk.process.send_signal(number)
    desk.process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert desk.process.returncode == 0
    assert processes_of(desk.home) == []
    assert homes.read(Settings(home=desk.home)) is None


def test_agents_stop_with_it_and_are_begun_anew_at_no_cost(
    desk: OpenDesk, a_home: Path, open_desks: list[OpenDesk]
) -> None:
    until(desk.is_healthy)
    desk.ask("POST", "/projects", key="SLOW", name="Slow")
    key = desk.ask("POST", "/items", project="SLOW", title="Think")["key"]

    def runs_at_work(of: OpenDesk) -> list[Any]:
        return [run for run in of.ask("GET", f"/items/{key}/runs")["items"] if run["state"] == "running"]

    (first,) = until(lambda: runs_at_work(desk))
    must_stop_within_ten_seconds(desk, signal.SIGINT)
    again = OpenDesk(a_home)
    open_desks.append(again)
    again.wait()
    (second,) = until(lambda: [run for run in runs_at_work(again) if run["id"] != first["id"]])
    assert (second["stage"], second["round"]) == ("analysis", 2)
    item = again.ask("POST", f"/items/{key}/cancel")
    assert item["state"] == "cancelled"
    until(lambda: not runs_at_work(again))


def test_after_a_kill_its_parts_stop_by_themselves_and_it_opens_again(
    desk: OpenDesk, a_home: Path, open_desks: list[OpenDesk]
) -> None:
    until(desk.is_healthy)
    parts = [pid for pid, _ in desk.running.processes.values()]
    desk.process.kill()
    desk.process.communicate(timeout=60)
    until(lambda: not any(homes.born(pid) for pid in parts), GRACE + 30)
    again = OpenDesk(a_home)
    open_desks.append(again)
    until(again.wait().is_healthy)


def test_a_killed_desk_can_be_opened_again_at_once(
    desk: OpenDesk, a_home: Path, open_desks: list[OpenDesk]
) -> None:
    until(desk.is_healthy)
    desk.process.kill()
    desk.process.communicate(timeout=60)
    again = OpenDesk(a_home)
    open_desks.append(again)
    until(again.wait().is_healthy)


@pytest.mark.parametrize("variable", ["QUARTERDECK_HTTP_PORT", "SIDECAR_PORT", "SIDECAR_METRICS_PORT"])
def test_a_taken_port_is_named_with_the_setting_that_changes_it(tmp_path: Path, variable: str) -> None:
    """And at once: nobody waits until a part that cannot start has become healthy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = OpenDesk(tmp_path / "home", **{variable: str(port)})
        said = refused.rest()
    assert refused.process.returncode != 0
    assert f"Port {port}" in said
    assert f"set {variable} to another port" in said
    assert ("The router cannot start: Port" in said) is variable.startswith("SIDECAR_")
    assert "starts again" not in said and "Traceback" not in said
    assert processes_of(tmp_path) == []
