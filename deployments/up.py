"""`quarterdeck up`: starts everything, keeps it running, stops all of it within ten seconds.

PostgreSQL is shared and looked after here; Prefect's server, router, web, desk and runner are programs on
a leash (see `supervisor`). Agents' keepers are nobody's children: they outlive a crash of all of us, and
the next desk adopts them; only an orderly end stops them too (see `closing`).
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

from deployments import closing, home, parts, prefect_server, process, supervisor, variables
from deployments.backoff import CRASH_LOOP
from deployments.supervisor import Ended, Program, Supervised
from quarterdeck.kernel import disk
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError, Unavailable
from quarterdeck.kernel.postgres import Server, server_for
from quarterdeck.kernel.settings import Settings
from quarterdeck.kernel.words import counted
from quarterdeck.router import access

Tell = Callable[[str], None]

PATIENCE = 240.0
"""Seconds until everything must have become healthy once."""

DRAIN = 2.0
"""Seconds that model calls under way may go on."""

GRACE = 3.0
"""Seconds to stop politely for those who work; agents, Prefect's server and PostgreSQL come after them."""
GRACE_OF_AGENTS = 1.5
SERVER_GRACE = 1.5

LOOK_AT_LOGS = 60.0


async def run(settings: Settings, tell: Tell, *, ready: Callable[[dict[str, str]], None]) -> int:
    """Open the desk and keep it open until SIGTERM, Ctrl-C, or its terminal closes. Returns the exit code.

    `ready` is called once with the addresses. Raises `Conflict` when it is up already, `Misconfigured`
    for a port that is taken or a part that a person must set otherwise, `Unavailable` when a part does not
    become healthy or the disk is full.
    """
    with disk.explained(settings.folder), home.only_one(settings):
        for stranger in variables.meaningless(os.environ):
            tell(stranger)
        await _stop_leftovers(settings, tell)
        settings = parts.with_ports(settings)
        desk = OpenDesk(settings, tell)
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else it is run by `nohup`
            numbers.append(signal.SIGHUP)
        for number in numbers:
            asyncio.get_running_loop().add_signal_handler(number, desk.ask_to_stop)
        try:
            await desk.open()
            if not desk.stopping.is_set():
                ready(_addresses(settings))
            await desk.stopping.wait()
        finally:
            await desk.close()
            home.forget(settings)
    return 0


class OpenDesk:
    """All parts of one home, while they run."""

    def __init__(self, settings: Settings, tell: Tell) -> None:
        self.settings = settings
        self.tell = tell
        self.stopping = asyncio.Event()
        self._server: Server = server_for(settings)
        self._using = AsyncExitStack()
        self._parts: dict[str, Supervised] = {}
        self._setup: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._troubles: dict[str, str] = {}
        self._hopeless: asyncio.Future[Misconfigured] = asyncio.get_running_loop().create_future()
        """Why a part will not start before a person has mended something, while we open."""

    def ask_to_stop(self) -> None:
        """The first time in order, the second time at once."""
        if self.stopping.is_set():
            self.tell("Stopping at once.")
            for part in self._parts.values():
                part.kill()
        self.stopping.set()

    async def open(self) -> None:
        """Start everything, each as early as it can; returns when all is healthy or stopping is asked."""
        opening = asyncio.create_task(self._open())
        stopping = asyncio.create_task(self.stopping.wait())
        limit = asyncio.create_task(asyncio.sleep(PATIENCE))
        ends: list[asyncio.Future[Any]] = [opening, stopping, limit, self._hopeless]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, limit):
            task.cancel()
        if opening.done():
            self._hopeless.cancel()
            opening.result()
            return
        opening.cancel()
        await asyncio.wait([opening])
        if not self.stopping.is_set():
            raise self._hopeless.result() if self._hopeless.done() else self._too_slow()

    async def _open(self) -> None:
        home.make(self.settings, home.logs(self.settings), home.folder(self.settings))
        self.tell("PostgreSQL …")
        await self._using.enter_async_context(self._server.using())
        self._watching = asyncio.create_task(self._watch())
        self._start(parts.prefect(self.settings, self._server))
        await self._set_up("core")
        self._start(parts.router(self.settings, drain=DRAIN))
        self._start(parts.worker("web", self.settings))
        self._start(parts.worker("desk", self.settings))
        await self._healthy("prefect")
        await self._set_up("prefect")
        self._start(parts.worker("runner", self.settings))
        for name in ("router", "web", "desk", "runner"):
            await self._healthy(name)

    async def _watch(self) -> None:
        """Bring PostgreSQL back when it dies, and keep logs small, until stopping is asked."""
        logs_due = time.monotonic() + LOOK_AT_LOGS
        while not self.stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), 1.0)
            await self._look_after_postgres()
            with suppress(OSError):  # a disk that is full, or away for a moment; the next look tries again
                self._look_at_disk()
                self._record()
                if time.monotonic() > logs_due:
                    logs_due = time.monotonic() + LOOK_AT_LOGS
                    for part in self._parts.values():
                        supervisor.rotate(part.log_file)

    async def _look_after_postgres(self) -> None:
        try:
            if not self.stopping.is_set() and await asyncio.to_thread(self._server.ensure_running):
                self.tell("PostgreSQL had died and was started again.")
            self._is_well("postgres")
        except QuarterdeckError as error:
            self._is_in_trouble("postgres", str(error))

    def _look_at_disk(self) -> None:
        folder = self.settings.folder
        if disk.is_short(folder):
            self._is_in_trouble("disk", f"{disk.full(folder)} Until then nothing new is begun.")
        elif self._is_well("disk"):
            self.tell("The disk has room again; work goes on.")

    def _is_in_trouble(self, what: str, why: str) -> None:
        """Say it, but not again every second."""
        if self._troubles.get(what) != why:
            self._troubles[what] = why
            self.tell(why)

    def _is_well(self, what: str) -> bool:
        """Whether that is news."""
        return self._troubles.pop(what, None) is not None

    async def close(self) -> None:
        """Stop everything; those who need others go first."""
        self.stopping.set()
        if self._watching is not None:
            await self._watching
        if self._setup is not None and self._setup.returncode is None:
            await supervisor.end_group(self._setup.pid)
        workers = [part for name, part in self._parts.items() if name != "prefect"]
        await asyncio.gather(*(part.stop(GRACE) for part in workers))
        if stopped := await closing.stop_runs(self.settings, GRACE_OF_AGENTS):
            runs = counted(stopped, "run")
            self.tell(f"Stopped {runs} of agents or CI; what was stopped begins anew with the next `up`.")
        if "prefect" in self._parts:
            await self._parts["prefect"].stop(SERVER_GRACE)
        await self._using.aclose()

    # Parts

    def _start(self, program: Program) -> None:
        part = Supervised(program, home.logs(self.settings), self._ended)
        self._parts[program.name] = part
        part.start()
        self._record()

    async def _healthy(self, name: str) -> None:
        self.tell(f"{name} …")
        await self._parts[name].healthy.wait()
        self._record()

    async def _set_up(self, what: str) -> None:
        """One half of `quarterdeck setup`, in a process of its own: it is large, and done in seconds."""
        self._setup = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deployments.setup", what, "--only-changes"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=parts.environment(self.settings, os.environ),
            cwd=supervisor.ROOT,
            start_new_session=True,
        )
        assert self._setup.stdout is not None
        async for line in self._setup.stdout:
            self.tell(line.decode("utf-8", "replace").rstrip())
        if await self._setup.wait():
            raise Unavailable("Setting up failed; see above.", "Correct it, then start again.")

    def _ended(self, end: Ended) -> None:
        if end.exit_code == process.MISCONFIGURED and not self._hopeless.done():
            self._hopeless.set_result(Misconfigured(f"The {end.name} cannot start: {end.reason}"))
            return
        why = f": {end.reason} It" if end.reason else f" (exit code {end.exit_code}); it"
        self.tell(f"{end.name} ended{why} starts again in {end.pause:g} s.")
        if end.failures == CRASH_LOOP:
            self.tell("\n".join([f"{end.name} keeps ending. The end of its log:", *end.last_lines]))

    def _too_slow(self) -> Unavailable:
        waiting = [name for name, part in self._parts.items() if not part.healthy.is_set()]
        name = waiting[0] if waiting else "PostgreSQL"
        log = self._parts[name].log_file if waiting else self.settings.folder / "postgres.log"
        lines = "\n".join(supervisor.tail(log))
        return Unavailable(
            f"{name} did not become healthy within {PATIENCE:.0f} seconds.", f"See {log}:\n{lines}"
        )

    def _record(self) -> None:
        pids = {name: part.pid for name, part in self._parts.items() if part.pid}
        processes = {name: (pid, home.born(pid)) for name, pid in pids.items()}
        running = home.Running(os.getpid(), self.settings.http_port, self.settings.prefect_port, processes)
        if running != home.read(self.settings):
            home.write(self.settings, running)


async def _stop_leftovers(settings: Settings, tell: Tell) -> None:
    """A supervisor that was killed may have left processes behind; they would hold its ports."""
    before = home.read(settings)
    found = home.leftovers(before) if before else []
    if found:
        processes = counted(len(found), "process", "processes")
        tell(f"Stopping {processes} that an earlier `quarterdeck up` left behind …")
        await asyncio.gather(*(supervisor.end_group(pid, grace=GRACE) for pid in found))
    home.forget(settings)


def _addresses(settings: Settings) -> dict[str, str]:
    return {
        "web": home.web_address(settings),
        "prefect": prefect_server.address(settings.prefect_port),
        "router": access.address(settings),
        "router_login": access.admin_token(settings),
        "prefect_login": prefect_server.auth_string(settings),
        "home": str(settings.folder),
    }


def main(settings: Settings, *, as_json: bool = False) -> int:
    """The command. People read what is told; with `as_json` one line tells programs that it is open."""

    def tell(line: str) -> None:
        with suppress(OSError):  # nobody listens any more, or it goes to a file on a full disk
            print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    def ready(addresses: dict[str, str]) -> None:
        if as_json:
            print(json.dumps({"ready": True} | addresses), flush=True)
            return
        key = prefect_server.login_file(settings)
        token = settings.keys_folder / "router-admin"
        is_person = sys.stdout.isatty()
        login = addresses["prefect_login"] if is_person else f"the content of {key}"
        admin = addresses["router_login"] if is_person else f"the content of {token}"
        tell(
            f"\nQuarterdeck is open: {addresses['web']}"
            f"\nPrefect: {addresses['prefect']} (log in with {login})"
            f"\nModel router: {addresses['router']}/dashboard (log in with {admin})\nCtrl-C stops it."
        )

    logs.set_up(settings.model_copy(update={"log_level": "warning"}))
    started = time.monotonic()
    code = asyncio.run(run(settings, tell, ready=ready))
    tell(f"Quarterdeck is closed after {time.monotonic() - started:.0f} s; nothing is left running.")
    return code
