"""`quarterdeck demo`: a real work item travels from filing to done while you watch.

Everything is real: processes, git, CI, database, Prefect. Only the crew is scripted: it cannot be launched
once, fails once, overruns its limit once and breaks the tests once, so that all ten messages are seen.
The demo has a home and ports of its own and never meets a running desk.
"""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deployments import home, parts
from deployments.up import OpenDesk
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.settings import Settings, load, variable
from quarterdeck.kernel.words import counted
from quarterdeck.notify.texts import MESSAGES
from quarterdeck.router.config import RouterSettings

EXAMPLES = Path(__file__).parent / "examples"
LOOK = 0.2
"""Seconds between looks at the item."""
PATIENCE = 240.0
"""Seconds until the item must be done."""
THINKING = 3.0
"""Seconds that the demo's approver takes, so that the request can be read."""
LIMIT = "3s"
"""The developer's limit here, so that its overrun takes seconds and not half an hour."""
KEPT = {"postgres_bin", "language", "log_level", "log_format"}
"""Settings of the real desk that hold in the demo, too: they lead to nobody else's chat or data."""


def main(console: Console, *, keep_open: bool = False) -> int:
    """Show the journey. Exit code 0: the item is done and all ten kinds of message were delivered."""
    with prepared_home() as settings:
        logs.set_up(settings.model_copy(update={"log_level": "warning"}))  # its lines are the story
        return asyncio.run(_run(console, settings, keep_open))


@contextmanager
def prepared_home() -> Iterator[Settings]:
    """An empty home with a crew that gets into trouble, a token of its own, and free ports.

    Raises `Conflict` when another demo is open in it.
    """
    folder = load().folder / "demo"
    _leave_own_desk()
    os.environ["QUARTERDECK_HOME"] = str(folder)
    os.environ["QUARTERDECK_TOKEN"] = secrets.token_urlsafe(24)
    os.environ.update(dict.fromkeys(parts.PORTS, "0"))
    settings = load()
    with home.only_one(settings):
        _empty(settings)
        (folder / "pipelines").mkdir()
        (folder / "agents").mkdir()
        shutil.copy(EXAMPLES / "agents" / "rehearsal.py", folder / "agents")
        (folder / "pipelines" / "default.yaml").write_text(_pipeline(), encoding="utf-8")
        (folder / "crew.yaml").write_text(_crew(), encoding="utf-8")
        yield parts.with_ports(settings)


def _leave_own_desk() -> None:
    """Forget what the environment says of the real desk: its bots, chats, trackers and databases."""
    ours = {variable(name) for name in Settings.model_fields.keys() - KEPT}
    routers = {str(field.validation_alias) for field in RouterSettings.model_fields.values()}
    for name in list(os.environ):
        if name.upper() in ours | routers:
            del os.environ[name]


def _empty(settings: Settings) -> None:
    """Delete what an earlier demo left; not the lock, which we hold."""
    run = home.folder(settings)
    for path in (*settings.folder.iterdir(), *run.iterdir()):
        if path.is_dir() and path != run:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and path != home.lock_file(settings):
            path.unlink()


def _pipeline() -> str:
    text = (EXAMPLES / "pipelines" / "default.yaml").read_text(encoding="utf-8")
    pipeline = yaml.safe_load(text)
    next(s for s in pipeline["stages"] if s["name"] == "development")["limit"] = LIMIT
    return yaml.safe_dump(pipeline, sort_keys=False)


def _crew() -> str:
    """The shipped crew, with trouble: no architect yet, and a developer with three bad rounds."""
    crew = yaml.safe_load((EXAMPLES / "crew.yaml").read_text(encoding="utf-8"))
    parameters = {agent["slug"]: agent["parameters"] for agent in crew["agents"]}
    parameters["architect"]["program"] = "agents/architect.py"
    parameters["developer"]["args"] = ["--fail-in", "1", "--overrun-in", "2", "--break-in", "3"]
    return yaml.safe_dump(crew, sort_keys=False, allow_unicode=True)


async def _run(console: Console, settings: Settings, keep_open: bool) -> int:
    console.print("[bold]Opening the desk[/]: PostgreSQL, Prefect, router, web, desk, runner")
    desk = OpenDesk(settings, lambda line: console.print(f"  [dim]{escape(line)}[/]", highlight=False))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, desk.ask_to_stop)
    began = time.monotonic()
    try:
        await desk.open()
        console.print(f"  open after {time.monotonic() - began:.0f} s\n")
        journey = asyncio.create_task(Journey(console, settings).show())
        stopped = asyncio.create_task(desk.stopping.wait())
        await asyncio.wait([journey, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not journey.done():
            journey.cancel()
            return 1
        if keep_open and sys.stdout.isatty():
            console.print("\nThe desk stays open to look around; Ctrl-C closes it.")
            await stopped
        stopped.cancel()
        return journey.result()
    finally:
        console.print("[dim]Closing …[/]")
        await desk.close()


def _sample_repository(folder: Path) -> Path:
    """A git repository as somebody would bring it: a README, and the command that tests it."""
    folder.mkdir()
    (folder / "README.md").write_text("# Greetings\n", encoding="utf-8")
    (folder / ".quarterdeck.yaml").write_text("test: python3 -m unittest\n", encoding="utf-8")
    who = ("-c", "user.name=Demo", "-c", "user.email=demo@localhost")
    for arguments in (("init", "-q", "-b", "main"), ("add", "--all"), (*who, "commit", "-q", "-m", "Begin")):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


class Journey:
    """One item on its way, watched through the API as anybody could."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self.console = console
        self.settings = settings
        self.prefect = f"http://127.0.0.1:{settings.prefect_port}"
        self.web = f"http://{settings.http_host}:{settings.http_port}"
        self.api = httpx.AsyncClient(
            base_url=f"{self.web}/api/v1",
            headers={"Authorization": f"Bearer {os.environ['QUARTERDECK_TOKEN']}"},
            timeout=10,
        )
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._told: set[int] = set()
        self._kinds: set[str] = set()

    async def show(self) -> int:
        """File the item, follow it to its end, sum up."""
        async with self.api:
            key = await self._file()
            stages = 5
            with self._progress as progress:
                bar = progress.add_task(key, total=stages + 1)
                item = await self._follow(key, bar)
            await self._sum_up(item)
            missing = set(MESSAGES) - self._kinds
            if missing:
                self.console.print(f"[red]Never delivered: {', '.join(sorted(missing))}[/]")
            return 0 if item["state"] == "done" and not missing else 1

    async def _file(self) -> str:
        repository = await asyncio.to_thread(_sample_repository, self.settings.folder / "sample")
        await self._post("/projects", {"key": "DEMO", "name": "Demo", "repository": str(repository)})
        wish = {
            "project": "DEMO",
            "title": "Greet the user by name",
            "description": "`greet` takes a name and greets.",
            "priority": "high",
        }
        item = await self._post("/items", wish)
        self._say(
            f"[bold]{item['key']}[/] filed: {item['title']}\n"
            f"  Prefect: {self.prefect}/runs\n"
            f"  API:     {self.web}/api/v1/items/{item['key']}\n"
            "  Messages go to the log channel; here they are as they are sent.\n"
        )
        return str(item["key"])

    async def _follow(self, key: str, bar: Any) -> dict[str, Any]:
        seen: list[str] = []
        give_up = time.monotonic() + PATIENCE
        while True:
            item = await self._get(f"/items/{key}")
            await self._tell_messages(key)
            if item["stage"] not in seen:
                seen.append(item["stage"])
            self._progress.update(
                bar,
                completed=len(seen),
                description=f"{key} {item['stage']}, round {item['round']}: {item['state']}",
            )
            is_over = item["state"] in ("done", "cancelled", "blocked")
            if time.monotonic() > give_up or (is_over and self._all_told):
                return item
            await asyncio.sleep(LOOK)

    async def _act_on(self, key: str, kind: str) -> None:
        """Play the people: install the missing program, approve."""
        if kind == "error":
            self._say("  [yellow]The architect's program is missing, on purpose: installing it.[/]")
            agents = self.settings.folder / "agents"
            await asyncio.to_thread(shutil.copy, agents / "rehearsal.py", agents / "architect.py")
        if kind == "approval_requested":
            self._say(
                f"\n  [yellow]A person would now approve, by one of:[/]\n"
                f"    quarterdeck item approve {key}\n"
                f"    POST {self.web}/api/v1/items/{key}/approve\n"
                f"    {self.prefect}: the run `{key} · approval · …`, Resume\n"
                f"  [yellow]The demo does it by itself in {THINKING:.0f} seconds.[/]\n"
            )
            await asyncio.sleep(THINKING)
            await self._post(f"/items/{key}/approve", {"comment": "approved by the demo"})

    def _say(self, text: str, *, markup: bool = True) -> None:
        self.console.print(text, markup=markup, highlight=False, soft_wrap=True)

    async def _tell_messages(self, key: str) -> None:
        page = await self._get("/outbox", item=key, limit=200)
        messages = sorted(page["items"], key=lambda message: message["id"])
        self._all_told = all(message["state"] == "sent" for message in messages)
        for message in messages:
            if message["state"] == "sent" and message["id"] not in self._told:
                self._told.add(message["id"])
                self._kinds.add(message["kind"])
                self._say("  " + message["text"].splitlines()[0], markup=False)
                await self._act_on(key, message["kind"])

    async def _sum_up(self, item: dict[str, Any]) -> None:
        table = Table(title=f"\n{item['key']}: {item['state']}", title_justify="left")
        for column in ("run", "stage", "round", "agent", "ended", "seconds"):
            table.add_column(column, justify="right" if column in ("run", "round", "seconds") else "left")
        for run in (await self._get(f"/items/{item['key']}/runs"))["items"]:
            seconds = run["seconds"]
            table.add_row(
                str(run["id"]), run["stage"], str(run["round"]), run["agent"], _ending(run),
                f"{seconds:.1f}" if seconds is not None else "",
            )  # fmt: skip
        self.console.print(table)
        messages, kinds = counted(len(self._told), "message"), counted(len(self._kinds), "kind")
        self.console.print(f"{messages} of {kinds} delivered.")

    async def _get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = await self.api.get(path, params=query)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.api.post(path, json=body)
        made: dict[str, Any] = answer.raise_for_status().json()
        return made


def _ending(run: dict[str, Any]) -> str:
    if run["timed_out"]:
        return "killed at its limit"
    if run["exit_code"] is None:
        return "never launched"
    return "finished" if run["exit_code"] == 0 else f"failed, exit code {run['exit_code']}"
