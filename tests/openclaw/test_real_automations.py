"""Automations made from the roster, in the real gateway (spec heartbeat.md, section 15, rows 1 and 2).

make test-openclaw
"""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from croniter import croniter
from sqlmodel import select

from deployments.setup import EXAMPLES
from quarterdeck.crew.roster import Roster, read_roster
from quarterdeck.heartbeat.model import Sweep
from quarterdeck.house import House, open_house
from quarterdeck.kernel.errors import Unavailable
from tests.fakes.company import environment, settings_of
from tests.fakes.multica import FakeMultica
from tests.fakes.provider import Called, Received
from tests.fakes.work_places import ADA, BOB, connect
from tests.openclaw.gateway import Crew, RealGateway, chain, install

pytestmark = pytest.mark.timeout(1500)

PROGRAMS = Path(sys.executable).parent
"""Where `quarterdeck` is."""
OURS = "quarterdeck.heartbeat."
WOKEN, ASLEEP = "architect", "developer"
ONCE_A_YEAR = "0 4 1 1 *"
"""So that nobody is woken by the clock."""
LOOKED_INTO = ("workboard", "multica", "documents")


@dataclass(frozen=True)
class Desk:
    """A home with its command line, connected with a gateway."""

    house: House
    environment: Mapping[str, str]

    async def quarterdeck(self, *arguments: str) -> Any:
        """What our own command says as JSON."""
        program = await asyncio.create_subprocess_exec(
            PROGRAMS / "quarterdeck", *arguments, "--json", env=self.environment, stdout=PIPE, stderr=PIPE
        )
        out, err = await program.communicate()
        assert program.returncode == 0, f"{arguments}: {out.decode()} {err.decode()}"
        return json.loads(out)

    async def openclaw(self, *arguments: str) -> Any:
        """What the real command says as JSON."""
        return await self.house.sources.openclaw.call_with(*arguments, "--json")

    async def jobs(self) -> dict[str, Any]:
        """The gateway's jobs that we made, by the end of their key, which is the agent's name."""
        told = await self.openclaw("cron", "list")
        ours = [job for job in told["jobs"] if job.get("declarationKey", "").startswith(OURS)]
        by_agent = {job["declarationKey"].removeprefix(OURS): job for job in ours}
        assert len(by_agent) == len(ours) and not told["hasMore"]
        return by_agent


@asynccontextmanager
async def desk_of(folder: Path, database_url: str, gateway: RealGateway) -> AsyncIterator[Desk]:
    async with open_house(settings_of(folder / "home", database_url)) as house:
        await connect(house, "openclaw", gateway.connection)
        await connect(house, "openclaw_cli", gateway.program)
        yield Desk(house, environment(folder / "home", database_url))


async def test_the_example_has_one_job_per_agent_at_its_times_in_its_zone(
    tmp_path: Path, database_url: str
) -> None:
    install()
    roster = read_roster(EXAMPLES / "company.yaml")
    beats = {agent.slug: agent.heartbeat for agent in roster.agents if agent.heartbeat}
    for beat in beats.values():
        beat["scheduler"] = "openclaw"
    crew = Crew({slug: tmp_path / slug for slug in beats})
    nobody = "http://127.0.0.1:9/v1"
    async with (
        RealGateway(tmp_path / "gateway", nobody, "none", "gpt", crew) as gateway,
        desk_of(tmp_path, database_url, gateway) as desk,
    ):
        await desk.house.crew.import_roster(roster, {})
        made = await desk.quarterdeck("heartbeat", "cron", "--apply")
        assert {step["step"] for step in made["items"]} == {"create"}
        jobs = await desk.jobs()
        again = await desk.quarterdeck("heartbeat", "cron", "--apply")
        assert {step["step"] for step in again["items"]} == {"keep"}
    assert jobs.keys() == beats.keys() and len(jobs) == 15
    for agent, job in jobs.items():
        is_as_the_spec_wants_it(agent, job, 10 if agent in ("secretary", "coo") else 15)
    seconds = [job["schedule"]["expr"].split()[0] for job in jobs.values()]
    assert len(set(seconds)) == 15, "no two are woken in the same second"


def is_as_the_spec_wants_it(agent: str, job: Mapping[str, Any], interval: int) -> None:
    """Read off the job itself: the spec's table of section 11, and the time at which OpenClaw will run it."""
    expression = job["schedule"]["expr"]
    minutes, *others, [second] = croniter.expand(expression, second_at_beginning=True)[0]
    assert len(expression.split()) == 6 and others == [["*"]] * 4, expression
    assert minutes != ["*"], f"{agent} would be woken every minute: {expression}"
    offset = minutes[0]
    assert offset < interval and minutes == list(range(offset, 60, interval)), expression
    assert (job["schedule"]["kind"], job["schedule"]["tz"]) == ("cron", "Asia/Shanghai")
    assert (job["agentId"], job["enabled"]) == (agent, True)
    assert (job["sessionTarget"], job["payload"]["kind"]) == ("isolated", "agentTurn")
    assert job["delivery"]["mode"] == "none"
    due = job["nextRunAtMs"] // 1000
    assert (due % 60, due // 60 % interval) == (second, offset), "OpenClaw reads the seconds first, as we do"


def obedient(body: dict[str, Any]) -> Called | None:
    """A model that runs the first command that it is told to run, once, if it has the tool for it."""
    said = [str(message["content"]) for message in body["messages"] if message["role"] == "user"]
    order = re.search(r"Run `([^`]+)` now", " ".join(said))
    tools = [tool["function"]["name"] for tool in body.get("tools", ())]
    return ("exec", {"command": order[1]}) if order and "exec" in tools and not results(body) else None


def results(body: Mapping[str, Any]) -> list[str]:
    """What tools told the model."""
    return [str(message["content"]) for message in body["messages"] if message["role"] == "tool"]


async def test_a_run_of_a_job_wakes_its_agent_alone_which_looks_into_all_three_sources(
    tmp_path: Path, database_url: str
) -> None:
    workspaces = {agent: tmp_path / agent for agent in (WOKEN, ASLEEP)}
    crew = Crew(workspaces, PROGRAMS, environment(tmp_path / "home", database_url))
    async with (
        chain(tmp_path, database_url, crew=crew) as real,
        desk_of(tmp_path, database_url, real.gateway) as desk,
    ):
        real.provider.offer("native-gpt", calls=obedient, text="NO_REPLY")
        with FakeMultica(tmp_path / "multica") as multica:
            await _put_work_into_every_source(desk, multica, workspaces)
            await desk.quarterdeck("heartbeat", "render", "--apply")
            await desk.quarterdeck("heartbeat", "cron", "--apply")
            jobs = await desk.jobs()
            run = await _run(desk, jobs[WOKEN], real.gateway)
        await _one_run_is_on_record(desk, jobs, run)
        await _one_sweep_is_on_record(desk)
        calls = real.provider.to("native-gpt")
        sessions = (await desk.openclaw("sessions", "--all-agents"))["sessions"]
    assert {session["agentId"] for session in sessions} == {WOKEN}
    _the_model_was_told_what_the_sweep_saw(calls)
    asked = [call for call in multica.state["calls"] if call[:2] == ["issue", "list"]]
    assert asked and all("--workspace-id" in call for call in asked), multica.state["calls"]


async def _put_work_into_every_source(
    desk: Desk, multica: FakeMultica, workspaces: Mapping[str, Path]
) -> None:
    """For both agents in each source one piece of work that is open and waits, so that nothing is started."""
    await connect(desk.house, "multica", multica.connection("cli"))
    agents = []
    for agent, identity in zip(workspaces, (ADA, BOB), strict=True):
        workspaces[agent].mkdir()
        (workspaces[agent] / "TODO.md").write_text(f"- [ ] Pay the bill of {agent} #approval\n")
        multica.file(f"Wait with {agent}", status="blocked", assignee_type="agent", assignee_id=identity)
        card = ("--agent", agent, "--status", "blocked", f"Hold the line of {agent}")
        await desk.openclaw("workboard", "create", *card)
        beat = {"category": "development", "scheduler": "openclaw", "zone": "Europe/Kyiv"}
        beat |= {"cron": ONCE_A_YEAR, "workspace": str(workspaces[agent]), "multica_id": identity}
        agents.append({"slug": agent, "parameters": {"program": "true"}, "heartbeat": beat})
    await desk.house.crew.import_roster(Roster.model_validate({"agents": agents}), {})


async def _run(desk: Desk, job: Mapping[str, Any], gateway: RealGateway) -> str:
    """Its run's id, once it is over; a run that fails ends the command with 1."""
    try:
        ran = await desk.openclaw("cron", "run", job["id"], "--wait", "--wait-timeout", "200s")
    except Unavailable as error:
        raise AssertionError(f"{error.detail} {gateway.log.read_text()[-4000:]}") from None
    return str(ran["runId"])


async def _one_run_is_on_record(desk: Desk, jobs: Mapping[str, Any], run: str) -> None:
    """In OpenClaw's own history: one run that went well, of the job that was meant."""
    [entry] = (await desk.openclaw("cron", "runs", jobs[WOKEN]["id"]))["entries"]
    assert (entry["runId"], entry["status"]) == (run, "ok"), entry
    assert entry["sessionKey"].startswith(f"agent:{WOKEN}:cron:{jobs[WOKEN]['id']}"), entry
    assert (await desk.openclaw("cron", "runs", jobs[ASLEEP]["id"]))["entries"] == []


async def _one_sweep_is_on_record(desk: Desk) -> None:
    """In ours: one sweep of one agent, in which each source was asked anew and told what waits in it."""
    cards = {card["agent"]: card for card in (await desk.quarterdeck("heartbeat", "list"))["items"]}
    assert cards.keys() == {WOKEN, ASLEEP} and cards[ASLEEP]["last"] is None
    last = cards[WOKEN]["last"]
    assert last is not None, "the turn did not run the command"
    seen = {name: last["sources"].get(name) for name in LOOKED_INTO}
    told = {name: (s["state"], s["found"], s["own"], s["cached"]) for name, s in seen.items() if s}
    assert told == dict.fromkeys(LOOKED_INTO, ("ok", 2, 1, False)), last["sources"]
    assert all(last["started_at"] <= s["at"] <= last["finished_at"] for s in seen.values() if s)
    assert (last["cause"], last["result"], last["started"]) == ("openclaw", "worked", 0)
    async with desk.house.database.read() as session:
        assert [sweep.id for sweep in await session.exec(select(Sweep))] == [last["id"]]


def _the_model_was_told_what_the_sweep_saw(calls: list[Received]) -> None:
    """Two calls of one turn: the second brings what our command printed."""
    assert [len(results(call.body)) for call in calls] == [0, 1]
    assert all(f"agent={WOKEN} " in json.dumps(call.body["messages"]) for call in calls)
    [printed] = results(calls[1].body)
    assert printed.startswith(f"{WOKEN}: worked"), printed
    assert all(re.search(rf"^ *{name} +ok +2 +1 ", printed, re.MULTILINE) for name in LOOKED_INTO), printed
