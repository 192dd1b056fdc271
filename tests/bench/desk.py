"""A real desk, timed from its own journal."""

import asyncio
import os
import shutil
import statistics
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
from sqlmodel import col, select

from deployments import home as homes
from deployments.parts import PORTS, with_ports
from deployments.setup import EXAMPLES
from deployments.up import OpenDesk
from quarterdeck.board.cards import Draft, ProjectDraft, Wanted
from quarterdeck.board.model import State, WorkItem
from quarterdeck.crew.model import AgentRun
from quarterdeck.house import House, open_house
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.journal import Event
from quarterdeck.kernel.settings import load
from tests.bench.deliveries import measure_started
from tests.bench.webhooks import RATE, SECONDS, measure_webhooks, measure_worked_off
from tests.fakes.repositories import make_repository

OWNER = owner("bench")
ALLOWS = ("item_filed", "stage_changed")
"""Events that allow a stage, as far as it has an agent."""

Row = tuple[str, str, str]


async def measure_desk(folder: Path, items: int, flood: int, *, only_deliveries: bool = False) -> list[Row]:
    """Open a desk in `folder`, let items travel, and say what it cost."""
    sample = _prepare(folder)
    settings = with_ports(load())
    desk = OpenDesk(settings, lambda line: print(f"  {line}", flush=True))
    try:
        began = time.perf_counter()
        await desk.open()
        opened = time.perf_counter() - began
        async with open_house(settings) as house:
            await house.board.create_project(
                OWNER, ProjectDraft(key="BENCH", name="Bench", repository=str(sample))
            )
            rows = [("up, first time", "", f"{opened:.0f} s")]
            address = f"http://127.0.0.1:{_running(settings.folder).http_port}"
            rows.append(await measure_started(house, address, "BENCH", items))
            if only_deliveries:
                return rows
            approving = asyncio.create_task(_approve(house))
            rows += await _one_by_one(house, items)
            rows += await _flood(house, flood)
            rows.append(_memory(settings.folder))
            rows += await _webhooks(house, settings.folder)
            approving.cancel()
        return rows
    finally:
        await desk.close()


def _prepare(folder: Path) -> Path:
    home = folder / "home"
    shutil.copytree(EXAMPLES, home)
    crew = (home / "crew.yaml").read_text(encoding="utf-8")
    (home / "crew.yaml").write_text(crew.replace("max_concurrent: 2", "max_concurrent: 8"), encoding="utf-8")
    os.environ |= {
        "QUARTERDECK_HOME": str(home),
        **dict.fromkeys(PORTS, "0"),
        "QUARTERDECK_TOKEN": "bench-token-that-is-long-enough",
    }
    return make_repository(folder / "sample", {".quarterdeck.yaml": "test: 'true'\n"})


async def _approve(house: House) -> None:
    """Somebody who approves within a twentieth of a second."""
    while True:
        for card in (await house.board.items(Wanted(state=(State.WAITING_APPROVAL,)))).items:
            with suppress(Conflict):
                await house.engine.decide(card.key, OWNER, approved=True)
        await asyncio.sleep(0.05)


async def _file(house: House) -> str:
    return (await house.board.file(OWNER, Draft(project="BENCH", title="Greet"))).key


async def _done(house: House, keys: list[str]) -> list[WorkItem]:
    while True:
        async with house.database.read() as session:
            rows = (await session.exec(select(WorkItem).where(col(WorkItem.key).in_(keys)))).all()
        if all(row.state in (State.DONE, State.BLOCKED) for row in rows):
            return list(rows)
        await asyncio.sleep(0.1)


async def _one_by_one(house: House, items: int) -> list[Row]:
    starts, overheads = [], []
    for number in range(items + 1):
        key = await _file(house)
        (item,) = await _done(house, [key])
        if number == 0:
            continue  # the first flow of a process is slower
        events, runs = await _journal(house, key)
        starts += _reactions(events, runs)
        overheads.append(_overhead(item, events, runs))
    return [
        ("event -> agent process started", "median <= 0.5 s", _spread(starts)),
        ("engine overhead per item", "<= 5 s", _spread(overheads)),
    ]


async def _journal(house: House, key: str) -> tuple[list[Event], list[AgentRun]]:
    async with house.database.read() as session:
        events = select(Event).where(col(Event.item_key) == key).order_by(col(Event.id))
        runs = select(AgentRun).where(col(AgentRun.item_key) == key).order_by(col(AgentRun.id))
        return list((await session.exec(events)).all()), list((await session.exec(runs)).all())


def _reactions(events: list[Event], runs: list[AgentRun]) -> list[float]:
    """Seconds from each event that allowed a stage to the start of its agent's process."""
    found = []
    for run in runs:
        allowed = [event.at for event in events if event.kind in ALLOWS and event.at <= run.created_at]
        if run.started_at is not None:
            found.append((run.started_at - allowed[-1]).total_seconds())
    return found


def _overhead(item: WorkItem, events: list[Event], runs: list[AgentRun]) -> float:
    """Seconds from filing to done, without those in which an agent worked or a person thought."""
    assert item.finished_at is not None
    whole = (item.finished_at - item.created_at).total_seconds()
    worked = sum(
        (run.ended_at - run.started_at).total_seconds() for run in runs if run.ended_at and run.started_at
    )
    return whole - worked - _between(events, "approval_requested", "approval_decided")


def _between(events: list[Event], first: str, last: str) -> float:
    times: dict[str, datetime] = {event.kind: event.at for event in events}
    return (times[last] - times[first]).total_seconds()


async def _flood(house: House, count: int) -> list[Row]:
    began = time.perf_counter()
    keys = [await _file(house) for _ in range(count)]
    rows = await _done(house, keys)
    took = time.perf_counter() - began
    blocked = sum(row.state is State.BLOCKED for row in rows)
    async with house.database.read() as session:
        told = select(Event.id).where(col(Event.kind).in_(["error", "engine_failed"]))
        errors = len((await session.exec(told)).all())
    said = f"{took:.0f} s ({took / count:.2f} s an item), {blocked} blocked, {errors} errors"
    return [(f"{count} items in flight, 8 at work", "no error", said)]


async def _webhooks(house: House, home: Path) -> list[Row]:
    running = _running(home)
    address, web = f"http://127.0.0.1:{running.http_port}", running.processes["web"][0]
    rows = await measure_webhooks(house, address, web, RATE, SECONDS)
    return [*rows, await measure_worked_off(house)]


def _running(home: Path) -> homes.Running:
    running = homes.read(load().model_copy(update={"home": home}))
    assert running is not None
    return running


def _memory(home: Path) -> Row:
    running = _running(home)
    sizes = {name: _resident(pid) for name, (pid, _) in running.processes.items()}
    ours = sizes["web"] + sizes["desk"]
    each = ", ".join(f"{name} {size:.0f}" for name, size in sorted(sizes.items()))
    return ("resident memory of web + desk", "<= 400 MB", f"{ours:.0f} MB ({each})")


def _resident(pid: int) -> float:
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_info().rss for one in family) / 1e6


def _spread(values: list[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:.2f} s ({min(values):.2f} to {max(values):.2f}, n={len(values)})"
