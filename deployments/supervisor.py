"""Keeps a program running: starts it on a leash, waits for its health, restarts it, stops its group.

A program that ends takes its process group with it, so that nothing of it is left when it starts again.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from deployments import backoff, leash, process

log = structlog.get_logger(__name__)

ROOT = Path(__file__).resolve().parent.parent
"""Where our packages are; the working folder of every program, so that each can import them."""

LARGEST_LOG = 10_000_000
"""Bytes after which a log file is set aside; one older file is kept."""

Health = Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class Program:
    """What to run: a Python module with its arguments. Without `health` it says itself when it is ready."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    health: Health | None = None


@dataclass(frozen=True)
class Ended:
    """A program ended by itself, for the `failures`th time in a row."""

    name: str
    exit_code: int
    failures: int
    pause: float
    last_lines: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Its own sentence about it; empty when it died without one."""
        has_spoken = self.exit_code in (process.MISCONFIGURED, process.TRY_AGAIN)
        return self.last_lines[-1] if has_spoken and self.last_lines else ""


class Supervised:
    """One program under supervision. `told` hears of every unexpected end."""

    def __init__(self, program: Program, logs: Path, told: Callable[[Ended], None]) -> None:
        self.program = program
        self.log_file = logs / f"{program.name}.log"
        self.pid: int | None = None
        self.failures = 0
        self.healthy = asyncio.Event()
        self._told = told
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run it, for as long as nobody says `stop`."""
        self._task = asyncio.create_task(self._run(), name=self.program.name)

    async def stop(self, grace: float) -> None:
        """End it: politely, and after `grace` seconds by force. Nothing of its group is left."""
        self._stopping.set()
        if self.pid is not None:
            _signal_group(self.pid, signal.SIGTERM)
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=grace)
        self.kill()
        await asyncio.wait([self._task])

    def kill(self) -> None:
        """End its whole group now."""
        if self.pid is not None:
            _signal_group(self.pid, signal.SIGKILL)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            exit_code = await self._try_to_live()
            if self._stopping.is_set():
                return
            self.failures = backoff.failures_in_a_row(self.failures, time.monotonic() - began)
            pause = backoff.pause(self.failures)
            lines = tail(self.log_file)
            self._told(Ended(self.program.name, exit_code, self.failures, pause, lines))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _try_to_live(self) -> int:
        try:
            rotate(self.log_file)
            with self.log_file.open("ab") as output:
                return await self._live_once(output)
        except OSError as error:  # no room for its log, no memory for a process: that passes
            log.warning("program_not_started", name=self.program.name, reason=str(error))
            return os.EX_OSERR

    async def _live_once(self, output: IO[bytes]) -> int:
        ours, its = socket.socketpair()
        with ours:
            with its:
                command = (sys.executable, "-m", leash.__name__, str(its.fileno()), *self.program.arguments)
                started = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=dict(self.program.environment),
                    cwd=ROOT,
                    start_new_session=True,
                    pass_fds=[its.fileno()],
                )
            self.pid = started.pid
            watching = asyncio.create_task(self._wait_for_health(ours))
            try:
                return await started.wait()
            finally:
                watching.cancel()
                self.healthy.clear()
                await end_group(started.pid)
                self.pid = None

    async def _wait_for_health(self, leash_end: socket.socket) -> None:
        if self.program.health is None:
            leash_end.setblocking(False)
            if not await asyncio.get_running_loop().sock_recv(leash_end, len(leash.READY)):
                return
        else:
            await _until(self.program.health)
        self.healthy.set()


async def _until(health: Health) -> None:
    while True:
        if await health():
            return
        await asyncio.sleep(0.1)


def _signal_group(group: int, number: signal.Signals) -> bool:
    """Whether there was anybody to hear it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS: only the dead are left
        return False
    return True


async def end_group(group: int, grace: float = 1.0) -> None:
    """Stop what is left of a process group: politely, then by force."""
    give_up = time.monotonic() + grace
    while _signal_group(group, signal.SIGTERM):
        await asyncio.sleep(0.05)
        if time.monotonic() > give_up:
            _signal_group(group, signal.SIGKILL)
            return


def tail(file: Path, lines: int = 12) -> tuple[str, ...]:
    """The last lines of a log file."""
    try:
        with file.open("rb") as reader:
            reader.seek(max(0, file.stat().st_size - 8192))
            return tuple(reader.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ()


def rotate(file: Path, largest: int = LARGEST_LOG) -> None:
    """Set a log aside that has grown too large. Its writer goes on: it appends to the emptied file."""
    if not file.exists() or file.stat().st_size <= largest:
        return
    older = file.with_suffix(".log.1")
    try:
        shutil.copyfile(file, older)
    except OSError:  # no room for both: the newer one stays
        older.unlink(missing_ok=True)
    else:
        os.truncate(file, 0)
