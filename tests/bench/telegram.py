"""Telegram: 32 bots in one listener, a fake Bot API server and a real NATS server.

    python -m tests.bench --only-telegram

A healthy bot is measured alone and beside 31 that hang, are flooded or answer 429, in interleaved rounds;
then 200 updates a second come for a minute. Nothing here asserts a time.
"""

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import psutil

from deployments import schema
from deployments.supervisor import ROOT
from quarterdeck.house import House, open_house
from quarterdeck.kernel.settings import Settings
from quarterdeck.telegram.wire import UPDATE, Send
from tests.fakes.nats import NatsServer
from tests.fakes.telegram import token_of
from tests.fakes.telegram_process import TelegramProcess

Row = tuple[str, str, str]
BOTS = 32
ROUNDS = 4
PROBES = 60
RATE, SECONDS = 200, 60
MODES = ("hang", "flood", "limit")
GROUP = -4000
"""Nobody is addressed in it, so that agents need not answer."""

PATIENCE = 240.0


class Listening:
    """The listener in a process of its own, and what comes out of it."""

    def __init__(self, house: House, telegram: TelegramProcess, process: psutil.Process) -> None:
        self.house, self.telegram, self.process = house, telegram, process
        self.healthy = telegram.tokens[-1]
        self.others = telegram.tokens[:-1]
        self.said: dict[str, float] = {}
        self.published: dict[str, float] = {}
        self.twice = 0

    async def on_event(self, message: Any) -> None:
        text = json.loads(message.data)["text"] or ""
        if text in self.published:
            self.twice += 1
        elif text in self.said:
            self.published[text] = time.perf_counter()

    def say(self, text: str, token: str) -> None:
        self.said[text] = time.perf_counter()
        self.telegram.say(text, GROUP, token)

    def waits(self, prefix: str) -> list[float]:
        """Milliseconds from each update to its event; those that are missing count as infinite."""
        return [
            (self.published.get(text, float("inf")) - at) * 1e3
            for text, at in self.said.items()
            if text.startswith(prefix)
        ]


async def measure_telegram(folder: Path) -> list[Row]:
    """Everything, in some minutes."""
    async with _listening(folder) as listening:
        rows = await _beside_others(listening)
        rows.append(await _steady(listening))
        rows.append(_memory(listening))
    return rows


@asynccontextmanager
async def _listening(folder: Path) -> AsyncIterator[Listening]:
    told: dict[str, Any] = {"home": folder / "home", "prefect_port": 9, "blocks": False}
    tokens = [token_of(number) for number in range(1, BOTS + 1)]
    with TelegramProcess(*tokens) as telegram, NatsServer(folder / "nats") as bus:
        settings = Settings(**told, telegram_api_base=telegram.base, nats_url=bus.url)
        async with open_house(settings) as house:
            await asyncio.to_thread(schema.migrate, house.database.url)
            for number, token in enumerate(tokens):
                await house.bots.register(f"agent-{number:02}", token)
            async with _process(settings, folder) as process:
                made = Listening(house, telegram, psutil.Process(process.pid))
                client = await nats.connect(bus.url)
                await client.subscribe(UPDATE, cb=made.on_event)
                await _until(telegram.are_polled)
                yield made
                await client.close()


@asynccontextmanager
async def _process(settings: Settings, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    told = {
        "QUARTERDECK_HOME": str(settings.home),
        "TELEGRAM_API_BASE": settings.telegram_api_base,
        "NATS_URL": settings.nats_url,
        "QUARTERDECK_LOG_LEVEL": "error",
    }
    with (folder / "listener.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deployments.cli", "bot", "run"),
            env=os.environ | told,
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _beside_others(listening: Listening) -> list[Row]:
    """The healthy bot's p95 in both directions: alone, and in the company that the issue describes."""
    heard: dict[str, list[float]] = {"alone": [], "beside": []}
    spoke: dict[str, list[float]] = {"alone": [], "beside": []}
    await _probe(listening, "warm")
    for number in range(ROUNDS):
        for name in heard:
            await _company(listening, MODES if name == "beside" else ("",))
            inbound, outbound = await _probe(listening, f"{name}-{number}")
            heard[name] += inbound
            spoke[name] += outbound
    await _company(listening, ("",))
    what = f"32nd bot beside 31 that hang, flood or answer 429 ({ROUNDS} rounds)"
    target = "p95 <= 2 x alone"
    return [
        (f"{what}: update -> event", target, _compared(heard)),
        (f"{what}: queued -> sent", target, _compared(spoke)),
    ]


async def _company(listening: Listening, modes: tuple[str, ...]) -> None:
    """Let the others misbehave, or behave; give them something to say, too."""
    for number, token in enumerate(listening.others):
        listening.telegram.mode(token, modes[number % len(modes)])
    if modes != ("",):
        for number in range(len(listening.others)):
            for chat in range(5):
                await listening.house.sends.put(Send(f"agent-{number:02}", 100 + chat, "in between"))
        await asyncio.sleep(3)
        return
    listening.telegram.forget()
    await asyncio.sleep(6)


async def _probe(listening: Listening, name: str) -> tuple[list[float], list[float]]:
    """Ten updates and ten messages a second of the healthy bot: milliseconds of each way."""
    left: dict[str, float] = {}
    begin = time.perf_counter()
    for number in range(PROBES):
        await asyncio.sleep(max(0.0, begin + number / 10 - time.perf_counter()))
        text = f"{name}/{number}"
        listening.say(text, listening.healthy)
        await listening.house.sends.put(Send(f"agent-{BOTS - 1:02}", 5000 + number % 30, text))
        left[text] = time.monotonic()
    arrived = await _arrived(listening, left)
    await _until(lambda: all(wait < float("inf") for wait in listening.waits(f"{name}/")))
    return listening.waits(f"{name}/"), [(arrived[text] - at) * 1e3 for text, at in left.items()]


async def _arrived(listening: Listening, left: dict[str, float]) -> dict[str, float]:
    def found() -> dict[str, float]:
        sent = listening.telegram.sent(listening.healthy)
        return {text: at for text, at in sent.items() if text in left}

    await _until(lambda: len(found()) == len(left), 0.1)
    return found()


async def _all_awake(listening: Listening) -> None:
    """Polls that hung when their bots began to behave are given up after a minute; until then they hang."""
    for number, token in enumerate(listening.telegram.tokens):
        listening.say(f"awake/{number}", token)
    await _until(lambda: all(wait < float("inf") for wait in listening.waits("awake/")), 0.2)


async def _steady(listening: Listening) -> Row:
    """Updates at a steady rate over all bots."""
    await _all_awake(listening)
    cpu, load = sum(listening.process.cpu_times()[:2]), os.getloadavg()[0]
    begin = time.perf_counter()
    for number in range(RATE * SECONDS):
        await asyncio.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
        listening.say(f"steady/{number}", listening.telegram.tokens[number % BOTS])
    took = time.perf_counter() - begin
    with contextlib.suppress(TimeoutError):
        await _until(lambda: all(wait < float("inf") for wait in listening.waits("steady/")), 0.2)
    waits = listening.waits("steady/")
    spent = (sum(listening.process.cpu_times()[:2]) - cpu) / len(waits) * 1e3
    lost = sum(wait == float("inf") for wait in waits)
    spread = ", ".join(f"p{percent} {_quantile(waits, percent):.1f} ms" for percent in (50, 95, 99))
    said = (
        f"{spread}; {lost} lost, {listening.twice} twice; {len(waits) / took:.0f}/s;"
        f" {spent:.2f} ms of CPU each (load {load:.1f} before)"
    )
    return (f"update -> event on NATS, {RATE}/s for {SECONDS} s", "p95 <= 50 ms, none lost", said)


def _memory(listening: Listening) -> Row:
    used = listening.process.memory_info().rss / 1e6
    return (f"listener with {BOTS} bots, after all that", "<= 300 MB", f"{used:.0f} MB resident")


def _compared(times: dict[str, list[float]]) -> str:
    alone, beside = (_quantile(times[name], 95) for name in ("alone", "beside"))
    middle = [statistics.median(times[name]) for name in ("alone", "beside")]
    return (
        f"p95 {alone:.1f} -> {beside:.1f} ms ({beside / alone:.2f} x),"
        f" median {middle[0]:.1f} -> {middle[1]:.1f} ms, n={len(times['alone'])} each,"
        f" load {os.getloadavg()[0]:.1f}"
    )


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


async def _until(condition: Any, pause: float = 0.02) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(pause)
