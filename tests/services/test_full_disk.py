"""A whole desk on a small disk that is really full: it says so, loses nothing, and goes on by itself.

All of the home is on that disk: PostgreSQL's data and WAL, Prefect's database, repositories, work trees,
run folders, logs. Only the crew's list of starts is elsewhere: it must see every one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.supervisor import ROOT
from quarterdeck.kernel.disk import RESERVE
from quarterdeck.kernel.postgres import EmbeddedPostgres
from tests.fakes.counted_crew import hire
from tests.fakes.repositories import make_repository
from tests.fakes.small_disk import NoSmallDisk, SmallDisk, small_disk
from tests.services.test_outages import approve_all, items_in
from tests.services.test_up import TOKEN, OpenDesk, processes_of, until

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

SIZE = "350m"
"""A desk that was just set up takes 80 MB of it."""
ITEMS = 4
QUERY = """
import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    print(connection.execute(sys.argv[2]).fetchall())
"""
FILL_WAL = "select pg_logical_emit_message(false, 'ballast', repeat('x', 20000000))"
NOT_TOLD = """
select event.id, event.kind from events event left join outbox message on message.event_id = event.id
where event.kind in (select kind from outbox)
group by event.id having count(message.id) <> 1 or min(message.state::text) <> 'sent'
"""
"""Events without their one message, or whose message was not sent."""


class SmallDesk(OpenDesk):
    """A running `quarterdeck up` whose home is on a small disk."""

    def __init__(self, disk: SmallDisk) -> None:
        super().__init__(disk.inside / "home", entrance=disk.entrance)
        self.disk = disk
        self.home = disk.path / "home"
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        self._said = ""

    @property
    def said(self) -> str:
        """What it told people so far."""
        assert self.process.stderr is not None
        with suppress(BlockingIOError):
            while piece := os.read(self.process.stderr.fileno(), 1 << 16):
                self._said += piece.decode()
        return self._said

    def stays_full_until(self, sentence: str, *, leaving: int = 0) -> None:
        """Whatever room somebody gives back is taken again, until this was said."""

        def is_said() -> bool:
            self.disk.fill(leaving=leaving)
            return sentence in self.said

        until(is_said)

    def waits_for_room(self) -> int:
        """How often its desk did not take up items because the disk is full."""
        lines = (self.home / "logs" / "desk.log").read_text(errors="replace").splitlines()
        return sum("duty_waits" in line and "duty=items" in line and "is full" in line for line in lines)

    def doctor(self) -> tuple[int, dict[str, Any]]:
        """Its exit code, and its findings by name."""
        command = [*self.disk.entrance, sys.executable, "-m", "deployments.cli", "doctor", "--json"]
        told = os.environ | {"QUARTERDECK_HOME": str(self.disk.inside / "home")}
        done = subprocess.run(command, env=told, cwd=ROOT, capture_output=True, text=True, timeout=120)
        return done.returncode, {check["check"]: check for check in json.loads(done.stdout)["checks"]}

    def query(self, text: str) -> subprocess.CompletedProcess[str]:
        """Ask its database."""
        url = EmbeddedPostgres(self.disk.inside / "home").url().replace("+psycopg", "")
        command = [*self.disk.entrance, sys.executable, "-c", QUERY, url, text]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    def file(self) -> httpx.Response:
        """File an item, whatever comes of it."""
        return httpx.post(
            f"{self.addresses['web']}/api/v1/items",
            headers={"Authorization": f"Bearer {TOKEN}"},
            json={"project": "ET", "title": "Greet"},
            timeout=60,
        )

    def stories(self) -> dict[str, list[Any]]:
        """Every item's events."""
        keys = [item["key"] for item in self.ask("GET", "/items?limit=100")["items"]]
        return {key: self.ask("GET", f"/items/{key}/events?limit=500")["items"] for key in keys}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    folder = tmp_path_factory.mktemp("disk")
    try:
        with small_disk(folder, SIZE) as disk:
            yield disk
    except NoSmallDisk as reason:
        pytest.skip(f"this machine does not let us mount a small disk: {reason}")


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the crew notes what it was started for."""
    return tmp_path_factory.mktemp("starts") / "starts"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("repository") / "sample")


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Instead of the check after every test: the desk outlives one; `open_desks` checks at the end."""


@pytest.fixture(scope="module")
def open_desks(disk: SmallDisk, starts: Path) -> Iterator[list[SmallDesk]]:
    hire(disk.path / "home", starts, known_as=disk.inside / "home")
    opened: list[SmallDesk] = []
    yield opened
    for desk in opened:
        desk.stop()
    assert processes_of(disk.inside) == []


@pytest.fixture
def desk(disk: SmallDisk, open_desks: list[SmallDesk], sample: Path) -> Iterator[SmallDesk]:
    """The module's desk, with room on its disk and a few items on their way."""
    if not open_desks or open_desks[-1].process.poll() is not None:
        open_desks.append(SmallDesk(disk))
        open_desks[-1].wait()
    desk = open_desks[-1]
    until(desk.is_healthy)
    if not desk.ask("GET", "/projects")["items"]:
        desk.ask("POST", "/projects", key="ET", name="Enduro", repository=str(sample))
    for _ in range(ITEMS):
        assert desk.file().is_success
    until(lambda: items_in(desk, "waiting_approval"))
    approve_all(desk)
    yield desk
    disk.make_room()


def must_all_be_done(desk: SmallDesk, known: dict[str, list[Any]], starts: Path) -> None:
    """All items get there by themselves; what was known before is still known, and nothing is there twice."""

    def all_done() -> bool:
        approve_all(desk)
        blocked = [desk.ask("GET", f"/items/{key}")["move"] for key in items_in(desk, "blocked")]
        assert not blocked
        return set(known) <= set(items_in(desk, "done"))

    until(all_done, 400)
    stories = desk.stories()
    for key, events in known.items():
        assert stories[key][: len(events)] == events, key
        kinds = Counter(event["kind"] for event in stories[key])
        assert (kinds["item_done"], kinds["approval_decided"], kinds["engine_failed"]) == (1, 1, 0), key
    runs = [run for key in known for run in desk.ask("GET", f"/items/{key}/runs")["items"]]
    begun = Counter(starts.read_text().splitlines())
    assert max(begun.values()) == 1, begun
    assert {f"{run['item']} {run['stage']} {run['round']}" for run in runs} <= set(begun)
    until(lambda: desk.query(NOT_TOLD).stdout == "[]\n")
    assert desk.ask("GET", "/dead-letters")["items"] == []


def test_a_disk_that_fills_up_under_load_is_named_and_work_goes_on_when_there_is_room(
    desk: SmallDesk, disk: SmallDisk, starts: Path
) -> None:
    desk.stays_full_until("nothing new is begun", leaving=RESERVE // 2)
    until(lambda: desk.waits_for_room() and not items_in(desk, "running"))
    begun = starts.read_text()
    assert desk.file().is_success, "what is small still has room"
    waits = desk.waits_for_room()
    until(lambda: desk.waits_for_room() > waits + 1)
    assert starts.read_text() == begun

    known, parts = desk.stories(), desk.running.processes
    disk.fill()
    while (filled := desk.query(FILL_WAL)).returncode == 0:
        disk.fill()
    assert "No space left on device" in filled.stderr or "server closed the connection" in filled.stderr
    desk.stays_full_until("PostgreSQL cannot start")
    assert desk.said.count("cannot start") == 1, "said once, not every second"

    refused = desk.file()
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    code, found = desk.doctor()
    assert code == 1
    assert [(found[name]["verdict"]) for name in ("disk", "database")] == ["fail", "fail"]
    assert "disk is full" in found["database"]["detail"]
    assert "Free some space" in found["disk"]["fix"]
    assert desk.process.poll() is None
    for part in ("web", "desk", "prefect"):
        assert desk.running.processes[part] == parts[part], f"{part} waited; it was not restarted"

    disk.make_room()
    until(desk.is_healthy)
    until(lambda: "has room again" in desk.said)
    must_all_be_done(desk, known, starts)


def test_a_full_disk_does_not_keep_the_desk_from_closing_and_it_opens_again_with_room(
    desk: SmallDesk, disk: SmallDisk, starts: Path, open_desks: list[SmallDesk]
) -> None:
    known = desk.stories()
    desk.stays_full_until("nothing new is begun")
    began = time.monotonic()
    desk.process.send_signal(signal.SIGTERM)
    desk.process.wait(60)
    assert time.monotonic() - began < 10
    assert desk.process.returncode == 0, desk.said
    assert processes_of(disk.inside) == []

    disk.fill()
    refused = SmallDesk(disk)
    assert refused.process.wait(120) == 1
    assert "the disk is full" in refused.said.lower()
    assert "Free some space" in refused.said
    assert "Traceback" not in refused.said
    refused.stop()
    assert processes_of(disk.inside) == []

    disk.make_room()
    open_desks.append(SmallDesk(disk))
    again = open_desks[-1]
    again.wait()
    must_all_be_done(again, known, starts)
