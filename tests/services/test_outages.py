"""Every part is killed while items are on their way: work goes on, nothing is lost or done twice."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes.repositories import make_repository
from tests.services.test_up import OpenDesk, until

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

ITEMS = 5
"""More than its crew works on at once."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[OpenDesk]:
    opened = OpenDesk(tmp_path / "home").wait()
    yield opened
    opened.stop()


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "sample")


def items_in(desk: OpenDesk, *states: str) -> list[str]:
    query = "&".join(f"state={state}" for state in states)
    return [item["key"] for item in desk.ask("GET", f"/items?{query}&limit=100")["items"]]


def approve_all(desk: OpenDesk) -> None:
    for key in items_in(desk, "waiting_approval"):
        desk.ask("POST", f"/items/{key}/approve", comment="yes")


def kill(desk: OpenDesk, part: str) -> None:
    if part == "postgres":
        pid = int((desk.home / "postgres" / "postmaster.pid").read_text().split()[0])
    else:
        pid = desk.pid_of(part)
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([process for process in [_process(pid)] if process], timeout=60)
    until(desk.is_healthy)


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def story(desk: OpenDesk, key: str) -> list[str]:
    found: list[dict[str, Any]] = desk.ask("GET", f"/items/{key}/events?limit=500")["items"]
    return [event["kind"] for event in found]


def test_whatever_dies_under_load_all_items_are_done_and_none_twice(desk: OpenDesk, sample: Path) -> None:
    desk.ask("POST", "/projects", key="ET", name="Enduro", repository=str(sample))
    keys = [desk.ask("POST", "/items", project="ET", title="Greet")["key"] for _ in range(ITEMS)]
    for part in ("postgres", "prefect", "desk", "web", "postgres"):
        before = sum(len(story(desk, key)) for key in keys)
        approve_all(desk)
        until(lambda b=before: sum(len(story(desk, key)) for key in keys) > b)  # work is under way
        kill(desk, part)

    def all_done() -> bool:
        approve_all(desk)
        assert not items_in(desk, "blocked"), [desk.ask("GET", f"/items/{k}")["move"] for k in keys]
        return len(items_in(desk, "done")) == ITEMS

    until(all_done, 400)
    for key in keys:
        kinds = Counter(story(desk, key))
        assert (kinds["stage_changed"], kinds["item_done"], kinds["approval_decided"]) == (5, 1, 1)
        runs = desk.ask("GET", f"/items/{key}/runs")["items"]
        assert [run["stage"] for run in runs] == ["analysis", "architecture", "development", "review"]
    assert desk.ask("GET", "/dead-letters")["items"] == []
