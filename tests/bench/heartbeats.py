"""Heartbeats of many agents: a round of all of them, and sweeps as flows of one process.

    python -m tests.bench.heartbeats --agents 1000 --flows 100

Everybody has one piece of work in each of five sources, all of it in progress and none of it stuck, so a
round looks, merges and judges, and starts nothing. A process of its own, so that its memory is its own.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from deployments import home, schema
from deployments.setup import prefect_at_hand
from deployments.supervisor import ROOT
from quarterdeck.board.model import OUTSIDE, Project, State, WorkItem
from quarterdeck.crew.roster import Roster
from quarterdeck.forge.tracker import Changed, Comment, Group, Issue, TrackerProject
from quarterdeck.heartbeat.cards import SweepCard
from quarterdeck.heartbeat.model import Result
from quarterdeck.heartbeat.sources.every import every_source
from quarterdeck.house import House, open_house
from quarterdeck.kernel.errors import NotFound
from quarterdeck.kernel.postgres import server_for
from quarterdeck.kernel.settings import Settings, load
from quarterdeck.pipeline.board_items import BoardItems
from tests.fakes.installed import multica_books
from tests.fakes.multica import FakeMultica
from tests.fakes.work_places import FakeOpenClaw, connect

Row = tuple[str, str, str]
AT_ONCE = 4
PAGE = 100


@dataclass
class Cost:
    """What something took. `server` is the CPU time of PostgreSQL."""

    wall: float
    own: float
    server: float

    def __str__(self) -> str:
        return f"{self.wall:.0f} s ({self.own:.0f} s of CPU, PostgreSQL {self.server:.0f} s)"


class Tracker:
    """A tracker with one issue for each agent."""

    def __init__(self, agents: Iterable[str]) -> None:
        now = datetime.now(UTC)
        self.asked = 0
        self._issues = [
            Issue(
                id=f"i-{number}",
                project="ops",
                number=number,
                title=f"Issue of {agent}",
                description="",
                priority="high",
                labels=(f"agent:{agent}",),
                group=Group.STARTED,
                state="In Progress",
                author="anna",
                editor="",
                external_source="",
                external_id="",
                created_at=now,
                changed_at=now,
            )
            for number, agent in enumerate(agents)
        ]

    async def is_connected(self) -> bool:
        return True

    async def projects(self) -> tuple[TrackerProject, ...]:
        return (TrackerProject("ops", "OPS", "Operations"),)

    async def changed(
        self, project: str, page: str = "", *, spare: int = 0, is_brief: bool = False
    ) -> Changed:
        self.asked += 1
        first = int(page or 0)
        rest = first + PAGE < len(self._issues)
        return Changed(tuple(self._issues[first : first + PAGE]), str(first + PAGE) if rest else "")

    async def issue(self, project: str, identity: str) -> Issue:
        return self._issues[int(identity.removeprefix("i-"))]

    async def comments(self, project: str, issue: str) -> Sequence[Comment]:
        return ()

    async def comment(self, project: str, issue: str, text: str, our_id: str) -> str:
        raise NotFound("Nobody comments here.", "")

    async def set_state(self, project: str, issue: str, group: Group) -> None:
        raise NotFound("Nothing is moved here.", "")

    async def followed(self) -> tuple[str, ...]:
        return ()


class Fleet:
    """A house with many agents and their work."""

    def __init__(self, house: House, folder: Path, many: int) -> None:
        self.house = house
        self.folder = folder
        self.agents = [f"agent-{number:04}" for number in range(many)]
        self.openclaw = FakeOpenClaw(folder / "openclaw")
        self.tracker = Tracker(self.agents)

    async def assemble(self, multica: FakeMultica) -> None:
        await self._enrol()
        await self._fill_board()
        self._fill_workboard()
        self._fill_multica(multica)
        self._fill_documents()
        await connect(self.house, "openclaw_cli", self.openclaw.connection)
        await connect(self.house, "multica", multica.connection("rest"))
        house = self.house
        house.sources = every_source(
            *(house.database, house.connections, house.settings),
            items=BoardItems(house.database, house.board, house.engine),
            tracker=self.tracker,
            followed=self.tracker,
        )
        for source in house.sources.all:
            house.sweeper.add(source)

    def _workspace(self, agent: str) -> Path:
        return self.folder / "workspaces" / agent

    async def _enrol(self) -> None:
        agents = [
            {
                "slug": agent,
                "parameters": {"program": "true"},
                "heartbeat": {
                    "category": "development",
                    "multica_id": _uuid(number),
                    "workspace": str(self._workspace(agent)),
                },
            }
            for number, agent in enumerate(self.agents)
        ]
        await self.house.crew.import_roster(Roster.model_validate({"agents": agents}), {})

    async def _fill_board(self) -> None:
        async with self.house.database.command("fill the board") as unit:
            project = Project(key="BNCH", name="Bench", pipeline=OUTSIDE, created_at=unit.now)
            unit.session.add(project)
            await unit.session.flush()
            for number, agent in enumerate(self.agents, 1):
                item = WorkItem(
                    project_id=project.id,
                    number=number,
                    key=f"BNCH-{number:03}",
                    title=f"Item of {agent}",
                    assignee=agent,
                    pipeline=OUTSIDE,
                    stage="work",
                    state=State.RUNNING,
                    created_at=unit.now,
                    updated_at=unit.now,
                )
                unit.session.add(item)

    def _fill_workboard(self) -> None:
        now = int(datetime.now(UTC).timestamp() * 1000)

        def fill(state: dict[str, list[dict[str, object]]]) -> None:
            for number, agent in enumerate(self.agents):
                card = {"id": f"card-{number}", "title": f"Card of {agent}", "status": "running"}
                facts = {"agentId": agent, "priority": "normal", "labels": [], "events": []}
                state["cards"].append(card | facts | {"createdAt": now, "updatedAt": now, "metadata": {}})

        self.openclaw.change(fill)

    def _fill_multica(self, multica: FakeMultica) -> None:
        def fill(state: dict[str, object]) -> None:
            for number, agent in enumerate(self.agents):
                whose = {"assignee_type": "agent", "assignee_id": _uuid(number), "status": "in_progress"}
                multica_books.create(state, f"Issue for {agent}", **whose)

        multica.change(fill)

    def _fill_documents(self) -> None:
        mark = f"<!-- quarterdeck state=in_progress at={datetime.now(UTC).isoformat(timespec='seconds')} -->"
        for agent in self.agents:
            self._workspace(agent).mkdir(parents=True)
            (self._workspace(agent) / "TODO.md").write_text(f"- [ ] Line of {agent} {mark}\n")

    async def round(self, sweep: Callable[[str], Awaitable[None]], at_once: int) -> None:
        """Every agent once."""
        gate = asyncio.Semaphore(at_once)

        async def one(agent: str) -> None:
            async with gate:
                await sweep(agent)

        await asyncio.gather(*map(one, self.agents))


def _uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


@asynccontextmanager
async def fleet(settings: Settings, many: int) -> AsyncIterator[Fleet]:
    """A company of so many agents in a home of its own."""
    async with open_house(settings) as house:
        with FakeMultica(settings.folder / "multica") as multica:
            made = Fleet(house, settings.folder, many)
            await made.assemble(multica)
            yield made


async def measured(work: Callable[[], Awaitable[None]]) -> Cost:
    wall, own, server = time.perf_counter(), time.process_time(), _postgres()
    await work()
    return Cost(time.perf_counter() - wall, time.process_time() - own, _postgres() - server)


def _postgres() -> float:
    """CPU seconds of the server of this home, so far."""
    pid = (load().folder / "postgres" / "postmaster.pid").read_text().split()[0]
    server = psutil.Process(int(pid))
    ended = server.cpu_times()
    seconds = ended.user + ended.system + ended.children_user + ended.children_system
    for child in server.children():
        with suppress(psutil.Error):
            times = child.cpu_times()
            seconds += times.user + times.system
    return float(seconds)


async def measure_round(settings: Settings, many: int) -> Row:
    """All agents, each source looked into once."""
    load_before = os.getloadavg()[0]
    async with fleet(settings, many) as made:
        beats = await made.house.sweeper.heartbeats()
        swept: list[SweepCard] = []

        async def sweep(agent: str) -> None:
            swept.append(await made.house.sweeper.sweep(agent, "bench", beats=beats))

        cost = await measured(lambda: made.round(sweep, AT_ONCE))
        odd = [card for card in swept if card.result is not Result.QUIET]
        own = sum(state.own for card in swept for state in card.sources.values())
        assert (odd, own) == ([], 5 * many), (odd[:1], own)
        looks = f"{len(made.openclaw.calls)} call of openclaw, {made.tracker.asked} pages of the tracker"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    said = f"{cost}, at most {memory} MB, {looks}, load {load_before:.0f} to {os.getloadavg()[0]:.0f}"
    return (f"a round of {many} agents, five sources each", "<= 60 s, <= 400 MB", said)


async def measure_flows(settings: Settings, many: int) -> Row:
    """Sweeps as flows of this process; Prefect's server is another one."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from deployments.prefect_server import address, auth_string

    load_before = os.getloadavg()[0]
    home.logs(settings).mkdir(parents=True, exist_ok=True)
    async with fleet(settings, many) as made, prefect_at_hand(settings) as port:
        there = {PREFECT_API_URL: f"{address(port)}/api", PREFECT_API_AUTH_STRING: auth_string(settings)}
        with temporary_settings(there):
            from flows.sweep import QUIET, sweep

            await sweep("agent-0000", return_state=True)  # the first flow of a process is slower
            states: list[object] = []

            async def one(agent: str) -> None:
                states.append(await sweep(agent, return_state=True))

            cost = await measured(lambda: made.round(one, many))
        assert {getattr(state, "name", "") for state in states} == {QUIET}, states[:3]
    said = f"{cost}, load {load_before:.0f} to {os.getloadavg()[0]:.0f}"
    return (f"{many} agents as flows of one process, one round", "<= 30 s", said)


def measure_heartbeats(agents: int, flows: int) -> list[Row]:
    """Both figures, each of a process of its own."""
    rows = []
    for wanted in (["--agents", str(agents)], ["--flows", str(flows)]):
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.heartbeats", *wanted],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        rows += [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])]
    return rows


def _in_a_home(measure: Callable[[Settings, int], Coroutine[None, None, Row]], many: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="quarterdeck-bench-") as folder:
        os.environ["QUARTERDECK_HOME"] = folder
        settings = load().model_copy(update={"source_fresh": 3600})
        with server_for(settings).running() as server:
            schema.migrate(server.url())
            return asyncio.run(measure(settings, many))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.heartbeats", description=__doc__)
    parser.add_argument("--agents", type=int, default=0, help="agents of the round")
    parser.add_argument("--flows", type=int, default=0, help="agents that are swept as flows")
    wanted = parser.parse_args()
    rows = []
    for measure, many in ((measure_round, wanted.agents), (measure_flows, wanted.flows)):
        rows += [_in_a_home(measure, many)] if many else []
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
