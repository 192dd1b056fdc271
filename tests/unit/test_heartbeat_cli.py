"""`quarterdeck heartbeat …` and `quarterdeck status`, as people and programs use them."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import run
from deployments.setup import EXAMPLES
from quarterdeck.crew.roster import Roster, read_roster
from quarterdeck.heartbeat.model import Work
from quarterdeck.heartbeat.roster import complaints
from quarterdeck.house import House, open_house
from quarterdeck.kernel.connections import Source
from tests.fakes.company import environment, settings_of
from tests.fakes.multica import FakeMultica
from tests.fakes.work_places import FakeOpenClaw, connect

pytestmark = pytest.mark.usefixtures("logs_left_as_they_were")

WORK = "multica:ENG-1"


@dataclass
class Desk:
    """A company of a developer and a coo with heartbeats, and the command line of its home."""

    home: Path
    database_url: str
    capsys: pytest.CaptureFixture[str]
    code: int = 0
    err: str = ""

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What a command said; it must end with that code."""
        self.capsys.readouterr()
        self.code = run(list(arguments))
        out, self.err = self.capsys.readouterr()
        assert self.code == code, f"{arguments}: {self.code} {out} {self.err}"
        return out

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))

    def inside(self, do: Callable[[House], Any]) -> None:
        """Something that the desk has done before."""

        async def opened() -> None:
            async with open_house(settings_of(self.home, self.database_url)) as house:
                await do(house)

        asyncio.run(opened())


@pytest.fixture
def desk(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    for name, value in (environment(tmp_path, database_url) | {"QUARTERDECK_SOURCE_SPACING": "0"}).items():
        monkeypatch.setenv(name, value)
    made = Desk(tmp_path, database_url, capsys)
    made.inside(lambda house: _enrol(house, tmp_path / "workspace"))
    return made


async def _enrol(house: House, workspace: Path, scheduler: str = "prefect", many: int = 0) -> None:
    workspace.mkdir(exist_ok=True)
    (workspace / "TODO.md").write_text("- [ ] Fix the login\n")
    developer = {"category": "development", "workspace": str(workspace), "scheduler": scheduler}
    beats = {"developer": developer, "coo": {"category": "high-frequency", "patrol": "alerts"}}
    beats |= {f"colleague-{number}": {"category": "business"} for number in range(many)}
    agents = [{"slug": slug, "parameters": {"program": "sh"}, "heartbeat": b} for slug, b in beats.items()]
    await house.crew.import_roster(Roster.model_validate({"agents": agents}), {})


async def _hold_back(house: House) -> None:
    async with house.database.command("hold back") as unit:
        row = Work(source="multica", ref="ENG-1", agent="developer", title="Fix the login", rounds=30)
        row.breaker, row.broken_at, row.updated_at = "30 of 30 rounds are used", unit.now, unit.now
        unit.session.add(row)


def test_an_agent_is_swept_now_and_what_was_found_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = desk("heartbeat", "developer")
    assert "developer: worked" in shown and "Started" in shown
    assert "documents TODO.md:1 ? Fix the login" in shown
    swept = desk.json("heartbeat", "check", "developer")
    assert (swept["agent"], swept["cause"], swept["started"]) == ("developer", "by hand", 0)
    assert {name: state["state"] for name, state in swept["sources"].items()} == {
        "board": "ok",
        "workboard": "not configured",
        "multica": "not configured",
        "documents": "ok",
        "plane": "not configured",
    }
    monkeypatch.setenv("OPENCLAW_SHELL", "exec")
    assert desk.json("heartbeat", "developer")["cause"] == "openclaw", "a turn of OpenClaw's ran it"
    desk("heartbeat", "nobody", code=1)
    assert "coo, developer" in desk.err and "Traceback" not in desk.err


def test_health_is_json_and_its_exit_code_says_whether_the_heartbeat_can_work(desk: Desk) -> None:
    well = json.loads(desk("heartbeat", "developer", "--health"))
    assert (well["ok"], well["roster"]["ok"], well["lock"]["held"]) == (True, True, False)
    assert {"openclaw", "multica"} == set(well["programs"])
    assert json.loads(desk("heartbeat", "health", "developer"))["agent"] == "developer"
    (desk.home / "workspace" / "AGENTS.md").write_text("x" * 6000)
    ill = json.loads(desk("heartbeat", "developer", "--health", code=1))
    assert not ill["ok"] and "AGENTS.md" in ill["context"][0]
    desk("heartbeat", "nobody", "--health", code=1)
    assert "coo, developer" in desk.err


async def _enrol_the_example(house: House, openclaw: FakeOpenClaw, multica: FakeMultica) -> None:
    roster = read_roster(EXAMPLES / "company.yaml", complaints)
    await house.crew.import_roster(roster, {})
    await connect(house, "openclaw_cli", openclaw.connection)
    await connect(house, "multica", multica.connection("cli"))


def test_the_heartbeat_of_every_agent_of_the_example_can_work(desk: Desk, tmp_path: Path) -> None:
    with FakeMultica(tmp_path / "multica") as multica:
        desk.inside(lambda house: _enrol_the_example(house, FakeOpenClaw(tmp_path / "openclaw"), multica))
        agents = [card["agent"] for card in desk.json("heartbeat", "list")["items"]]
        found = [json.loads(desk("heartbeat", agent, "--health")) for agent in agents]
    assert len(agents) == 15 and [one["agent"] for one in found] == agents
    assert all(one["ok"] and one["workspace_id"]["ok"] and one["roster"]["ok"] for one in found)
    programs = {name: str(tmp_path / name / "bin" / name) for name in ("openclaw", "multica")}
    shown = [{name: found["path"] for name, found in one["programs"].items()} for one in found]
    assert shown == [programs] * 15


def test_heartbeats_are_listed_with_their_times(desk: Desk) -> None:
    desk("heartbeat", "coo")
    cards = {card["agent"]: card for card in desk.json("heartbeat", "list")["items"]}
    assert cards["coo"]["last"]["agent"] == "coo" and cards["developer"]["last"] is None
    shown = desk("heartbeat", "list")
    assert "developer" in shown and "/15 * * * *" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_held_back_work_is_freed_given_more_rounds_and_allowed(desk: Desk) -> None:
    desk.inside(_hold_back)
    assert WORK in desk("heartbeat", "list")
    desk("heartbeat", "limit", "developer", WORK, "30", code=2)
    assert "30 rounds are used already" in desk.err
    assert desk("heartbeat", "limit", "developer", WORK, "40").strip() == f"{WORK} may take 40 rounds."
    assert [c["breakers"] for c in desk.json("heartbeat", "list")["items"]] == [[], []]
    assert desk("heartbeat", "unblock", "developer", WORK).strip() == f"{WORK} goes on."
    assert desk("heartbeat", "allow", "developer", WORK).strip() == f"{WORK} may begin."
    desk("heartbeat", "unblock", "developer", "multica:ENG-9", code=1)
    assert WORK in desk.err


def test_heartbeat_md_is_written_only_when_that_is_said(desk: Desk) -> None:
    file = desk.home / "workspace" / "HEARTBEAT.md"
    assert "Nothing was written" in desk("heartbeat", "render") and not file.exists()
    done = {item["agent"]: item for item in desk.json("heartbeat", "render", "--apply")["items"]}
    assert (done["developer"]["outcome"], done["developer"]["path"]) == ("write", str(file))
    assert done["developer"]["bytes"] == len(file.read_bytes()) < 5 * 1024
    again = {item["agent"]: item for item in desk.json("heartbeat", "render", "--apply")["items"]}
    assert again["developer"]["outcome"] == "same"


def test_automations_are_changed_only_when_that_is_said(desk: Desk, tmp_path: Path) -> None:
    openclaw = FakeOpenClaw(tmp_path / "openclaw")

    async def connected(house: House) -> None:
        await connect(house, "openclaw_cli", openclaw.connection)
        await _enrol(house, tmp_path / "workspace", "openclaw")

    desk.inside(connected)
    planned = desk("heartbeat", "cron")
    assert "create" in planned and "Nothing was changed" in planned and openclaw.jobs == []
    assert [item["step"] for item in desk.json("heartbeat", "cron", "--apply")["items"]] == ["create"]
    assert [job["agentId"] for job in openclaw.jobs] == ["developer"]


def test_a_source_is_tried_and_the_exit_code_says_whether_it_answers(desk: Desk) -> None:
    tried = desk.json("heartbeat", "test", "documents")
    assert (tried["ok"], tried["found"], tried["of_agents"]) == (True, 1, 1)
    assert "not configured" in desk("heartbeat", "test", "workboard", code=1)
    desk("heartbeat", "test", "nonsense", code=1)
    assert "workboard" in desk.err and "documents" in desk.err


# Status


def test_status_of_a_large_company_fits_a_hundred_columns_and_tells_sources_in_one_line(
    desk: Desk, tmp_path: Path
) -> None:
    desk.inside(lambda house: _enrol(house, tmp_path / "workspace", many=13))
    assert "Sources: not looked into yet." in desk("status").splitlines()
    desk("heartbeat", "developer")
    shown = desk("status").splitlines()
    assert [line for line in shown if len(line) > 100 and str(tmp_path) not in line] == []
    assert [line for line in shown if "Sources" in line] == [
        "Sources: ok: board, documents; not connected: multica, plane, workboard."
    ]
    assert sum(line.strip().startswith(("colleague-", "coo ", "developer ")) for line in shown) == 15


def test_status_names_what_stands_still_is_held_back_or_cannot_be_asked(desk: Desk) -> None:
    async def troubled(house: House) -> None:
        await _hold_back(house)
        wrong = {"program": "/nowhere/openclaw"}
        async with house.database.command("connect") as unit:
            await house.connections.put(unit, "openclaw_cli", "default", wrong, Source.API)

    desk.inside(troubled)
    (desk.home / "workspace" / "TODO.md").write_text("- [ ] Fix\n")
    desk("heartbeat", "developer")
    shown = desk("status")
    assert "developer: held back multica:ENG-1: 30 of 30 rounds are used" in shown.splitlines()
    assert "1 held back" in shown and "degraded" in shown
    assert "Sources: ok: board, documents; missing: workboard; not connected: multica, plane." in shown
    found = {beat["agent"]: beat for beat in desk.json("status")["heartbeats"]}
    assert found["developer"]["sources"]["workboard"] == "missing"
    assert found["developer"]["held_back"] == ["multica:ENG-1: 30 of 30 rounds are used"]
