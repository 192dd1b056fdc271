"""The four ways of executing an agent, each with a working far side, told in the same words.

async with far_side("openclaw", tmp_path) as far:
    far.says("Done.", seconds=1)
    outcome = await far.run(limit=5)
"""

import json
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from quarterdeck.crew.agent_api_runtime import AgentApiRuntime
from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.model_runtime import ModelRuntime
from quarterdeck.crew.openclaw_runtime import OpenClawRuntime
from quarterdeck.crew.runtime import Job, Outcome
from tests.fakes.agent_ws import END, FakeAgent, Pause, say
from tests.fakes.openclaw import GATEWAY_TOKEN, HOOKS_TOKEN, FakeOpenClaw, Reply

RUNTIMES = ("command", "model", "openclaw", "openclaw-hooks", "agent_api")
REMOTE = RUNTIMES[1:]
GRACE = 3.0


class Far(Protocol):
    """One runtime and whoever works behind it."""

    name: str
    runtime: CommandRuntime
    parameters: dict[str, Any]

    def says(self, text: str, seconds: float = 0.0, repeat: int = 1) -> None:
        """What the agent answers from now on, and how long it takes."""

    def begun(self) -> int:
        """How many turns the far side has begun."""
        ...

    def is_idle(self) -> bool:
        """Is nothing at work there any more?"""
        ...


class Models:
    """The way to a fake that answers as a model."""

    def __init__(self, address: Callable[[], str]) -> None:
        self.address = address

    async def key_of(self, agent: str) -> str:
        return GATEWAY_TOKEN

    async def spent(self, agent: str, item: str, since: datetime, tokens: int) -> tuple[int, int] | None:
        return tokens, 450


class Connected:
    """A connection to a fake gateway."""

    def __init__(self, gateway: FakeOpenClaw) -> None:
        self._gateway = gateway

    async def get(self, kind: str, name: str = "default") -> dict[str, Any] | None:
        return {"url": self._gateway.url, "token": GATEWAY_TOKEN, "hooks_token": HOOKS_TOKEN}


class Entered:
    """Addresses of agents behind WebSockets as people entered them, by the name of their connection."""

    def __init__(self, **urls: str) -> None:
        self._urls = urls

    async def get(self, kind: str, name: str = "default") -> dict[str, Any] | None:
        return {"url": self._urls[name]} if kind == "agent_api" and name in self._urls else None


class Program:
    """A script that answers as the others do: its words, and the files in them."""

    name = "command"

    def __init__(self, folder: Path) -> None:
        self.runtime = CommandRuntime(grace=GRACE)
        self._starts = folder / "starts"
        self.parameters: dict[str, Any] = {}
        self.says("Done.")

    def says(self, text: str, seconds: float = 0.0, repeat: int = 1) -> None:
        summary = json.dumps({"summary": text})
        script = f"echo begun >> {self._starts}; sleep {seconds}; echo {shlex.quote(text)}; "
        script += f'echo {shlex.quote(summary)} > "$QUARTERDECK_RESULT"'
        self.parameters = {"program": "/bin/sh", "args": ["-c", script]}

    def begun(self) -> int:
        return len(self._starts.read_text().splitlines()) if self._starts.exists() else 0

    def is_idle(self) -> bool:
        return True


class Gateway:
    """OpenClaw by either route, or a plain model: the same fake."""

    def __init__(self, name: str, gateway: FakeOpenClaw) -> None:
        self.name = name
        self.gateway = gateway
        self.parameters: dict[str, Any] = {"resume_seconds": 5}
        self.runtime: CommandRuntime = OpenClawRuntime(Connected(gateway), grace=GRACE)
        if name == "model":
            self.parameters = {"model": "some-model"}
            self.runtime = ModelRuntime(Models(lambda: gateway.url), grace=GRACE)
        elif name.endswith("hooks"):
            self.parameters |= {"route": "hooks"}

    def says(self, text: str, seconds: float = 0.0, repeat: int = 1) -> None:
        self.gateway.says(Reply(text, seconds, repeat=repeat))

    def begun(self) -> int:
        return len(self.gateway.turns)

    def is_idle(self) -> bool:
        return all(turn.is_over or turn.was_aborted for turn in self.gateway.turns)


class Socket:
    """An agent behind a WebSocket."""

    name = "agent_api"

    def __init__(self, agent: FakeAgent) -> None:
        self.agent = agent
        self.runtime = AgentApiRuntime(Entered(), grace=GRACE)
        self.parameters: dict[str, Any] = {"base_url": agent.base("agent_17"), "silence_seconds": 20}

    def says(self, text: str, seconds: float = 0.0, repeat: int = 1) -> None:
        pieces = [text[:5], text[5:]] if repeat == 1 else [text] * repeat
        self.agent.says([Pause(seconds), *map(say, pieces), END])

    def begun(self) -> int:
        return len(self.agent.messages)

    def is_idle(self) -> bool:
        return self.agent.open == 0


@asynccontextmanager
async def far_side(name: str, folder: Path) -> AsyncIterator["Bench"]:
    """A runtime with its far side, and a work tree to work in."""
    async with AsyncExitStack() as stack:
        far: Far
        if name == "command":
            far = Program(folder)
        elif name == "agent_api":
            far = Socket(await stack.enter_async_context(FakeAgent()))
        else:
            far = Gateway(name, await stack.enter_async_context(FakeOpenClaw()))
        yield Bench(far, folder)


class Bench:
    """Runs of one far side."""

    def __init__(self, far: Far, folder: Path) -> None:
        self.far = far
        self.runtime = far.runtime
        self.says = far.says
        self.tree = folder / "tree"
        self.folder = folder / "runs" / "26"
        self.tree.mkdir(exist_ok=True)

    def job(self, limit: float = 30, **changes: Any) -> Job:
        facts: dict[str, Any] = {
            "run_id": 26,
            "item_key": "ET-007",
            "title": "Count",
            "description": "Count the laps.",
            "stage": "analysis",
            "round": 1,
            "agent": "analyst",
            "folder": self.folder,
            "work_tree": self.tree,
            "branch": "item/ET-007",
            "limit": timedelta(seconds=limit),
            "needs": ("brd.md",),
            "parameters": self.far.parameters,
        }
        return Job(**(facts | changes))

    async def run(self, limit: float = 30, **changes: Any) -> Outcome:
        job = self.job(limit, **changes)
        await self.runtime.start(job)
        return await self.runtime.wait(job.folder)

    def log(self) -> str:
        return (self.folder / "agent.log").read_text("utf-8", "replace")

    def stage(self) -> str:
        """How far the client says that its turn has come."""
        path = self.folder / "turn.json"
        return str(json.loads(path.read_text())["stage"]) if path.exists() else ""

    def pid(self) -> int:
        """The process that works on the run here."""
        return int(json.loads((self.folder / "started.json").read_text())["pid"])
