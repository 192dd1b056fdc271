"""The webhook door under load: 200 deliveries a second for a minute, each a different one.

python -m tests.bench.webhooks [--seconds 60] [--rate 200]      # a web process alone, on its own database

It takes twenty seconds more than `--seconds`.
"""

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from sqlalchemy import func
from sqlmodel import col, select

from deployments import schema
from deployments.supervisor import ROOT
from quarterdeck.house import House, open_house
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.inbox import Inbox, InboxEntry, Standing
from quarterdeck.kernel.settings import Settings
from tests.fakes import senders

Row = tuple[str, str, str]
RATE = 200
SECONDS = 60
PATIENCE = 120.0
"""Seconds that a desk has to work everything off."""


async def measure_webhooks(house: House, address: str, web: int, rate: int, seconds: int) -> list[Row]:
    """Ring at `address` as Gitea does, and count what was kept; `web` is the process that serves it."""
    await _connect(house)
    before, process = await _count(house), psutil.Process(web)
    await _ring_all(address, rate, rate)  # a second to warm up
    cpu = sum(process.cpu_times()[:2])
    load = os.getloadavg()[0]
    times, refused = await _ring_all(address, rate, rate * seconds)
    spent = (sum(process.cpu_times()[:2]) - cpu) / len(times) * 1e3
    lost = before + rate * (seconds + 1) - await _count(house)
    spread = ", ".join(f"p{percent} {_quantile(times, percent):.1f} ms" for percent in (50, 95, 99))
    said = (
        f"{spread}, most {max(times):.0f} ms; {refused} refused, {lost} lost;"
        f" {spent:.2f} ms of CPU each (load {load:.1f} before)"
    )
    return [(f"webhook accepted, {rate}/s for {seconds} s", "p95 <= 50 ms, none lost", said)]


async def measure_worked_off(house: House) -> Row:
    """Wait until the desk has worked on everything; how long each delivery waited for that."""
    end = time.monotonic() + PATIENCE
    while await _count(house, Standing.WAITING) and time.monotonic() < end:
        await asyncio.sleep(0.5)
    waited = func.extract("epoch", col(InboxEntry.finished_at) - col(InboxEntry.received_at))
    async with house.database.read() as session:
        times = [float(one) for one in (await session.exec(select(waited))).all() if one is not None]
    left = await _count(house, Standing.WAITING)
    said = f"p50 {_quantile(times, 50):.2f} s, p95 {_quantile(times, 95):.2f} s, {left} left"
    return ("delivery kept -> worked on, at that rate", "", said)


async def _connect(house: House) -> None:
    async with house.database.command("connect") as unit:
        kind, value = senders.CONNECTIONS["gitea"]
        await house.connections.put(unit, kind, "default", value, Source.API)
    await asyncio.sleep(4)  # until the web process has forgotten that there was none


async def _count(house: House, state: Standing | None = None) -> int:
    query = select(func.count()).select_from(InboxEntry)
    if state is not None:
        query = query.where(col(InboxEntry.state) == state)
    async with house.database.read() as session:
        return (await session.exec(query)).one()


def _delivery(number: str) -> senders.Sent:
    """About 8 kB, as a push of a few commits."""
    commits = [{"id": f"{number}-{n}", "message": "x" * 300, "added": ["a/b.py"] * 5} for n in range(16)]
    return senders.gitea(number, "push", {"ref": "refs/heads/main", "id": number, "commits": commits})


async def _ring_all(address: str, rate: int, count: int) -> tuple[list[float], int]:
    """Ring at a steady rate whatever the answers do; milliseconds from the planned moment, and refusals."""
    name, loop = f"{time.time_ns()}", asyncio.get_running_loop()
    limits = aiohttp.TCPConnector(limit=200)
    async with aiohttp.ClientSession(address, connector=limits) as client:
        begin, rings = loop.time() + 0.2, []
        for number in range(count):
            planned = begin + number / rate
            sent = _delivery(f"{name}-{number}")
            await asyncio.sleep(max(0.0, planned - loop.time()))
            rings.append(asyncio.create_task(_ring(client, sent, planned)))
        found = await asyncio.gather(*rings)
    return [took for took, _ in found], sum(status != 202 for _, status in found)


async def _ring(client: aiohttp.ClientSession, sent: senders.Sent, planned: float) -> tuple[float, int]:
    async with client.post(sent.path, data=sent.body, headers=sent.headers) as answer:
        await answer.read()
    return (asyncio.get_running_loop().time() - planned) * 1e3, answer.status


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else 0.0


@asynccontextmanager
async def _serving(house: House, environment: dict[str, str]) -> AsyncIterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = environment | {"QUARTERDECK_HTTP_PORT": str(port)}
    command = [sys.executable, "-m", "deployments.web"]
    process = await asyncio.create_subprocess_exec(*command, env=told, cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as client:
            while process.returncode is None:
                with suppress(aiohttp.ClientError):
                    async with client.get(f"{address}/health"):
                        break
                await asyncio.sleep(0.1)
        yield address, process.pid
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _alone(rate: int, seconds: int, with_worker: bool) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="quarterdeck-bench-") as folder:
        told: dict[str, Any] = {"home": Path(folder), "prefect_port": 9, "blocks": False}
        async with open_house(Settings(**told)) as house:
            await asyncio.to_thread(schema.migrate, house.database.url)
            environment = os.environ | {"QUARTERDECK_HOME": folder, "QUARTERDECK_LOG_LEVEL": "warning"}
            async with _serving(house, environment) as (address, pid):
                if not with_worker:
                    return await measure_webhooks(house, address, pid, rate, seconds)
                working = asyncio.create_task(_work(Inbox(house.database)))
                rows = await measure_webhooks(house, address, pid, rate, seconds)
                rows.append(await measure_worked_off(house))
                working.cancel()
                return rows


async def _work(inbox: Inbox) -> None:
    while True:
        await inbox.work_off({})
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.webhooks", description=__doc__)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--work", action="store_true", help="work the deliveries off at the same time")
    wanted = parser.parse_args()
    for row in asyncio.run(_alone(wanted.rate, wanted.seconds, wanted.work)):
        print(" | ".join(row))
